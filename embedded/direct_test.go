package embedded_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// blocks yields batches of Size bytes that begin with their number and end with it.
type blocks struct {
	Size int `json:"size"`
}

func (b blocks) Start() (uint64, error)                      { return 0, nil }
func (b blocks) Next(i uint64) (job, next uint64, err error) { return i, i + 1, nil }

func (b blocks) Materialize(_ context.Context, i uint64) ([]byte, error) {
	block := make([]byte, b.Size)
	binary.BigEndian.PutUint64(block, i)
	binary.BigEndian.PutUint64(block[b.Size-8:], i)
	return block, nil
}

// fetched says by way of a reader's metrics where its payloads came from.
func fetched(t *testing.T, reg *prometheus.Registry, from string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == "jetbatch_client_payloads_total" && l.GetName() == "from" && l.GetValue() == from {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	t.Fatal("no such metric")
	return 0
}

// TestLargeBatches compares batches that come straight from workers, some of which are killed, with the reference.
func TestLargeBatches(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]string{"by TCP": "127.0.0.1:0", "in process": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			def := dataset.Define("blocks", func(_ context.Context, b blocks) (blocks, error) { return b, nil })
			svc, err := embedded.Start(t.Context(), embedded.Config{Listen: listen, Workers: 3, Slots: 2}, def)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := svc.Close(); err != nil {
					t.Error(err)
				}
			}()
			nc := svc.Conn()
			if listen != "" {
				if nc, err = client.Connect(svc.URL()); err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
			}
			params, reg := blocks{3 << 20}, prometheus.NewRegistry()
			b, err := client.Open[[]byte](t.Context(), nc, client.Config{
				Name: "train", Dataset: "blocks", Params: params, Registerer: reg, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			reference := dataset.Sequential(params)
			var state schema.State
			for i := range 60 {
				if i == 20 || i == 40 { // with payloads that nobody has fetched yet
					if err := svc.KillWorker(map[int]string{20: "embedded-1", 40: "embedded-2"}[i]); err != nil {
						t.Fatal(err)
					}
				}
				want, err := reference.Take(t.Context(), state)
				if err != nil {
					t.Fatal(err)
				}
				got, err := b.Take(t.Context(), state)
				if err != nil {
					t.Fatalf("batch %d: %v", i, err)
				}
				if !bytes.Equal(got.Batch, want.Batch) || !bytes.Equal(got.Next.Data, want.Next.Data) {
					t.Fatalf("batch %d differs", i)
				}
				state = got.Next
				got.Release()
			}
			if direct := fetched(t, reg, "worker"); direct < 50 {
				t.Errorf("%v of 60 batches came straight from their workers", direct)
			}
			if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
				t.Errorf("metrics: %v, %v", problems, err)
			}
		})
	}
}
