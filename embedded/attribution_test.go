package embedded_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// delays is what a test injects: sleeps, and what they came to on this machine.
type delays struct {
	next, materialize time.Duration
	size              int  // of a batch, in bytes
	stored            bool // batches come by way of the store

	slept  atomic.Int64
	queues bool // what counts is not sleep but the time from Next to Materialize
	made   sync.Map
}

func (d *delays) sleep(t time.Duration) {
	if t == 0 {
		return
	}
	began := time.Now()
	time.Sleep(t)
	d.slept.Add(int64(time.Since(began)))
}

func (d *delays) fed(at uint64) {
	if d.queues {
		d.made.Store(at, time.Now())
	}
}

func (d *delays) began(at uint64) {
	if from, ok := d.made.Load(at); ok {
		d.slept.Add(int64(time.Since(from.(time.Time))))
	}
}

// delayed is a data set without an end whose stages take as long as they are told to.
func delayed(name string, d *delays) dataset.Definition {
	return testset.Define(name, &testset.Hooks{
		Next: func(_ testset.Position, j *testset.Job, _ *testset.Position) error {
			d.sleep(d.next)
			d.fed(j.At)
			return nil
		},
		Materialize: func(_ context.Context, _ testset.Params, j testset.Job) error {
			d.began(j.At)
			d.sleep(d.materialize)
			return nil
		},
	})
}

// measured takes two batches, and n more of which it returns the sum of their timings.
func measured(t *testing.T, nc *nats.Conn, name string, d *delays, n int) schema.Timing {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cfg := client.Config{Name: name, Dataset: name, Window: 1, NoDirect: d.stored, Params: testset.Params{Size: d.size}}
	b, err := client.Open[[]byte](ctx, nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	var sum schema.Timing
	var state schema.State
	for i := range n + 2 {
		if i == 2 {
			d.slept.Store(0)
		}
		step, err := b.Take(ctx, state)
		if err != nil {
			t.Fatal(err)
		}
		if i >= 2 {
			sum.Add(step.Timing)
		}
		state = step.Next
		step.Release()
	}
	return sum
}

// tries is how often an injection is measured at most: on a machine that has no time for the test, a sleep ends when it
// should and its goroutine runs later.
const tries = 3

// check wants the waits for one cause to be what was injected, give or take 10 %. The rest of the wait is for what the
// machine needed besides, and belongs to the other causes.
func check(t *testing.T, cause string, inject func(t *testing.T) (sum schema.Timing, injected time.Duration)) {
	t.Helper()
	for try := 1; ; try++ {
		sum, injected := inject(t)
		t.Logf("injected %v; %+v", injected, sum.Causes())
		for _, c := range sum.Causes() {
			if c.Name == cause && c.Wait >= injected*9/10 && c.Wait <= injected*11/10 {
				return
			}
		}
		if try == tries {
			t.Fatalf("not within 10 %% for %s", cause)
		}
	}
}

// Delays of known size, in one stage at a time, show up where they were injected. The tests run one after another:
// their clock is the wall's.
func TestAttribution(t *testing.T) { //nolint:paralleltest // see above
	const batches, delay = 4, 200 * time.Millisecond
	start := func(t *testing.T, cfg embedded.Config, defs ...dataset.Definition) *embedded.Service {
		t.Helper()
		cfg.Slots = 1
		s, err := embedded.Start(context.WithoutCancel(t.Context()), cfg, defs...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	t.Run("iterate", func(t *testing.T) {
		check(t, "iterate", func(t *testing.T) (schema.Timing, time.Duration) {
			d := &delays{next: delay}
			s := start(t, embedded.Config{}, delayed("train", d))
			sum := measured(t, s.Conn(), "train", d, batches)
			return sum, time.Duration(d.slept.Load())
		})
	})
	t.Run("materialize", func(t *testing.T) {
		check(t, "materialize", func(t *testing.T) (schema.Timing, time.Duration) {
			d := &delays{materialize: delay}
			s := start(t, embedded.Config{}, delayed("train", d))
			sum := measured(t, s.Conn(), "train", d, batches)
			return sum, time.Duration(d.slept.Load())
		})
	})
	t.Run("queue", func(t *testing.T) {
		check(t, "queue", func(t *testing.T) (schema.Timing, time.Duration) {
			// Another batcher has the only slot most of the time.
			d, other := &delays{queues: true}, &delays{materialize: delay}
			s := start(t, embedded.Config{}, delayed("train", d), delayed("other", other))
			ctx, stop := context.WithCancel(t.Context())
			b, err := client.Open[[]byte](ctx, s.Conn(), client.Config{Name: "other", Dataset: "other", Window: 8})
			if err != nil {
				t.Fatal(err)
			}
			taken := make(chan struct{}, 1)
			var taking sync.WaitGroup
			taking.Go(func() {
				for range b.All(ctx, schema.State{}) {
					select {
					case taken <- struct{}{}:
					default:
					}
				}
			})
			defer func() {
				stop()
				taking.Wait()
				_ = b.Close() // ends with the service
			}()
			<-taken // its window is open now
			<-taken
			sum := measured(t, s.Conn(), "train", d, 2*batches)
			return sum, time.Duration(d.slept.Load())
		})
	})
	t.Run("transfer", func(t *testing.T) {
		check(t, "transfer", func(t *testing.T) (schema.Timing, time.Duration) {
			// 0.1 s a batch: the store is read again for one that takes longer than 0.2 s, over the same slow line.
			d := &delays{size: 100_000, stored: true}
			s := start(t, embedded.Config{Listen: "127.0.0.1:0"}, delayed("train", d))
			slow := throttle(t, strings.TrimPrefix(s.URL(), "nats://"), 1_000_000, d)
			nc, err := client.Connect("nats://" + slow)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			sum := measured(t, nc, "train", d, 2*batches)
			return sum, time.Duration(d.slept.Load())
		})
	})
	t.Run("transfer from the worker's memory", func(t *testing.T) {
		check(t, "transfer", func(t *testing.T) (schema.Timing, time.Duration) {
			d := &delays{size: 1_000_000} // 0.2 s a batch
			def := delayed("train", d)
			s := start(t, embedded.Config{Listen: "127.0.0.1:0", Workers: -1}, def)
			port := freeAddress(t)
			join(t, s, worker.Config{Name: "far", Direct: port, DirectAdvertise: throttle(t, port, 5_000_000, d)}, def)
			sum := measured(t, s.Conn(), "train", d, 2*batches)
			return sum, time.Duration(d.slept.Load())
		})
	})
}

// freeAddress is where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// join runs a worker that comes by TCP until the test ends.
func join(t *testing.T, s *embedded.Service, cfg worker.Config, def dataset.Definition) {
	t.Helper()
	nc, err := client.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(nc, cfg, def)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		nc.Close()
	})
}

// throttle relays to a server, from which at most rate bytes per second come back on one connection, and tells d how
// long it held them.
func throttle(t *testing.T, server string, rate int, d *delays) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		relays.Wait()
	})
	relay := func(from, to net.Conn, hold func(n int)) {
		defer func() { _, _ = from.Close(), to.Close() }() // one side ends the other
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			hold(n)
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	relays.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				_ = near.Close()
				continue
			}
			relays.Go(func() { relay(near, far, func(int) {}) })
			relays.Go(func() {
				relay(far, near, func(n int) { d.sleep(time.Duration(n) * time.Second / time.Duration(rate)) })
			})
		}
	})
	return l.Addr().String()
}

