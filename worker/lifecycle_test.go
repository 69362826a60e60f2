package worker

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Sizes of a worker whose memory is limited are parts of that: in a container of 256 MiB it is not killed for what it
// would keep by default. .ci/run compose has such a container.
func TestSizesFollowTheMemory(t *testing.T) {
	t.Parallel()
	const limit = 230 << 20 // nine tenths of 256 MiB
	if keep, out := keepBytes(limit), outstandingBytes(limit); keep != limit/4 || out != limit/8 {
		t.Errorf("of %d bytes it keeps %d, and has %d outstanding", limit, keep, out)
	}
	if keepBytes(math.MaxInt64) != DefaultKeepBytes || outstandingBytes(math.MaxInt64) != maxOutstandingBytes {
		t.Error("without a limit the defaults are others")
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	nc := s.Connect()
	def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) })
	for name, test := range map[string]struct {
		cfg  Config
		defs int
		want error
	}{
		"name":     {Config{Name: "a.b"}, 1, wire.ErrBadName},
		"slots":    {Config{Slots: -1}, 1, ErrConfig},
		"many":     {Config{Slots: 16385}, 1, ErrConfig},
		"timeout":  {Config{JobTimeout: -1}, 1, ErrConfig},
		"drain":    {Config{DrainTimeout: -1}, 1, ErrConfig},
		"attempts": {Config{Attempts: -1}, 1, ErrConfig},
		"none":     {Config{}, 0, ErrNoDefinitions},
		"twice":    {Config{}, 2, ErrNoDefinitions},
		"defaults": {Config{}, 1, nil},
	} {
		defs := []dataset.Definition{def, def}[:test.defs]
		w, err := New(nc, test.cfg, defs...)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if err == nil && (w.cfg.Slots < 1 || w.cfg.Attempts != 5 || w.cfg.JobTimeout != 10*time.Minute || w.cfg.DrainTimeout != 30*time.Second) {
			t.Errorf("defaults: %+v", w.cfg)
		}
	}
}

func TestRunsOnce(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	w, stop := start(t, s, Config{}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); !errors.Is(err, ErrRunning) {
		t.Fatalf("second Run: %v", err)
	}
}

