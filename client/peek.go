package client

import (
	"context"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Peek shows the batch that follows state without taking it, if it is here with all batches before it: see is called
// with the step, whose batch must not be used after Peek returns. State is the one before the batch that Take returns
// next, or before a batch that lies ready behind it. Peek is for a program that hands batches on to another process and
// prepares the next ones meanwhile; the service counts as taken what Take returns. Like Take it is called by the one
// goroutine that takes.
//
// Where nothing was seen, more is closed when there may be something to see, or when Peek returns an error. An error
// says that what was seen before may not be what Take returns next: the error that ended the run, or ErrUnavailable
// where only Take can find out what comes next. The error of see, or of a batch that does not decode, is returned as it
// is.
func (b *Batcher[B]) Peek(
	state schema.State, see func(Step[B]) error,
) (seen bool, more <-chan struct{}, err error) {
	peek := b.r.peek
	if b.s != nil {
		peek = b.s.peek
	}
	return peek(state, func(t taken, size int) (err error) {
		step := Step[B]{
			Seq: t.seq, Prev: t.prev, Next: t.next, Timing: t.timing,
			Worker: t.worker, Attempt: t.attempt, Deliveries: t.deliveries, Trace: t.trace,
		}
		if step.Batch, step.Rows, err = wire.DecodePart[B](t.payload.bytes, size, &b.r.cfg.part); err != nil {
			return b.r.cfg.decodeError(t.seq, err)
		}
		return see(step)
	})
}

// peek is Batcher.Peek on bytes; see is told the size in bytes of the whole payload, too. It has the turn, so that no
// seat changes and no buffer is used again meanwhile.
func (r *reader) peek(
	asked schema.State, see func(t taken, size int) error,
) (seen bool, more <-chan struct{}, err error) {
	select {
	case r.turn <- struct{}{}:
		defer r.giveTurn()
	default:
		return false, nil, r.cfg.errUnforeseen()
	}
	more = r.line.changed.wait()
	now := time.Now()
	entry, named, ok, err := r.line.ahead(asked)
	if err != nil || !ok {
		return false, more, err
	}
	res, got := entry.Result, &entry.Value
	timing := timingOf(res, got, false, now, now)
	named.Data = res.Next
	return true, more, see(taken{
		seq: res.Seq, prev: asked.Clone(), next: named.Clone(), timing: timing,
		worker: res.Worker, attempt: res.Attempt, deliveries: res.Deliveries, payload: got.payload, trace: got.trace,
	}, int(res.Size))
}

// TakeIf is Take for a program that may have no place for the batch: accept is called with the batch before it is
// taken. An error of accept is returned as it is, and the batch stays untaken: the next Take for the same state
// returns it, or what has ended the run meanwhile.
func (b *Batcher[B]) TakeIf(ctx context.Context, state schema.State, accept func(B) error) (Step[B], error) {
	var step Step[B]
	var t taken
	var err error
	decode := func(payload []byte, size int) (err error) {
		step.Batch, step.Rows, err = wire.DecodePart[B](payload, size, &b.r.cfg.part)
		if err == nil && accept != nil {
			if err := accept(step.Batch); err != nil {
				return declined{err}
			}
		}
		return err
	}
	if b.s == nil {
		t, err = b.r.take(ctx, state, decode)
	} else {
		t, err = b.s.take(ctx, state, decode)
	}
	if err != nil {
		return Step[B]{}, err
	}
	step.Seq, step.Prev, step.Next, step.Timing = t.seq, t.prev, t.next, t.timing
	step.Worker, step.Attempt, step.Deliveries, step.Trace = t.worker, t.attempt, t.deliveries, t.trace
	if !wire.PayloadAliases[B]() {
		t.payload.release() // decoded into memory of its own
		return step, nil
	}
	return step.WithRelease(t.payload.release), nil
}

// declined is the error of a program that does not accept a batch.
type declined struct{ error }

// TakeSeen takes batches that Peek has shown, those after the given states, one after another. It is Take without what
// a program that kept what it saw has no use for: no payload is decoded again, and the service hears once of all of
// them.
//
// TakeSeen does not wait for a batch. It returns how many it took, and an error if those are not all: the error that
// ended the run, or ErrUnavailable where only Take can find out which batch comes next.
func (b *Batcher[B]) TakeSeen(ctx context.Context, states ...schema.State) (taken int, err error) {
	if b.s != nil {
		return b.s.takeSeen(ctx, states)
	}
	return b.r.takeSeen(ctx, states)
}

// takeSeen is Batcher.TakeSeen.
func (r *reader) takeSeen(ctx context.Context, states []schema.State) (n int, err error) {
	c := call{began: time.Now()}
	trace := r.cfg.traceOf(ctx)
	if err := r.turn.get(ctx, r.handle); err != nil {
		return 0, r.ended(ctx, c.began)
	}
	defer r.giveTurn()
	due := false
	defer func() {
		if due {
			r.credits.publish()
		}
	}()
	for _, state := range states {
		where, err := r.line.find(state, trace)
		if err != nil {
			return n, err
		}
		if where != atHead {
			return n, r.cfg.errUnforeseen()
		}
		taken, tell := r.passSeen(c.began)
		due = due || tell
		if !taken {
			return n, r.cfg.errUnforeseen()
		}
		n++
	}
	return n, nil
}

// passSeen takes the batch at the head, after the holes before it, and reports whether it is there and whether a credit
// is due.
func (r *reader) passSeen(began time.Time) (taken, due bool) {
	for {
		now := time.Now()
		s := r.line.look(now, 0)
		if s.err != nil || s.doubt || s.failed != nil {
			return false, due
		}
		switch s.outcome {
		case reorder.Hole:
			due = r.line.pass(&s.entry, now) || due
		case reorder.Batch:
			_, _, tell := r.count(began, &s.entry, now)
			s.entry.Value.payload.release()
			return true, tell || due
		default:
			return false, due
		}
	}
}

func (c *Config) errUnforeseen() error {
	return fmt.Errorf("batcher %s: %w: only Take finds out what comes next", c.Name, ErrUnavailable)
}
