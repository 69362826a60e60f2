package worker

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// backUp publishes the second job of seq.
func (o *owner) backUp(seq uint64) {
	o.t.Helper()
	o.feedMsg(&nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, seq, 1), Data: o.job(seq)})
}

// stuck is a data set whose batches of so many values are held up until the channel is closed.
func stuck(name string, size int, until chan struct{}, running *atomic.Int64) dataset.Definition {
	return define(name, func(ctx context.Context, n int) (schema.Batch, error) {
		running.Add(1)
		select {
		case <-until:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return values(n, size)
	})
}

func TestBackupRunsOnAnotherWorker(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"inline": 1, "chunked": wire.ChunkSize} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Run(t)
			o := newOwner(t, s, "train", "data")
			until, slow, quick := make(chan struct{}), new(atomic.Int64), make(chan struct{})
			close(quick)
			start(t, s, Config{Name: "slow", Slots: 2}, nil, stuck("data", size, until, slow))
			o.feed(1, 1)
			natstest.Eventually(t, "the job runs", func() bool { return slow.Load() == 1 })
			_, stopQuick := start(t, s, Config{Name: "quick", Slots: 1}, nil, stuck("data", size, quick, new(atomic.Int64)))
			o.backUp(1)
			r, _ := o.result(1)
			if r.Worker != "quick" {
				t.Fatalf("the first result is of worker %s", r.Worker)
			}
			natstest.Eventually(t, "the backup is acked", func() bool { return o.queued() == 1 })
			close(until)
			o.waitEmpty()
			if err := stopQuick(); err != nil {
				t.Fatal(err)
			}
			if after, _ := o.result(1); after.Attempt != r.Attempt || slow.Load() != 1 {
				t.Fatalf("the result is of attempt %s, was of %s; the slow worker began %d times", after.Attempt, r.Attempt, slow.Load())
			}
			natstest.Eventually(t, "the chunks of the refused attempt are gone", func() bool {
				stream, err := o.js.Stream(t.Context(), topology.ResultsStream(o.batcher, o.gen))
				if err != nil {
					return false
				}
				info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(wire.ResultSubject(o.batcher, o.gen, 1)+".>"))
				return err == nil && len(info.State.Subjects) == int(r.Chunks)
			})
		})
	}
}

func TestBackupThatNobodyHasUseForIsLetGo(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	until, running := make(chan struct{}), new(atomic.Int64)
	start(t, s, Config{Slots: 2}, nil, stuck("data", 1, until, running))
	o.feed(1, 1)
	natstest.Eventually(t, "the job runs", func() bool { return running.Load() == 1 })
	o.backUp(1)
	natstest.Eventually(t, "the backup is gone", func() bool { return o.queued() == 1 })
	o.feed(2, 2)
	natstest.Eventually(t, "the other slot is free for other jobs", func() bool { return running.Load() == 2 })
	close(until)
	o.waitEmpty()
	if r, _ := o.result(1); r.Deliveries != 1 {
		t.Fatalf("the job was handed out %d times", r.Deliveries)
	}
}