func TestClosedConnectionEndsRun(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	w, err := New(s.Connect(), Config{}, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	if err != nil {
		t.Fatal(err)
	}
	beats, err := s.Connect().SubscribeSync(wire.WorkerPrefix + ".*")
	if err != nil {
		t.Fatal(err)
	}
	if err := beats.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(t.Context()) }()
	natstest.Eventually(t, "the worker runs", func() bool { return w.ran.Load() && w.serving.Load() })
	w.conns.control.Close()
	if err := <-done; !errors.Is(err, ErrConnectionClosed) {
		t.Fatalf("Run returned %v", err)
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "slow")
	started, release := make(chan int, 10), make(chan struct{})
	w, stop := start(t, s, Config{Name: "w1", Slots: 2}, nil, define("slow", func(_ context.Context, n int) (schema.Batch, error) {
		started <- n
		<-release
		return values(n, 1)
	}))
	beats, err := o.nc.SubscribeSync(wire.WorkerPrefix + ".w1")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	o.feed(1, 6)
	<-started
	<-started
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for leaving := false; !leaving; {
		msg, err := beats.NextMsgWithContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var st schema.WorkerStatus
		if err := json.Unmarshal(msg.Data, &st); err != nil {
			t.Fatal(err)
		}
		leaving = st.Leaving && st.Slots == 0 && st.Running == 2
	}
	// Another worker gets everything else, at once and while the first still works.
	_, _ = start(t, s, Config{Name: "w2", Slots: 1}, nil, define("slow", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	for seq := uint64(3); seq <= 6; seq++ {
		if r, _ := o.result(seq); r.Worker != "w2" {
			t.Fatalf("result %d is by %s", seq, r.Worker)
		}
	}
	close(release)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	o.waitEmpty()
	for seq := uint64(1); seq <= 2; seq++ {
		if r, _ := o.result(seq); r.Worker != "w1" || r.Deliveries != 1 {
			t.Fatalf("result %d is %+v", seq, r)
		}
	}
	if st := w.Status(); st.Done != 2 || st.Running != 0 {
		t.Fatalf("status %+v", st)
	}
}

func TestDrainTimeout(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "slow")
	started := make(chan struct{}, 1)
	_, stop := start(t, s, Config{Name: "w1", Slots: 1, DrainTimeout: 50 * time.Millisecond}, nil, define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
		started <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	o.feed(1, 1)
	<-started
	if err := stop(); !errors.Is(err, ErrDrainTimeout) {
		t.Fatalf("Run returned %v", err)
	}
	_, _ = start(t, s, Config{Name: "w2", Slots: 1}, nil, define("slow", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	if r, _ := o.result(1); r.Kind != wire.KindBatch || r.Worker != "w2" || r.Deliveries != 2 {
		t.Fatalf("result %+v", r)
	}
	o.waitEmpty()
}

// TestHungCode leaves code behind that ignores everything, and ends all the same.
func TestHungCode(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "hung")
	started, release, returned := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	_, stop := start(t, s, Config{Slots: 1, DrainTimeout: 50 * time.Millisecond}, nil, define("hung", func(_ context.Context, n int) (schema.Batch, error) {
		defer close(returned)
		started <- struct{}{}
		<-release
		return values(n, 1)
	}))
	o.feed(1, 1)
	<-started
	if err := stop(); !errors.Is(err, ErrDrainTimeout) {
		t.Fatalf("Run returned %v", err)
	}
	close(release)
	<-returned
}

// TestTwoLanesShare fills all slots with jobs of one batcher and then feeds another: it gets its turn with
// every second slot that frees, and does not wait until the first has nothing left.
func TestTwoLanesShare(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	slow := newOwner(t, s, "slow", "slow")
	quick := newOwner(t, s, "quick", "quick")
	gate := make(chan struct{})
	var started atomic.Int64
	start(t, s, Config{Slots: 2}, nil,
		define("slow", func(ctx context.Context, n int) (schema.Batch, error) {
			started.Add(1)
			select {
			case <-gate:
				return values(n, 1)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}),
		define("quick", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	slow.feed(1, 300)
	natstest.Eventually(t, "all slots are taken", func() bool { return started.Load() == 2 })
	quick.feed(1, 5)
	released := 0
	natstest.Eventually(t, "the quick jobs are done", func() bool {
		select {
		case gate <- struct{}{}:
			released++
		default:
		}
		return quick.queued() == 0
	})
	if released > 100 {
		t.Errorf("%d slow jobs went before 5 quick ones", released)
	}
	close(gate)
	slow.waitEmpty()
}

func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	w, _ := start(t, s, Config{Slots: 2}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	o.feed(1, 10)
	o.waitEmpty()
	s.Restart()
	natstest.Reconnected(t, o.nc, w.conns.control, w.conns.data)
	natstest.Eventually(t, "the streams are back", func() bool { return topology.Ensure(t.Context(), o.js, topology.Config{}) == nil })
	o.begin() // jobs and results were in memory
	o.feed(1, 10)
	o.waitEmpty()
	o.result(10)
}

func TestStoppedBatcherIsLeft(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	w, _ := start(t, s, Config{Slots: 1}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	o.feed(1, 1)
	o.waitEmpty()
	o.record(schema.PhaseClosed)
	w.lanes.look("train", "")
	natstest.Eventually(t, "the lane is closed", func() bool {
		return len(w.lanes.all()) == 0
	})
	o.record(schema.PhaseRunning)
	o.feed(2, 2)
	o.result(2)
}

func TestServiceAndTrace(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	start(t, s, Config{Name: "w1", Slots: 3}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	msg := &nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, 1, 0), Data: o.job(1), Header: nats.Header{}}
	msg.Header["traceparent"] = []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	o.feedMsg(msg)
	o.waitEmpty()
	if got := o.stored(wire.ResultSubject(o.batcher, o.gen, 1)).Header.Get("traceparent"); got != msg.Header["traceparent"][0] {
		t.Errorf("trace context of the result: %q", got)
	}
	reply, err := o.nc.RequestWithContext(t.Context(), wire.StatusPrefix+".w1", nil)
	if err != nil {
		t.Fatal(err)
	}
	var st schema.WorkerStatus
	if err := json.Unmarshal(reply.Data, &st); err != nil || st.Worker != "w1" || st.Slots != 3 || len(st.Kinds) != 1 {
		t.Errorf("status %+v, %v", st, err)
	}
	reply, err = o.nc.RequestWithContext(t.Context(), "$SRV.STATS.jetbatch-worker", nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(reply.Data); !strings.Contains(text, `"worker":"w1"`) || !strings.Contains(text, wire.Release) {
		t.Errorf("service statistics %s", text)
	}
	var stats micro.Stats
	if err := json.Unmarshal(reply.Data, &stats); err != nil || stats.ID != "w1" || len(stats.Endpoints) != 2 ||
		stats.Endpoints[1].NumRequests == 0 || uint64(stats.Endpoints[1].NumRequests) != st.Done+st.Failed {
		t.Errorf("jobs are not shown as requests: %s, %v", reply.Data, err)
	}
}