// The trace context of a Take goes with the jobs that it lets out, and comes back with their batches.
func TestTraceEndToEnd(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 64)
	def := testset.Define("traced", &testset.Hooks{Materialize: func(ctx context.Context, _ testset.Params, j testset.Job) error {
		seen <- fmt.Sprint(j.At, " ", dataset.TraceParent(ctx))
		return nil
	}})
	s, err := embedded.Start(t.Context(), embedded.Config{Slots: 1}, def)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	n := 0
	span := func(n int) string { return fmt.Sprintf("00-4bf92f3577b34da6a3ce929d0e0e4736-%016x-01", n) }
	b, err := client.Open[[]byte](ctx, s.Conn(), client.Config{
		Name: "train", Dataset: "traced", Params: testset.Params{N: 8}, Window: 1,
		Trace: func(context.Context) string {
			n++
			return span(n)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	for step, err := range b.All(ctx, schema.State{}) {
		if err != nil {
			t.Fatal(err)
		}
		taken++
		// With a window of one, the credit for a batch lets the next one out, within the Take that returned it.
		if want := span(max(taken-1, 1)); step.Trace != want {
			t.Errorf("batch %d was let out by %q, want %q", taken, step.Trace, want)
		}
		if got, want := <-seen, fmt.Sprint(taken, " ", step.Trace); got != want {
			t.Errorf("Materialize saw %q, want %q", got, want)
		}
	}
	if taken != 8 {
		t.Errorf("took %d", taken)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
