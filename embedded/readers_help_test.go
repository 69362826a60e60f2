package embedded_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// counted is the data set of rows that counts how often a batch was made.
type counted struct {
	*rows
	made *atomic.Int64
}

func (s counted) Materialize(ctx context.Context, j rowsJob) (schema.Batch, error) {
	s.made.Add(1)
	return s.rows.Materialize(ctx, j)
}

func countedDefinition(made *atomic.Int64) dataset.Definition {
	return dataset.Define("rows", func(_ context.Context, p rowsParams) (counted, error) {
		return counted{&rows{p}, made}, nil
	})
}

// readers is a service with several readers of one batcher.
type readers struct {
	t    *testing.T
	nc   *nats.Conn
	p    rowsParams
	made atomic.Int64
}

func newReaders(t *testing.T, p rowsParams) *readers {
	t.Helper()
	t.Parallel()
	r := &readers{t: t, p: p}
	svc, err := embedded.Start(context.Background(), embedded.Config{Logger: slog.New(slog.DiscardHandler)},
		countedDefinition(&r.made))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.Close(); err != nil {
			t.Error(err)
		}
	})
	r.nc = svc.Conn()
	return r
}

// follower is one of the readers, held against the reference with every step.
type follower struct {
	*batcher
	t     *testing.T
	name  string
	ref   *dataset.Reference[schema.Batch]
	state schema.State
	taken int
}

func (r *readers) config(name string, change ...func(*client.Config)) client.Config {
	cfg := client.Config{
		Name: "train", Dataset: "rows", Params: r.p, Reader: name, Window: 8, Lag: 24, Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	return cfg
}

func (r *readers) open(name string, change ...func(*client.Config)) *follower {
	r.t.Helper()
	b, err := client.Open[schema.Batch](r.t.Context(), r.nc, r.config(name, change...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = b.Close() }) // those that are superseded cannot leave
	ref, err := dataset.SequentialOf[schema.Batch](r.t.Context(), rowsDefinition(), r.p)
	if err != nil {
		r.t.Fatal(err)
	}
	return &follower{batcher: b, t: r.t, name: name, ref: ref}
}

// step takes one batch, which must be the reference's.
func (f *follower) step() error {
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	got, err := f.Take(ctx, f.state)
	if err != nil {
		return err
	}
	want, err := f.ref.Take(ctx, f.state)
	if err != nil {
		return fmt.Errorf("%s: a batch after %d, where the reference has none: %w", f.name, f.taken, err)
	}
	if !got.Next.Equal(want.Next) || !got.Prev.Equal(want.Prev) && !f.state.IsZero() || len(got.Batch) != len(want.Batch) {
		return fmt.Errorf("%s: step %d leads from %v to %v, not to %v", f.name, f.taken, got.Prev, got.Next, want.Next)
	}
	for i := range want.Batch {
		if !bytes.Equal(got.Batch[i].Tensor.Data, want.Batch[i].Tensor.Data) {
			return fmt.Errorf("%s: step %d: tensor %s has other bytes", f.name, f.taken, want.Batch[i].Name)
		}
	}
	f.state = got.Next
	f.taken++
	got.Release()
	return nil
}

// try takes n batches; in any goroutine.
func (f *follower) try(n int) (err error) {
	for i := 0; i < n && err == nil; i++ {
		err = f.step()
	}
	return err
}

// steps takes n batches.
func (f *follower) steps(n int) {
	f.t.Helper()
	if err := f.try(n); err != nil {
		f.t.Fatalf("%s, after %d batches: %v", f.name, f.taken, err)
	}
}

// rest takes all that is left, up to the end of the data.
func (f *follower) rest() {
	f.t.Helper()
	var err error
	for err == nil {
		err = f.step()
	}
	if want := batchesOf(f.ref); err != io.EOF || f.taken != want {
		f.t.Fatalf("%s ended after %d of %d batches: %v", f.name, f.taken, want, err)
	}
}

// batchesOf counts the batches of a reference.
func batchesOf(ref *dataset.Reference[schema.Batch]) (n int) {
	var state schema.State
	for {
		step, err := ref.Take(context.Background(), state)
		if err != nil {
			return n
		}
		state = step.Next
		n++
	}
}

func (f *follower) status() schema.Status {
	f.t.Helper()
	s, err := f.Status(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// statusOf asks for the status of any batcher; its phase is empty where there is none.
func (r *readers) statusOf(name string) schema.Status {
	r.t.Helper()
	body, err := json.Marshal(wire.StatusRequest{Batcher: name})
	if err != nil {
		r.t.Fatal(err)
	}
	var reply wire.StatusReply
	m, err := r.nc.Request(wire.CoordinatorPrefix+".status", body, 5*time.Second)
	if err == nil {
		err = json.Unmarshal(m.Data, &reply)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return reply.Status
}
