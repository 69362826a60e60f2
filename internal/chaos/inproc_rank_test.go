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

// errGivenUp is how a rank ends that had no part in a run yet, or whose record was lost, when the run is over for
// another.
var errGivenUp = errors.New("given up, since the run is over")

// errKilled is how a take ends in the midst of which the rank is killed.
var errKilled = errors.New("killed while it takes")

// errThere is how a wait ends when all ranks are at the goal.
var errThere = errors.New("all ranks are there")

// rank is one of the ranks of a launch: a trainer's process, or one after another.
type rank struct {
	l        *launches
	number   int
	rng      *rand.Rand
	world    client.World
	takeOver bool
	oracle   *testset.Oracle

	at    int    // of the way: the next point; under l.mu
	sits  bool   // this process took something, or was started
	seq   uint64 // of what it took last, if that was a batch of the place where it is
	atEnd bool   // it took the end last
	again bool   // it is killed, and has taken nothing since; under l.mu
	left  bool   // under l.mu

	out     bool          // it has ended with an error; under l.mu
	unbegun bool          // it had taken nothing by then
	starts  *schema.State // where it is to start, before it asks for the state of the point

	nc *nats.Conn
	b  *client.Batcher[schema.Batch]

	mu  sync.Mutex
	net *endpoint
}

func (r *rank) endpoint() *endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.net
}

func (r *rank) note(format string, args ...any) {
	r.l.w.note("rank %d of %s: "+format, append([]any{r.number, r.world.ID}, args...)...)
}

