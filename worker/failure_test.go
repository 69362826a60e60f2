package worker

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// TestErrors runs one job per way to fail and looks at the record and at the waits between attempts.
func TestErrors(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	boom := errors.New("boom")
	for name, test := range map[string]struct {
		f        func(call int) error
		kind     wire.Kind
		attempts int
		runs     int // of the only worker there is
		message  string
		stack    bool
	}{
		"always":    {func(int) error { return boom }, wire.KindError, 5, 2, "boom", false},
		"twice":     {func(call int) error { return map[bool]error{true: boom}[call <= 2] }, wire.KindBatch, 3, 1, "", false},
		"permanent": {func(int) error { return dataset.Permanent(boom) }, wire.KindError, 1, 1, "boom", false},
		"skip":      {func(int) error { return dataset.Skip("no labels") }, wire.KindHole, 1, 1, "no labels", false},
		"panic":     {func(int) error { panic("ouch") }, wire.KindError, 5, 2, "panic: ouch", true},
		"goexit":    {func(int) error { runtime.Goexit(); return nil }, wire.KindError, 1, 2, "ended its goroutine", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t, s, name, name)
			var calls atomic.Int64
			var mu sync.Mutex
			var waits []time.Duration
			var said logged
			w, _ := start(t, s, Config{Slots: 1, Logger: slog.New(slog.NewTextHandler(&said, nil))}, func(w *Worker) {
				w.exec.sleep = func(_ context.Context, d time.Duration) error {
					mu.Lock()
					defer mu.Unlock()
					waits = append(waits, d)
					return nil
				}
			}, define(name, func(_ context.Context, n int) (schema.Batch, error) {
				if err := test.f(int(calls.Add(1))); err != nil {
					return nil, err
				}
				return values(n, 1)
			}))
			o.feed(1, 1)
			r, _ := o.result(1)
			if r.Kind != test.kind || calls.Load() != int64(test.runs*test.attempts) {
				t.Fatalf("%v after %d calls, want %v after %d", r.Kind, calls.Load(), test.kind, test.runs*test.attempts)
			}
			if test.kind != wire.KindBatch && !strings.Contains(r.Fault.Message, test.message) {
				t.Fatalf("fault %+v", r.Fault)
			}
			if test.kind == wire.KindError && (r.Fault.Code != schema.CodeMaterialize || r.Fault.Attempts != test.attempts || r.Fault.Seq != 1 || len(r.Next) != 0) {
				t.Fatalf("fault %+v, state after %x", r.Fault, r.Next)
			}
			if test.kind == wire.KindHole && len(r.Next) == 0 {
				t.Fatal("a hole without a state after it")
			}
			if test.stack != (r.Fault != nil && strings.Contains(r.Fault.Stack, "failure_test.go")) {
				t.Fatalf("fault %+v", r.Fault)
			}
			mu.Lock()
			for i, d := range waits {
				want := []time.Duration{50 * time.Millisecond, 250 * time.Millisecond, 1250 * time.Millisecond, 6250 * time.Millisecond}[i%4]
				if d < want*9/10 || d > want*11/10 {
					t.Errorf("wait %d is %v, want %v give or take a tenth", i, d, want)
				}
			}
			if len(waits) != test.runs*(test.attempts-1) {
				t.Errorf("%d waits for %d attempts", len(waits), test.attempts)
			}
			mu.Unlock()
			natstest.Eventually(t, "retries are counted", func() bool {
				return w.Status().Retried == uint64(test.runs*(test.attempts-1)) && w.Status().Done == 1
			})
			o.waitEmpty()
			if failed := strings.Contains(said.String(), `msg="job failed"`); failed != (test.kind == wire.KindError) {
				t.Errorf("the log says that the job failed: %t\n%s", failed, &said)
			}
		})
	}
}

