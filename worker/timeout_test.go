package worker

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A job that may take for ever is not cut off.
func TestEndlessTimeouts(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	var worker atomic.Pointer[Worker]
	w, stop := start(t, s, Config{JobTimeout: math.MaxInt64, DrainTimeout: math.MaxInt64}, nil,
		define("data", func(ctx context.Context, n int) (schema.Batch, error) {
			worker.Load().heartbeat()
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			return values(n, 1)
		}))
	worker.Store(w)
	o.feed(1, 1)
	natstest.Eventually(t, "the job is done", func() bool { return w.Status().Done == 1 })
	if r, _ := o.result(1); r.Kind != wire.KindBatch {
		t.Errorf("result %+v", r)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A job that always runs into its deadline is called that, after three lone executions, by what its workers saw.
func TestDeadlineIsADeadline(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(ctx context.Context, release <-chan struct{}) error{
		"context": func(ctx context.Context, _ <-chan struct{}) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"clock": func(ctx context.Context, _ <-chan struct{}) error { // as clients of networks do
			at, _ := ctx.Deadline()
			<-time.After(time.Until(at))
			return errors.New("i/o timeout")
		},
		"hung": func(_ context.Context, release <-chan struct{}) error {
			<-release
			return errors.New("too late")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Run(t)
			o := newOwner(t, s, "train", "slow")
			release := make(chan struct{})
			t.Cleanup(func() { close(release) })
			var calls atomic.Int64
			def := define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
				if n == 1 {
					calls.Add(1)
					return nil, run(ctx, release)
				}
				return values(n, 1)
			})
			var mu sync.Mutex
			var twice string
			workers := map[string]*Worker{}
			for _, name := range []string{"a", "b", "c"} {
				workers[name], _ = start(t, s, Config{Name: name, Slots: 3, JobTimeout: 300 * time.Millisecond, Attempts: 1, DrainTimeout: time.Millisecond}, func(w *Worker) {
					w.tick = 20 * time.Millisecond
				}, def)
			}
			o.feed(1, 1)
			natstest.Eventually(t, "the job is judged", func() bool {
				mu.Lock()
				defer mu.Unlock()
				for _, w := range workers {
					if text := w.Status().LastError; strings.Contains(text, "twice") {
						twice = text
					}
				}
				return o.stored(wire.ResultSubject(o.batcher, o.gen, 1)) != nil
			})
			r, _ := o.result(1)
			if r.Kind != wire.KindError || r.Fault.Code != schema.CodeJobTimeout || calls.Load() != 3 {
				t.Fatalf("%d executions; fault %+v", calls.Load(), r.Fault)
			}
			if !strings.HasPrefix(r.Fault.Message, "took over 300ms three times, on ") || !strings.HasSuffix(r.Fault.Message, "; raise JobTimeout or make the job smaller") {
				t.Errorf("fault %q", r.Fault.Message)
			}
			if !strings.HasPrefix(twice, "job 1 of train ran into its deadline of 300ms twice, on ") {
				t.Errorf("status meanwhile: %q", twice)
			}
			o.feed(2, 2)
			if r, _ := o.result(2); r.Kind != wire.KindBatch {
				t.Errorf("result %+v", r)
			}
		})
	}
}

// A deadline that a job met beside others does not speak against it: it runs alone next, which is three times more.
func TestDeadlineBesideOthersConvictsNobody(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "slow")
	var calls, running, together atomic.Int64
	both := make(chan struct{})
	start(t, s, Config{Slots: 4, JobTimeout: 300 * time.Millisecond}, func(w *Worker) { w.tick = 20 * time.Millisecond },
		define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
			now := running.Add(1)
			defer running.Add(-1)
			if n == 2 {
				<-both
				return values(n, 1)
			}
			if n > 2 {
				return values(n, 1)
			}
			if calls.Add(1) > 1 && now > 1 {
				together.Add(1)
			}
			if calls.Load() == 1 {
				defer close(both)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	o.feed(1, 2)
	natstest.Eventually(t, "the job was cut off beside another", func() bool { return calls.Load() >= 2 })
	o.feed(3, 20)
	r, _ := o.result(1)
	if r.Kind != wire.KindError || r.Fault.Code != schema.CodeJobTimeout || calls.Load() != 4 || together.Load() != 0 {
		t.Fatalf("%d executions, %d of them beside others after the first; fault %+v", calls.Load(), together.Load(), r.Fault)
	}
	o.waitEmpty()
}

// What the worker that ran a job second needs to know, the first has left: a job that is only slow once is a batch.
func TestOneDeadlineIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "slow")
	var calls atomic.Int64
	w, _ := start(t, s, Config{Slots: 2, JobTimeout: 200 * time.Millisecond}, func(w *Worker) { w.tick = 20 * time.Millisecond },
		define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
			if calls.Add(1) <= 2 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return values(n, 1)
		}))
	o.feed(1, 1)
	if r, _ := o.result(1); r.Kind != wire.KindBatch || calls.Load() != 3 {
		t.Fatalf("%d executions, result %+v", calls.Load(), r)
	}
	if text := w.Status().LastError; !strings.Contains(text, "twice") {
		t.Errorf("status %q", text)
	}
}

// A worker on which every job hangs, since its machine does, runs each once: the rest is for the others to try.
func TestDeadlineIsTriedElsewhere(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "nfs")
	o.company(2)
	var ran atomic.Int64
	start(t, s, Config{Name: "stuck", Slots: 1, JobTimeout: 100 * time.Millisecond}, func(w *Worker) { w.tick = 20 * time.Millisecond },
		define("nfs", func(ctx context.Context, _ int) (schema.Batch, error) {
			ran.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	o.feed(1, 3)
	natstest.Eventually(t, "every job has hung", func() bool { return ran.Load() == 3 })
	natstest.Eventually(t, "the last is marked", func() bool {
		n := 0
		for seq := uint64(1); seq <= 3; seq++ {
			if o.stored(wire.TimeoutSubject(o.batcher, o.gen, seq, 1)) != nil {
				n++
			}
		}
		return n == 3
	})
	start(t, s, Config{Name: "whole", Slots: 1}, nil, define("nfs", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	o.waitEmpty()
	for seq := uint64(1); seq <= 3; seq++ {
		if r, _ := o.result(seq); r.Kind != wire.KindBatch || r.Worker != "whole" {
			t.Errorf("result %+v, %v", r, r.Fault)
		}
	}
	if ran.Load() != 3 {
		t.Errorf("the stuck worker ran %d jobs", ran.Load())
	}
}
