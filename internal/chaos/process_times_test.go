package chaos

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// trainerFlow is a trainer in this process that takes without a pause, or at its pace, and notes how long it waited.
type trainerFlow struct {
	b    *client.Batcher[schema.Batch]
	pace time.Duration
	stop context.CancelFunc
	over chan struct{}

	mu    sync.Mutex
	waits []wait
	taken int
	err   error
}

type wait struct{ began, ended time.Time }

func startFlow(t *testing.T, b *client.Batcher[schema.Batch], p testset.Params, pace time.Duration) *trainerFlow {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &trainerFlow{b: b, pace: pace, stop: cancel, over: make(chan struct{})}
	t.Cleanup(func() {
		cancel()
		<-f.over
	})
	go func() {
		defer close(f.over)
		f.run(ctx, newOracle(p, schema.State{}))
	}()
	return f
}

func (f *trainerFlow) run(ctx context.Context, o *testset.Oracle) {
	for {
		w := wait{began: time.Now()}
		f.mu.Lock()
		f.waits = append(f.waits, w)
		f.mu.Unlock()
		step, err := f.b.Take(ctx, o.State)
		if ctx.Err() != nil {
			return
		}
		err = o.Check(step, err)
		f.mu.Lock()
		f.waits[len(f.waits)-1].ended = time.Now()
		f.taken, f.err = o.Taken, err
		f.mu.Unlock()
		if err != nil {
			return
		}
		step.Release()
		if f.pace > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(f.pace):
			}
		}
	}
}

// reach waits until n batches are taken.
func (f *trainerFlow) reach(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(openTimeout)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		f.mu.Lock()
		taken, err := f.taken, f.err
		f.mu.Unlock()
		switch {
		case err != nil:
			t.Fatal(err)
		case taken >= n:
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d batches of %d", taken, n)
		case <-tick.C:
		}
	}
}

// stall is the longest wait that was not over at since: how long it lasted, and when after since it ended.
func (f *trainerFlow) stall(since time.Time) (lasted, ended time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.waits {
		end := w.ended
		if end.IsZero() {
			end = time.Now()
		}
		if end.Before(since) {
			continue
		}
		if d := end.Sub(w.began); d > lasted {
			lasted, ended = d, end.Sub(since)
		}
	}
	return lasted, ended
}

// recoveryTime is what one kind of fault cost a trainer that wanted the next batch at once.
type recoveryTime struct {
	Fault   string  `json:"fault"`
	LimitMS int64   `json:"limit_ms"`
	StallMS []int64 `json:"stall_ms"`     // the longest wait for a batch
	EndedMS []int64 `json:"stall_end_ms"` // from the fault, or its end where it has one, to the end of that wait
	Within  bool    `json:"within"`
	Redone  []int   `json:"recomputed"` // batches that were in flight, or next
	Flight  int     `json:"window"`     // jobs in flight at most
}

// trial prepares a system, and returns what breaks it; that returns when the clock starts.
type trial struct {
	fault   string
	limit   time.Duration
	pace    time.Duration // of the trainer
	window  int
	cluster bool
	coords  int
	workers int
	breaks  func(t *testing.T, s *system, b *client.Batcher[schema.Batch], link *proxy) time.Time
}

const timedWindow = 16