// within is as a trainer's: it asks until there is an answer, and does not wait for a run that is over for good.
func (r *rank) within(f func(context.Context) error, passing ...error) error {
	lost := func() bool { return r.l.w.injected(recordDeleted, recordRolledBack, bucketDeleted) }
	for tries := 1; ; tries++ {
		limit := takePatience
		if r.l.calm {
			limit = recovery
		}
		r.l.mu.Lock()
		going := r.l.going
		r.l.mu.Unlock()
		ctx, cancel := context.WithTimeout(going, limit)
		err := f(ctx)
		cancel()
		waits := errors.Is(err, client.ErrUnavailable)
		switch {
		case err == nil:
			return nil
		case waits && going.Err() != nil:
			return errThere
		case (waits || isAny(err, passing)) && r.l.isOver() && (!r.sits || lost()):
			return errGivenUp
		case (r.l.calm || tries > mostTries) && waits:
			if r.b != nil {
				if status, err := r.b.Status(context.Background()); err == nil {
					r.note("hangs: %+v", status)
				}
			}
			return &hang{err}
		case waits, isAny(err, passing):
			if tries < 3 || tries%10 == 0 {
				r.note("again: %v", err)
			}
		default:
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// isOver reports whether the run is over for a rank.
func (l *launches) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// open begins the life of the rank's process, unless it lives.
func (r *rank) open() error {
	if r.b != nil {
		return nil
	}
	if r.nc != nil {
		r.nc.Close() // it was given up before
	}
	e := r.endpoint()
	nc, err := r.l.w.connect(context.Background(), e)
	if err != nil {
		return err
	}
	r.nc = nc
	p, world := &r.l.w.plan, r.world
	cfg := client.Config{
		Name: batcherName, Dataset: sequenceName, Params: p.Params, Window: p.Window, Retain: p.Retain,
		TakeOver: r.takeOver, Logger: r.l.w.logger(e), World: &world,
	}
	return r.within(func(ctx context.Context) error {
		b, err := client.Open[schema.Batch](ctx, nc, cfg)
		if err == nil {
			r.b = b
		}
		return err
	}, client.ErrInUse) // until the lease of who died before has run out
}

// close ends the process as its own code would, and returns why nobody may have heard of it.
func (r *rank) close() (err error) {
	if r.b == nil {
		err = errGivenUp
	} else if err = r.b.Close(); err != nil {
		r.note("close: %v", err)
	}
	r.ended()
	return err
}

// crash ends the process as kill -9 would.
func (r *rank) crash() {
	r.endpoint().close()
	if r.b != nil {
		r.nc.Close()
		_ = r.b.Close() // nobody hears of it
	}
	r.ended()
}

func (r *rank) ended() {
	if r.nc != nil {
		r.nc.Close()
	}
	r.endpoint().close()
	r.b, r.nc, r.sits = nil, nil, false
}

// follow goes the way until all ranks are at the goal. Who is there goes on, so that none of them waits for another
// that does not ask for anything.
func (r *rank) follow() (err error) {
	defer func() {
		if errors.Is(err, errThere) {
			err = nil
		}
		if err != nil {
			r.note("ends: %v", err)
			r.l.mu.Lock()
			r.l.over, r.out, r.unbegun = true, true, !r.sits
			r.l.arrive()
			r.l.mu.Unlock()
			_ = r.close() // as a process does that ends with an error
		}
	}()
	if r.b == nil {
		if !r.l.calm && r.rng.IntN(2) == 0 {
			r.late(5 * time.Second)
		}
		if err := r.open(); err != nil {
			return err
		}
	}
	for r.l.going.Err() == nil {
		if !r.l.calm {
			if err := r.whim(); err != nil || r.left {
				return err
			}
		}
		if err := r.take(); err != nil {
			return fmt.Errorf("at %d, %v: %w", r.at, r.oracle.State, err)
		}
		if think := about(r.rng, time.Duration(r.l.w.plan.ThinkUS)*time.Microsecond); think > 0 {
			time.Sleep(think)
		}
	}
	return nil
}

// late has the process begin some time after others.
func (r *rank) late(most time.Duration) {
	wait := time.Duration(r.rng.Int64N(int64(most)))
	r.l.w.count("rank joined late")
	r.note("comes %v late", wait)
	time.Sleep(wait)
}

// take takes the rank's rows of one batch, and checks them.
func (r *rank) take() error {
	p, err := r.l.way.at(r.at)
	if err != nil {
		return err
	}
	if r.starts != nil {
		if err := r.start(*r.starts); err != nil {
			return err
		}
		r.starts = nil
	}
	if p.moved || !r.sits {
		r.oracle.State = p.from
	}
	var seq uint64
	err = r.within(func(ctx context.Context) error {
		if !r.l.calm && r.rng.IntN(20) == 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, about(r.rng, 20*time.Millisecond))
			defer cancel()
		}
		step, err := r.b.Take(ctx, r.oracle.State)
		err = r.oracle.Check(step, err)
		if err == nil {
			err = r.l.way.took(r.at, r.number, step)
		}
		seq = step.Seq
		step.Release()
		waits := errors.Is(err, client.ErrUnavailable) && !r.l.calm && !p.moved
		if waits && r.seq > 0 && r.rng.IntN(8) == 0 && r.mayDie() {
			return errKilled // past holes, it may be
		}
		return err
	})
	switch {
	case errors.Is(err, errKilled):
		return r.die()
	case err != nil && !errors.Is(err, io.EOF):
		return err
	}
	if p.end {
		seq = 0
	}
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	r.seq, r.atEnd, r.sits, r.again = seq, p.end, true, false
	r.at++
	r.l.arrive()
	return nil
}

// whim is what a rank does now and then beside taking.
func (r *rank) whim() error {
	switch k := r.rng.IntN(400); {
	case k < 4 && (r.seq > 0 || r.atEnd) && r.mayDie():
		return r.die()
	case k < 8:
		r.l.w.count("rank paused")
		time.Sleep(time.Duration(r.rng.Int64N(int64(longest))))
	case k == 8 && r.sits && r.starts == nil:
		r.l.w.count("rank left")
		r.note("leaves")
		_ = r.close() // whether anybody heard of it or not
		r.l.mu.Lock()
		defer r.l.mu.Unlock()
		r.left = true
		r.l.arrive()
	}
	return nil
}

// mayDie reports whether this rank may be killed and begun again from where it was, and has it count as killed: no
// other rank is more than a step behind, as those are not who average their gradients, and none is killed as well,
// which could not say any more how far it was.
func (r *rank) mayDie() bool {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	for _, other := range r.l.ranks {
		if other != r && !other.left && (other.again || other.at < r.at-1) {
			return false
		}
	}
	r.again = true
	return true
}

// die ends the process, and begins another, sooner or later, from the state after the last take, or from the one before
// it if nobody was told of the take.
func (r *rank) die() error {
	e := r.endpoint()
	r.crash()
	r.l.w.count("rank killed")
	// The end leaves no state at the rank: it is where it was, whether it said so or not.
	told, again := !r.atEnd && r.l.w.checks.told(e.name, r.seq), r.rng.IntN(2) == 0
	r.note("is killed at %d, batch %d, told %v", r.at, r.seq, told)
	after := r.oracle.State
	next, err := r.l.way.at(r.at)
	if err != nil {
		return err
	}
	if again && !told {
		r.l.w.count("rank begun before its last take")
		r.l.mu.Lock()
		r.at--
		r.l.mu.Unlock()
	}
	r.seq, r.atEnd, r.takeOver = 0, false, r.rng.IntN(2) == 0
	r.mu.Lock()
	r.net = r.l.w.endpoint("client")
	r.mu.Unlock()
	if r.rng.IntN(2) == 0 {
		r.late(10 * time.Second)
	}
	if next.moved && (!again || told) { // it is where it was before it moves
		r.starts = &after
	}
	return r.open()
}

// hearStop goes on until it hears that the run was stopped.
func (r *rank) hearStop() error {
	if r.b == nil {
		return nil
	}
	if p, err := r.l.way.at(r.at); err != nil || p.moved || !r.sits { // it would ask to move
		return r.within(r.b.Stop)
	}
	for range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), takePatience)
		step, err := r.b.Take(ctx, r.oracle.State)
		cancel()
		err = r.oracle.Check(step, err)
		step.Release()
		var wrong *testset.Violation
		switch {
		case errors.Is(err, client.ErrStopped):
			return nil
		case errors.As(err, &wrong):
			return err
		case err != nil:
			r.note("does not hear of the stop: %v", err)
			err = r.within(r.b.Stop)
			if err != nil && r.l.explains(err) {
				return nil // that was its error: it is stopped
			}
			return err
		}
	}
	return errors.New("a rank took 1000 batches more of a run that another stopped")
}

// start starts the run at a state, with all other ranks.
func (r *rank) start(state schema.State) error {
	if err := r.open(); err != nil {
		return err
	}
	r.seq, r.atEnd, r.oracle.State = 0, false, state
	err := r.within(func(ctx context.Context) error { return r.b.Start(ctx, state) })
	r.sits = r.sits || err == nil
	return err
}

// displaced goes on in a world that another took over from.
func (r *rank) displaced() error {
	defer r.crash()
	if r.b == nil {
		return nil
	}
	for range 1000 {
		ctx, cancel := context.WithTimeout(context.Background(), takePatience)
		step, err := r.b.Take(ctx, r.oracle.State)
		cancel()
		if errors.Is(err, client.ErrSuperseded) {
			return nil
		}
		err = r.oracle.Check(step, err)
		step.Release()
		var wrong *testset.Violation
		switch {
		case errors.As(err, &wrong):
			return err
		case err != nil: // nobody tells it while it is cut off
			return nil
		}
	}
	if r.l.w.injected(recordDeleted, recordRolledBack, bucketDeleted) {
		return nil // the record that knew of the take-over may be gone
	}
	return errors.New("a rank of a world that was displaced took 1000 batches more")
}
