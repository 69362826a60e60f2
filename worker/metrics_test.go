package worker

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	reg := prometheus.NewPedanticRegistry()
	var tries atomic.Int32
	w, stop := start(t, s, Config{Name: "w1", Slots: 3, Attempts: 2, Registerer: reg},
		func(w *Worker) { w.exec.sleep = func(context.Context, time.Duration) error { return nil } },
		define("plain", func(_ context.Context, n int) (schema.Batch, error) {
			switch {
			case n == 2:
				return nil, dataset.Skip("too short")
			case n == 3 && tries.Add(1) == 1:
				return nil, errors.New("passing")
			case n == 4:
				return nil, dataset.Permanent(errors.New("broken"))
			}
			return values(n, 8)
		}))
	o.feed(1, 4)
	o.waitEmpty()
	natstest.Eventually(t, "all are counted", func() bool { return w.Status().Done == 4 })
	if err := w.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	want := strings.NewReader(`
# HELP jetbatch_worker_jobs_total Jobs with a stored result, by its kind: batch, hole or error.
# TYPE jetbatch_worker_jobs_total counter
jetbatch_worker_jobs_total{dataset="plain",result="batch",worker="w1"} 2
jetbatch_worker_jobs_total{dataset="plain",result="error",worker="w1"} 1
jetbatch_worker_jobs_total{dataset="plain",result="hole",worker="w1"} 1
# HELP jetbatch_worker_retries_total Attempts after the first of a job.
# TYPE jetbatch_worker_retries_total counter
jetbatch_worker_retries_total{dataset="plain",worker="w1"} 1
# HELP jetbatch_worker_slots Jobs that can run at a time; 0 while the worker drains.
# TYPE jetbatch_worker_slots gauge
jetbatch_worker_slots{worker="w1"} 3
`)
	if err := testutil.GatherAndCompare(reg, want, "jetbatch_worker_jobs_total", "jetbatch_worker_retries_total", "jetbatch_worker_slots"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "jetbatch_worker_stage_seconds"); n != 3 || err != nil {
		t.Errorf("%d stages, %v", n, err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if len(problems) > 0 || err != nil {
		t.Error(problems, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(reg); n != 0 || err != nil {
		t.Errorf("%d metrics of a worker that ended, %v", n, err)
	}
	if !errors.Is(w.Ready(), ErrNotRunning) || !errors.Is(w.Live(), ErrNotRunning) {
		t.Errorf("ready %v, live %v", w.Ready(), w.Live())
	}
}

func TestTraceReachesMaterialize(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	got := make(chan string, 2)
	start(t, s, Config{Name: "w1", Slots: 1}, nil, define("plain", func(ctx context.Context, n int) (schema.Batch, error) {
		got <- dataset.TraceParent(ctx)
		return values(n, 1)
	}))
	for seq, header := range []string{trace, "not-" + trace} {
		n := uint64(seq + 1)
		o.feedMsg(&nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, n, 0), Data: o.job(n), Header: nats.Header{wire.TraceHeader: []string{header}}})
	}
	o.waitEmpty()
	if first, second := <-got, <-got; first != trace || second != "" {
		t.Errorf("Materialize saw %q and %q", first, second)
	}
	if h := o.stored(wire.ResultSubject(o.batcher, o.gen, 2)).Header.Get(wire.TraceHeader); h != "" {
		t.Errorf("a malformed trace context went on: %q", h)
	}
}

// A worker whose slots are all lost is of no use until they come back.
func TestNotLiveWithoutSlots(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "hung")
	var calls atomic.Int64
	release := make(chan struct{})
	w, _ := start(t, s, Config{Slots: 1, JobTimeout: 50 * time.Millisecond}, func(w *Worker) {
		w.tick, w.lostAfter = 20*time.Millisecond, 50*time.Millisecond
	}, define("hung", func(_ context.Context, n int) (schema.Batch, error) {
		if calls.Add(1) == 1 {
			<-release
		}
		return values(n, 1)
	}))
	if err := w.Live(); err != nil {
		t.Errorf("live: %v", err)
	}
	o.feed(1, 1)
	natstest.Eventually(t, "the only slot is lost", func() bool { return errors.Is(w.Live(), ErrNoSlots) && errors.Is(w.Ready(), ErrNoSlots) })
	close(release)
	natstest.Eventually(t, "the slot is back", func() bool { return w.Ready() == nil })
	o.waitEmpty()
}