// A worker that refuses parameters which the coordinator has accepted is an older program: no verdict on the run.
func TestBadParamsAreOfTheMachine(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	o.spec.Params = []byte(`{"unknown":1}`)
	o.begin()
	w, _ := start(t, s, Config{}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	o.feed(1, 1)
	natstest.Eventually(t, "the worker says so", func() bool {
		return strings.HasPrefix(reasonOf(w, o.kind()), "cannot open plain: ")
	})
	natstest.Eventually(t, "the job is handed back", func() bool { n, _ := w.held.counts(); return n == 0 })
	if st := w.Status(); st.Failed != 0 || o.queued() != 1 || !strings.Contains(st.LastError, "unknown") {
		t.Fatalf("%d jobs are queued; status %+v", o.queued(), st)
	}
}

// A job that cannot be read, or that is another's, is none that the owner queued: it gets out of the way.
func TestMalformedJob(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	start(t, s, Config{}, nil, plain())
	at := func(seq uint64) string { return wire.JobSubject(o.kind(), o.batcher, o.gen, seq, 0) }
	for subject, body := range map[string][]byte{
		at(1): {0xdf, 0xff, 0xff, 0xff, 0xff}, at(2): o.job(7), at(3): append(o.job(3), 0), at(4): nil,
		at(5):       []byte(`{"stream":"jetbatch-results-train-x", "seq":7}`),
		at(5) + "x": o.job(5),
	} {
		o.feedMsg(&nats.Msg{Subject: subject, Data: body, Header: nats.Header{"Status": {"404"}}})
	}
	o.waitEmpty()
	o.feed(1, 5) // as the owner does when they are missing
	for seq := uint64(1); seq <= 5; seq++ {
		if r, _ := o.result(seq); r.Kind != wire.KindBatch {
			t.Fatalf("result %+v, fault %+v", r, r.Fault)
		}
	}
	o.waitEmpty()
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "slow")
	var calls atomic.Int64
	ended := make(chan error, 1)
	start(t, s, Config{Slots: 1, JobTimeout: 100 * time.Millisecond}, func(w *Worker) { w.tick = 20 * time.Millisecond },
		define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
			if calls.Add(1) == 1 {
				<-ctx.Done()
				ended <- ctx.Err()
				return nil, ctx.Err()
			}
			return values(n, 1)
		}))
	o.feed(1, 1)
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the context ended with %v", err)
	}
	if r, _ := o.result(1); r.Kind != wire.KindBatch || calls.Load() != 2 {
		t.Fatalf("%d executions, result %+v", calls.Load(), r)
	}
}

// A worker that slept, so that its job was another's meanwhile, may meet errors that come of nothing else. It commits
// none.
func TestErrorAfterSleep(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "sleepy")
	var calls atomic.Int64
	again, release := make(chan struct{}), make(chan struct{})
	w, _ := start(t, s, Config{Slots: 2}, func(w *Worker) { w.tick = time.Hour }, // nothing is heartbeat
		define("sleepy", func(_ context.Context, n int) (schema.Batch, error) {
			if calls.Add(1) == 1 {
				<-again
				return nil, dataset.Permanent(errors.New("connection timed out"))
			}
			close(again)
			<-release
			return values(n, 1)
		}))
	o.feed(1, 1)
	<-again
	natstest.Eventually(t, "the first has ended", func() bool {
		n, _ := w.held.counts()
		return n == 1
	})
	close(release)
	if r, _ := o.result(1); r.Kind != wire.KindBatch || r.Deliveries != 2 {
		t.Fatalf("result %+v", r)
	}
}