func trials() []trial {
	owner := func(t *testing.T, s *system, b *client.Batcher[schema.Batch]) *member {
		ctx, cancel := context.WithTimeout(t.Context(), openTimeout)
		defer cancel()
		status, err := b.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(s.coordinators, func(m *member) bool { return m.process() == status.Owner })
		if i < 0 {
			t.Fatalf("no coordinator %s", status.Owner)
		}
		return s.coordinators[i]
	}
	killOwner := func(t *testing.T, s *system, b *client.Batcher[schema.Batch], _ *proxy) time.Time {
		m := owner(t, s, b)
		m.proc.Kill()
		return time.Now()
	}
	const detection = 8 * time.Second
	return []trial{
		{fault: "worker kill -9", limit: topology.AckWait + 500*time.Millisecond,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.workers[0].proc.Kill()
				return time.Now()
			}},
		{fault: "coordinator kill -9, another stands by", limit: coordinator.DefaultLease + 2*time.Second, coords: 2, breaks: killOwner},
		{fault: "coordinator kill -9 while batches are buffered", limit: 100 * time.Millisecond, coords: 2, pace: 100 * time.Millisecond, window: 64, breaks: killOwner},
		{fault: "broker kill -9 and restart", limit: 2 * time.Second,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.brokers[0].proc.Kill()
				began := time.Now()
				s.brokers[0].start()
				return began
			}},
		{fault: "black hole before the trainer", limit: detection,
			breaks: func(_ *testing.T, _ *system, _ *client.Batcher[schema.Batch], link *proxy) time.Time {
				link.strand()
				return time.Now()
			}},
		{fault: "black hole before a worker", limit: detection,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.workers[0].link.strand()
				return time.Now()
			}},
		{fault: "black hole before the only worker", limit: detection, workers: 1,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.workers[0].link.strand()
				return time.Now()
			}},
		{fault: "black hole before the only coordinator", limit: detection,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.coordinators[0].link.strand()
				return time.Now()
			}},
		{fault: "cluster: leader of the records killed", limit: 10 * time.Second, cluster: true, coords: 2,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.leader(topology.BucketStream).proc.Kill()
				return time.Now()
			}},
		{fault: "cluster: server with the results killed", limit: 10 * time.Second, cluster: true, coords: 2,
			breaks: func(t *testing.T, s *system, b *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.leader(s.resultsStream(t)).proc.Kill()
				return time.Now()
			}},
		{fault: "cluster: server with the results paused", limit: 10 * time.Second, cluster: true, coords: 2,
			breaks: func(t *testing.T, s *system, b *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.leader(s.resultsStream(t)).proc.Pause()
				return time.Now()
			}},
		{fault: "cluster: leader of the consumer paused", limit: 10 * time.Second, cluster: true, coords: 2,
			breaks: func(t *testing.T, s *system, b *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.consumerLeader(t).proc.Pause()
				return time.Now()
			}},
		{fault: "cluster: leader of the consumer killed", limit: 10 * time.Second, cluster: true, coords: 2,
			breaks: func(t *testing.T, s *system, b *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.consumerLeader(t).proc.Kill()
				return time.Now()
			}},
		{fault: "cluster: two of three killed and restarted", limit: 10 * time.Second, cluster: true, coords: 2,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.brokers[0].proc.Kill()
				s.brokers[1].proc.Kill()
				began := time.Now()
				s.brokers[0].start()
				s.brokers[1].start()
				return began
			}},
		{fault: "store wiped while the broker is down", limit: 10 * time.Second,
			breaks: func(_ *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				s.brokers[0].proc.Kill()
				s.brokers[0].wipe()
				s.brokers[0].start()
				return time.Now()
			}},
		{fault: "all streams deleted", limit: 10 * time.Second,
			breaks: func(t *testing.T, s *system, _ *client.Batcher[schema.Batch], _ *proxy) time.Time {
				if err := s.loseStore("all"); err != nil {
					t.Error(err)
				}
				return time.Now()
			}},
	}
}

// resultsStream is the name of the one store of results there is.
func (s *system) resultsStream(t *testing.T) (found string) {
	err := s.admin(patience, func(ctx context.Context, js jetstream.JetStream) error {
		names := js.StreamNames(ctx)
		for name := range names.Name() {
			if _, _, ok := topology.ParseResultsStream(name); ok {
				found = name
			}
		}
		return names.Err()
	})
	if err != nil || found == "" {
		t.Fatalf("results %q: %v", found, err)
	}
	return found
}

// How long a trainer waits after a fault. Nothing is asserted: a busy machine is no bug. "make chaos" prints it.
func TestProcessTimes(t *testing.T) {
	if !*fullFlag {
		t.Skip("times are measured by make chaos (-chaos.full), when nothing else runs")
	}
	const repeats = 3
	var all []recoveryTime
	for _, tr := range trials() {
		r := recoveryTime{Fault: tr.fault, LimitMS: tr.limit.Milliseconds(), Within: true, Flight: max(tr.window, timedWindow)}
		for n := range repeats {
			t.Run(fmt.Sprintf("%s %d", tr.fault, n), func(t *testing.T) {
				stall, ended, redone := tr.measure(t)
				fmt.Printf("%s: stall %v, %d made again\n", t.Name(), stall.Round(10*time.Millisecond), redone) // though the rest be cut off
				r.StallMS, r.EndedMS = append(r.StallMS, stall.Milliseconds()), append(r.EndedMS, ended.Milliseconds())
				r.Redone = append(r.Redone, redone)
				r.Within = r.Within && stall <= tr.limit
			})
		}
		all = append(all, r)
	}
	printFigures(map[string]any{"tier": "times", "recoveries": all})
}

func (tr trial) measure(t *testing.T) (stall, ended time.Duration, redone int) {
	var s *system
	if tr.cluster {
		s = newCluster(t, max(tr.coords, 1), max(tr.workers, 2))
	} else {
		s = newSystem(t, max(tr.coords, 1), cmp.Or(tr.workers, 2))
	}
	p := testset.Params{Delay: 5 * time.Millisecond, Jitter: true}
	b, link := s.open(t, client.Config{Params: p, Window: max(tr.window, timedWindow)})
	f := startFlow(t, b, p, tr.pace)
	f.reach(t, 50)
	since := tr.breaks(t, s, b, link)
	f.mu.Lock()
	taken := uint64(f.taken)
	f.mu.Unlock()
	select {
	case <-time.After(tr.limit + 6*time.Second):
	case <-f.over:
	}
	stall, ended = f.stall(since)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		t.Error(f.err)
	}
	// What the fault cost: the thousands that follow have stragglers of their own.
	return stall, ended, s.recomputedIn(taken, taken+2*uint64(max(tr.window, timedWindow)))
}
