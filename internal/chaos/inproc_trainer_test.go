package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on fake time. While faults go on nothing is promised but that nothing wrong is taken, and whatever the trainer
// asks is given up and asked again after patience; once they are over, all that is asked is answered within recovery:
// leases, AckWait, the client's and the owner's pauses between two looks, and the slowest batch, each some times over.
const (
	takePatience = 20 * time.Second
	recovery     = 60 * time.Second
	mostTries    = 60 // of one question while there are faults, of which a storm has a bounded number
)

// hang is a run that did not recover in time.
type hang struct{ what error }

func (h *hang) Error() string {
	return fmt.Sprintf("hang: no end after %v without faults: %v", recovery, h.what)
}
func (h *hang) Unwrap() error { return h.what }

// taker takes batches through a schedule: one trainer, or one of several ranks.
type taker interface {
	open(takeOver bool) error
	run(n int) error // takes n batches
	stop() error
	close()
	status(ctx context.Context) (schema.Status, error)
	endpoints() []*endpoint // the networks of the processes that it is now
	count() int             // batches taken in all
	quiet(calm bool)        // whether there are no faults, and it does nothing but taking
}

func newTaker(w *world) taker {
	if w.plan.Ranks > 1 {
		return newLaunches(w)
	}
	return newTrainer(w)
}

// trainer takes batches, compares each with the reference, and does what trainers do: it goes back, ahead and
// elsewhere, stops, leaves, dies and comes again.
type trainer struct {
	w      *world
	rng    *rand.Rand
	oracle *testset.Oracle
	saved  []schema.State // that were handed out
	taken  int
	calm   bool // no faults, and nothing but taking

	nc *nats.Conn
	b  *client.Batcher[schema.Batch]

	mu  sync.Mutex
	net *endpoint
}

func (t *trainer) endpoints() []*endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	return []*endpoint{t.net}
}

func (t *trainer) count() int { return t.taken }

func (t *trainer) quiet(calm bool) { t.calm = calm }

func (t *trainer) status(ctx context.Context) (schema.Status, error) { return t.b.Status(ctx) }

func newTrainer(w *world) *trainer {
	return &trainer{w: w, rng: w.plan.rand(2), oracle: newOracle(w.plan.Params, schema.State{})}
}

