package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// feedRun publishes n jobs from seq on in one message.
func (o *owner) feedRun(seq uint64, n int) {
	o.t.Helper()
	var data []byte
	for i := range n {
		data = append(data, o.job(seq+uint64(i))...)
	}
	o.feedMsg(&nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, seq, n), Data: data})
}

// queuedSubject reports whether a job is queued at a subject.
func (o *owner) queuedSubject(seq uint64, try int) bool {
	o.t.Helper()
	jobs, err := o.js.Stream(o.t.Context(), topology.JobsStream)
	if err != nil {
		o.t.Fatal(err)
	}
	_, err = jobs.GetLastMsgForSubject(o.t.Context(), wire.JobSubject(o.kind(), o.batcher, o.gen, seq, try))
	return err == nil
}

// TestRunIsAckedWhole lets all jobs of a run but one end: the run is queued until that one has ended, too.
func TestRunIsAckedWhole(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	until := make(chan struct{})
	w, _ := start(t, s, Config{Slots: 2}, nil, define("data", func(ctx context.Context, n int) (schema.Batch, error) {
		if n == 2 {
			<-until
		}
		return values(n, 1)
	}))
	o.feedRun(1, 5)
	natstest.Eventually(t, "all but one are done", func() bool { return w.Status().Done == 4 })
	if o.queued() != 1 {
		t.Fatal("the run is acked before its last job has ended")
	}
	close(until)
	o.waitEmpty()
	for seq := uint64(1); seq <= 5; seq++ {
		if r, _ := o.result(seq); r.Deliveries != 1 {
			t.Fatalf("result %d: %+v", seq, r)
		}
	}
}

// TestRunIsSeparated hands out a run a second time: its jobs are queued one by one before it goes, so that one that is
// at fault is found by itself.
func TestRunIsSeparated(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	o.feedRun(1, 4)
	o.deliver(1, 1)
	var ran atomic.Int64
	start(t, s, Config{Slots: 1}, nil, define("data", func(_ context.Context, n int) (schema.Batch, error) {
		ran.Add(1)
		return values(n, 1)
	}))
	o.waitEmpty()
	for seq := uint64(1); seq <= 4; seq++ {
		if r, _ := o.result(seq); r.Deliveries != 1 {
			t.Fatalf("result %d is of delivery %d: the job is one of its own", seq, r.Deliveries)
		}
	}
	if ran.Load() != 4 {
		t.Fatalf("%d executions of 4 jobs", ran.Load())
	}
}

// TestWaitingJobsLeaveTheirRun drains a worker that has begun with one job of a run: the others are queued by
// themselves.
func TestWaitingJobsLeaveTheirRun(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	until, running := make(chan struct{}), new(atomic.Int64)
	_, stop := start(t, s, Config{Slots: 1}, nil, stuck("data", 1, until, running))
	o.feedRun(1, 3)
	natstest.Eventually(t, "the first job runs", func() bool { return running.Load() == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	natstest.Eventually(t, "the others are queued by themselves", func() bool {
		return o.queuedSubject(2, wire.TryFirst) && o.queuedSubject(3, wire.TryFirst)
	})
	if !o.queuedSubject(1, 3) || o.queuedSubject(1, wire.TryFirst) {
		t.Fatal("the run ended with a job that runs")
	}
	close(until)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the run is acked", func() bool { return !o.queuedSubject(1, 3) })
	if o.queued() != 2 {
		t.Fatalf("%d messages are queued", o.queued())
	}
}

// TestDamagedRun stands for a run that cannot be read: it is none that the owner queued, and gets out of the way.
func TestDamagedRun(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	start(t, s, Config{Slots: 1}, nil, define("data", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	for name, data := range map[uint64][]byte{
		10: o.job(10),                                  // one of two
		20: append(o.job(20), o.job(22)...),            // not consecutive
		30: append(append(o.job(30), o.job(31)...), 0), // and more
	} {
		o.feedMsg(&nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, name, 2), Data: data})
		o.waitEmpty()
		if o.stored(wire.ResultSubject(o.batcher, o.gen, name)) != nil {
			t.Errorf("it has made result %d", name)
		}
	}
}

// TestRunHeartbeat keeps a run for longer than AckWait: it is heartbeat once a tick, and is nobody else's meanwhile.
func TestRunHeartbeat(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "data")
	w, _ := start(t, s, Config{Slots: 4}, nil, define("data", func(ctx context.Context, n int) (schema.Batch, error) {
		select {
		case <-time.After(topology.AckWait * 3 / 2):
		case <-ctx.Done():
		}
		return values(n, 1)
	}))
	o.feedRun(1, 4)
	o.waitEmpty()
	if st := w.Status(); st.Done != 4 {
		t.Fatalf("status %+v", st)
	}
	for seq := uint64(1); seq <= 4; seq++ {
		if r, _ := o.result(seq); r.Deliveries != 1 {
			t.Fatalf("result %d: delivery %d", seq, r.Deliveries)
		}
	}
}