func TestLostSlot(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "hung")
	var calls atomic.Int64
	release := make(chan struct{})
	w, _ := start(t, s, Config{Slots: 2, JobTimeout: 50 * time.Millisecond}, func(w *Worker) {
		w.tick, w.lostAfter = 20*time.Millisecond, 50*time.Millisecond
	}, define("hung", func(_ context.Context, n int) (schema.Batch, error) {
		if calls.Add(1) == 1 {
			<-release
		}
		return values(n, 1)
	}))
	o.feed(1, 1)
	natstest.Eventually(t, "the slot counts as lost", func() bool { return w.Status().Slots == 1 })
	if r, _ := o.result(1); r.Kind != wire.KindBatch || r.Deliveries < 2 {
		t.Fatalf("result %+v", r)
	}
	if st := w.Status(); st.LastError == "" || st.Oldest == nil || st.Oldest.Batcher != "train" || st.Oldest.Seq != 1 || st.Oldest.For < 50*time.Millisecond {
		t.Errorf("the status does not say so: %+v", st)
	}
	close(release)
	natstest.Eventually(t, "the slot is back", func() bool { return w.Status().Slots == 2 && w.Status().Oldest == nil })
	o.waitEmpty()
}

// deliver hands every job out n times and back.
func (o *owner) deliver(n, jobs int) {
	o.t.Helper()
	consumer, err := o.js.Consumer(o.t.Context(), "jetbatch-jobs", "jetbatch-"+o.batcher+"-"+o.gen)
	if err != nil {
		o.t.Fatal(err)
	}
	for range n {
		batch, err := consumer.Fetch(jobs)
		if err != nil {
			o.t.Fatal(err)
		}
		got := 0
		for msg := range batch.Messages() {
			got++
			if err := msg.Nak(); err != nil {
				o.t.Fatal(err)
			}
		}
		if got != jobs {
			o.t.Fatalf("%d of %d jobs came: %v", got, jobs, batch.Error())
		}
	}
}

func TestPoisonAndItsNeighbours(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "poison")
	o.feed(1, 6)
	o.deliver(judge.SuspectAfter, 6)
	// Job 3 was started alone three times, by workers that never came back.
	for k := 1; k <= judge.MaxStarts; k++ {
		if _, err := o.js.Publish(t.Context(), wire.StartSubject(o.batcher, o.gen, 3, k), []byte("w")); err != nil {
			t.Fatal(err)
		}
	}
	var running, together atomic.Int64
	_, stop := start(t, s, Config{Slots: 4}, nil, define("poison", func(_ context.Context, n int) (schema.Batch, error) {
		if running.Add(1) > 1 {
			together.Add(1)
		}
		defer running.Add(-1)
		if n == 3 {
			t.Error("the poison job ran again")
		}
		return values(n, 1)
	}))
	o.waitEmpty()
	for seq := uint64(1); seq <= 6; seq++ {
		r, _ := o.result(seq)
		if seq == 3 {
			if r.Kind != wire.KindError || r.Fault.Code != schema.CodePoison {
				t.Fatalf("the poison job's result is %+v, %+v", r, r.Fault)
			}
			continue
		}
		if r.Kind != wire.KindBatch || r.Deliveries != judge.SuspectAfter+1 {
			t.Fatalf("an innocent's result is %+v, %+v", r, r.Fault)
		}
		if o.stored(wire.StartSubject(o.batcher, o.gen, seq, 1)) == nil {
			t.Errorf("suspect %d started without a marker", seq)
		}
	}
	if together.Load() != 0 {
		t.Errorf("suspects ran beside other jobs %d times", together.Load())
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestSupersededGenerationIsCutOff(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "slow")
	causes := make(chan error, 1)
	started := make(chan struct{})
	var calls atomic.Int64
	start(t, s, Config{Slots: 1}, nil, define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
		if calls.Add(1) == 1 {
			close(started)
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		return values(n, 1)
	}))
	o.feed(1, 1)
	select {
	case <-started:
	case <-time.After(20 * time.Second):
		t.Fatal("the job was not started")
	}
	o.begin()
	select {
	case err := <-causes:
		if !errors.Is(err, errOver) {
			t.Fatalf("cancelled with cause %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a job of the generation before runs on: its context has not ended")
	}
	o.feed(1, 3)
	o.waitEmpty()
	for seq := uint64(1); seq <= 3; seq++ {
		if r, _ := o.result(seq); r.Kind != wire.KindBatch {
			t.Fatalf("result %+v", r)
		}
	}
}

// logged is a log that may be read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
