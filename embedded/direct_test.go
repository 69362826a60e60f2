package embedded_test

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

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
			svc, err := embedded.Start(t.Context(), embedded.Config{Listen: listen, Workers: 3, Slots: 2}, definition())
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
			p, reg := testset.Params{Size: 3 << 20}, prometheus.NewRegistry()
			b, err := client.Open[schema.Batch](t.Context(), nc, client.Config{
				Name: "train", Dataset: "toy", Params: p, Registerer: reg, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			o := oracle(t, p)
			for i := range 60 {
				if i == 20 || i == 40 { // with payloads that nobody has fetched yet
					if err := svc.KillWorker(map[int]string{20: "embedded-1", 40: "embedded-2"}[i]); err != nil {
						t.Fatal(err)
					}
				}
				take(t, b, o)
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

// A reader that wants none of it has every large batch by way of the store.
func TestNoDirect(t *testing.T) {
	t.Parallel()
	svc := start(t, embedded.Config{Slots: 2})
	p, reg := testset.Params{Size: 1 << 20}, prometheus.NewRegistry()
	b := open(t, svc, p, func(cfg *client.Config) { cfg.NoDirect, cfg.Registerer = true, reg })
	defer b.Close()
	o := oracle(t, p)
	for range 20 {
		take(t, b, o)
	}
	if direct, stored := fetched(t, reg, "worker"), fetched(t, reg, "store"); direct > 0 || stored < 20 {
		t.Errorf("%v batches came straight from their workers, and %v by way of the store", direct, stored)
	}
}