// within calls f until it succeeds: with patience during faults, and within recovery when there are none. passing says
// which errors may be met on the way.
func (t *trainer) within(f func(context.Context) error, passing ...error) error {
	for tries := 1; ; tries++ {
		calm := t.calm
		limit := takePatience
		if calm {
			limit = recovery
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		err := f(ctx)
		cancel()
		switch {
		case err == nil:
			return nil
		case (calm || tries > mostTries) && errors.Is(err, client.ErrUnavailable):
			if status, err := t.b.Status(context.Background()); err == nil {
				t.w.note("trainer: hangs: %+v", status)
			}
			return &hang{err} // a storm has a bounded number of faults, and all of them pass
		case errors.Is(err, client.ErrUnavailable), isAny(err, passing):
			t.w.note("trainer: again: %v", err)
		default:
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func isAny(err error, targets []error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// open begins a new life of the trainer's process.
func (t *trainer) open(takeOver bool) error {
	e := t.w.endpoint("client")
	t.mu.Lock()
	t.net = e
	t.mu.Unlock()
	nc, err := t.w.connect(context.Background(), e)
	if err != nil {
		return err
	}
	t.nc = nc
	cfg := client.Config{
		Name: batcherName, Dataset: sequenceName, Params: t.w.plan.Params, Window: t.w.plan.Window, Retain: t.w.plan.Retain,
		TakeOver: takeOver, Logger: t.w.logger(e),
	}
	if t.w.plan.InOrder {
		cfg.OnError = client.InOrder
	}
	return t.within(func(ctx context.Context) error {
		t.b, err = client.Open[schema.Batch](ctx, nc, cfg)
		return err
	}, client.ErrInUse) // until the lease of who died before has run out
}

// close ends the trainer's process as its own code would.
func (t *trainer) close() {
	if t.b != nil {
		if err := t.b.Close(); err != nil {
			t.w.note("trainer: close: %v", err)
		}
	}
	t.nc.Close()
	t.net.close()
}

// crash ends it as kill -9 would.
func (t *trainer) crash() {
	t.net.close()
	t.nc.Close()
	_ = t.b.Close() // nobody hears of it
}

// take takes one batch and checks it. io.EOF is no error: the trainer begins anew somewhere.
func (t *trainer) take() error {
	err := t.within(func(ctx context.Context) error {
		if !t.calm && t.rng.IntN(20) == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, about(t.rng, 20*time.Millisecond))
			defer cancel()
		}
		step, err := t.b.Take(ctx, t.oracle.State)
		err = t.oracle.Check(step, err)
		step.Release()
		return err
	})
	switch {
	case errors.Is(err, io.EOF):
		t.w.note("trainer: the end, after %d batches", t.taken)
		t.move()
		return nil
	case err != nil:
		return t.explain(err)
	}
	t.taken++
	t.saved = append(t.saved, t.oracle.State)
	return nil
}

// explain goes on after an error that a fault before it explains, as a trainer's operator would.
func (t *trainer) explain(err error) error {
	switch {
	case errors.Is(err, client.ErrNondeterministic) && t.w.injected(foreignResult):
		// The worker that made the right result found another one stored.
		t.w.note("trainer: starts again: %v", err)
		state := t.oracle.State
		return t.within(func(ctx context.Context) error { return t.b.Start(ctx, state) })
	case errors.Is(err, client.ErrSuperseded) && t.w.injected(recordDeleted, recordRolledBack, bucketDeleted):
		// The record that came back, or was made anew, is of a trainer before this one.
		t.w.note("trainer: takes over again: %v", err)
		t.close()
		return t.open(true)
	}
	return err
}

// move goes to another state than the head.
func (t *trainer) move() {
	to := t.w.elsewhere(t.rng, t.saved, t.oracle.State)
	t.w.note("trainer: moves from %v to %v", t.oracle.State, to)
	t.oracle.State = to
}

// elsewhere is another state than the one where the trainer is: one that was handed out, one ahead, or one that never
// was; the zero state is the data set's first.
func (w *world) elsewhere(rng *rand.Rand, saved []schema.State, from schema.State) (to schema.State) {
	switch k := rng.IntN(10); {
	case k < 5 && len(saved) > 0: // mostly not far back: what is held still
		back := 1 + int(rng.ExpFloat64()*8)
		to = saved[max(0, len(saved)-back)]
	case k < 8:
		to = w.ahead(from, 1+int(rng.ExpFloat64()*8))
	case k < 9:
		if s, err := testset.StateAt(sequenceName, rng.Uint64N(1000), rng.Uint64()); err == nil {
			to = s
		}
	}
	w.count("re-seat")
	return to
}

// ahead is the state some positions further on.
func (w *world) ahead(state schema.State, n int) schema.State {
	var s testset.Position
	if state.IsZero() || state.Decode(&s) != nil {
		return state
	}
	set, err := testset.Open(context.Background(), w.plan.Params, &testset.Hooks{Data: rightData})
	if err != nil {
		return state
	}
	for range n {
		if _, next, err := set.Next(s); err == nil {
			s = next
		}
	}
	ahead, err := schema.NewState(s)
	if err != nil {
		return state
	}
	ahead.Dataset, ahead.Version = state.Dataset, state.Version
	return ahead
}

// whim is what the trainer does now and then beside taking.
func (t *trainer) whim() error {
	switch k := t.rng.IntN(200); {
	case k < 5:
		t.move()
	case k == 5:
		t.w.count("stop and start")
		t.w.note("trainer: stops")
		if err := t.stop(); err != nil {
			return err
		}
		state := t.oracle.State
		return t.within(func(ctx context.Context) error { return t.b.Start(ctx, state) })
	case k == 6:
		t.w.count("close and open")
		t.w.note("trainer: leaves")
		t.close()
		return t.open(false)
	case k == 7:
		t.w.count("trainer killed")
		t.w.note("trainer: is killed")
		t.crash()
		return t.open(t.rng.IntN(2) == 0)
	case k == 8:
		return t.usurp()
	}
	return nil
}

// stop stops the run. The error that the run had is reported, and may be one that a fault explains.
func (t *trainer) stop() error {
	err := t.within(t.b.Stop)
	if errors.Is(err, client.ErrNondeterministic) && t.w.injected(foreignResult) {
		return t.within(t.b.Stop) // that was its error: it is stopped
	}
	if errors.Is(err, client.ErrSuperseded) {
		if err = t.explain(err); err == nil {
			err = t.within(t.b.Stop)
		}
	}
	return err
}

// usurp lets another process take the batcher over while the first goes on: what the first takes until it hears of it
// must be right, and it must hear of it.
func (t *trainer) usurp() error {
	t.w.count("take-over by another trainer")
	first, last := &trainer{w: t.w, nc: t.nc, b: t.b, net: t.net}, *t.oracle
	if err := t.open(true); err != nil {
		return err
	}
	t.w.note("trainer: %s took over from %s", t.net.name, first.net.name)
	if back := len(t.saved); back > 1 && t.rng.IntN(2) == 0 {
		last.State = t.saved[back-2] // it asks for a seat there before it can have heard
	}
	return t.displaced(first, &last)
}

func (t *trainer) displaced(first *trainer, o *testset.Oracle) error {
	defer first.crash()
	for range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), takePatience)
		step, err := first.b.Take(ctx, o.State)
		cancel()
		if errors.Is(err, client.ErrSuperseded) {
			return nil
		}
		err = o.Check(step, err)
		step.Release()
		var wrong *testset.Violation
		switch {
		case errors.As(err, &wrong):
			return err
		case errors.Is(err, io.EOF), err != nil && !t.calm: // nobody tells it while it is cut off
			return nil
		case err != nil:
			return err
		}
	}
	if t.w.injected(recordDeleted, recordRolledBack, bucketDeleted) {
		return nil // the record that knew of the take-over may be gone, and whoever asked first made it anew
	}
	return errors.New("a trainer that was displaced took 1000 batches more")
}

// run takes n batches.
func (t *trainer) run(n int) error {
	for end := t.taken + n; t.taken < end; {
		if !t.calm {
			if err := t.whim(); err != nil {
				return err
			}
		}
		if err := t.take(); err != nil {
			return fmt.Errorf("after %d batches, at %v: %w", t.taken, t.oracle.State, err)
		}
		if think := about(t.rng, time.Duration(t.w.plan.ThinkUS)*time.Microsecond); think > 0 {
			time.Sleep(think)
		}
	}
	return nil
}
