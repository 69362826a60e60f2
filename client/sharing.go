package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	// Take asks for so long whether a reader that goes on alone may come back to the others.
	joinPatience = 500 * time.Millisecond
	// And so many windows of takes later than usual where there was no answer.
	joinPause = 7
)

// sharing is the handle of one of several readers: it reads the batcher that they share, or, while it cannot go with
// the others, one of its own beside that. Its place among the readers is the shared batcher's to say: a handle that was
// superseded, stopped or closed there takes nothing beside it either.
type sharing struct {
	cfg   Config // as the trainer gave it
	nc    *nats.Conn
	align bool
	main  *reader

	leaving sync.WaitGroup // readers beside, that are not needed any more

	mu     sync.Mutex
	side   *reader // nil while the reader goes with the others
	closed bool
	since  int // takes since it was last asked whether it may come back; of Take and Start
}

// beside returns the reader of the batcher beside, nil while none is needed. One whose handle has ended meanwhile is
// given up.
func (s *sharing) beside() *reader {
	s.mu.Lock()
	side := s.side
	s.mu.Unlock()
	if side != nil && s.main.run.err() != nil {
		s.leave(side)
		return nil
	}
	return side
}

// take is Batcher.Take on bytes.
func (s *sharing) take(
	ctx context.Context, asked schema.State, decode func(payload []byte, size int) error,
) (taken, error) {
	if side := s.beside(); side != nil && !s.returns(ctx, side, asked) {
		return s.takeBeside(ctx, side, asked, decode)
	}
	t, err := s.main.take(ctx, asked, decode)
	if !errors.Is(err, errElsewhere) {
		return t, err
	}
	side, err := s.goAside(ctx, err)
	if err != nil {
		return taken{}, err
	}
	return s.takeBeside(ctx, side, asked, decode)
}

// within does something beside. The end of the handle in the shared batcher ends that, too.
func (s *sharing) within(ctx context.Context, f func(ctx context.Context) error) error {
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	run := s.main.run.context()
	defer context.AfterFunc(run, func() { cancel(context.Cause(run)) })()
	err := f(within)
	if over := s.main.run.err(); err != nil && over != nil {
		return over
	}
	return err
}

// takeBeside takes from the batcher beside.
func (s *sharing) takeBeside(
	ctx context.Context, side *reader, asked schema.State, decode func(payload []byte, size int) error,
) (t taken, err error) {
	err = s.within(ctx, func(ctx context.Context) error {
		t, err = side.take(ctx, asked, decode)
		return err
	})
	return t, err
}

// startBeside starts the batcher beside.
func (s *sharing) startBeside(ctx context.Context, side *reader, state schema.State) error {
	return s.within(ctx, func(ctx context.Context) error { return side.start(ctx, state) })
}

// returns asks whether the reader may come back to the others, every window of takes and before a move, and reports
// whether it has.
func (s *sharing) returns(ctx context.Context, side *reader, asked schema.State) bool {
	where, _ := side.line.find(asked, "") // side.take finds out what is wrong with the state
	if s.since++; s.since <= side.line.reach() && where != elsewhere {
		return false
	}
	s.since = 0
	if err := s.main.join(ctx, asked); err != nil { // whatever the error is, the run beside goes on
		if !errors.Is(err, errElsewhere) {
			s.since = -joinPause * side.line.reach()
		}
		return false
	}
	s.main.cfg.Logger.Info("going on with the other readers", "beside", side.cfg.Name)
	s.leave(side)
	return true
}

// goAside opens the batcher beside, for a reader that was told that it cannot go with the others.
func (s *sharing) goAside(ctx context.Context, why error) (side *reader, err error) {
	s.main.rest() // the reader has another run then, whose end is to end the opening
	err = s.within(ctx, func(ctx context.Context) error {
		side, err = s.openBeside(ctx, why)
		return err
	})
	return side, err
}

// openBeside is goAside for a reader that rests.
func (s *sharing) openBeside(ctx context.Context, why error) (*reader, error) {
	cfg := s.cfg
	cfg.Name, cfg.Reader, cfg.Lag, cfg.OnLag = wire.BesideName(cfg.Name, cfg.Reader), "", 0, LagDetach
	cfg.TakeOver, cfg.beside = true, true // the name among the readers is ours, and with it this batcher
	s.main.cfg.Logger.Warn("going on alone, since the other readers are elsewhere", "beside", cfg.Name, "why", why)
	side, err := openReader(ctx, s.nc, cfg, s.align)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if !s.closed {
		s.side, s.since = side, 0
	}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		_ = side.close() // Close says whether the shared one was left
		return nil, s.main.run.err()
	}
	return side, nil
}

// leave gives the batcher beside up, whose run nobody needs: only Close waits for it, and cuts the Stop short.
func (s *sharing) leave(side *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.side != side || s.closed {
		return
	}
	s.side = nil
	s.leaving.Go(func() {
		ctx, cancel := context.WithTimeout(s.main.handle, leaveTimeout)
		defer cancel()
		_ = side.stop(ctx) // a run that is not stopped is collected when it was idle for long enough
		_ = side.close()
	})
}

// start is Batcher.Start.
func (s *sharing) start(ctx context.Context, state schema.State) error {
	if side := s.beside(); side != nil {
		if side.run.err() == nil {
			return s.startBeside(ctx, side, state)
		}
		s.leave(side)
	}
	err := s.main.start(ctx, state)
	if !errors.Is(err, errElsewhere) {
		return err
	}
	side, err := s.goAside(ctx, err)
	if err != nil {
		return err
	}
	return s.startBeside(ctx, side, state)
}

// peek is Batcher.Peek on bytes.
func (s *sharing) peek(
	asked schema.State, see func(t taken, size int) error,
) (seen bool, more <-chan struct{}, err error) {
	if side := s.beside(); side != nil {
		return side.peek(asked, see)
	}
	return s.main.peek(asked, see)
}

// takeSeen is Batcher.TakeSeen.
func (s *sharing) takeSeen(ctx context.Context, states []schema.State) (n int, err error) {
	if side := s.beside(); side != nil {
		n, err = side.takeSeen(ctx, states)
		s.since += n
		return n, err
	}
	return s.main.takeSeen(ctx, states)
}

// stop is Batcher.Stop. The error of a run beside is the handle's to tell, since the reader beside is given up.
func (s *sharing) stop(ctx context.Context) error {
	var cut, beside error
	if side := s.beside(); side != nil {
		cut = side.quit(ctx)
		beside = side.run.told()
		s.leave(side)
	}
	err := s.main.quit(ctx)
	s.main.run.owe(beside)
	if err == nil {
		err = cut
	}
	if err != nil {
		return err
	}
	return s.main.run.told()
}

// close is Batcher.Close. Both batchers are left at once: without a coordinator each takes its time.
func (s *sharing) close() error {
	var beside error
	s.mu.Lock()
	if side := s.side; side != nil {
		s.leaving.Go(func() { beside = side.close() })
	}
	s.side, s.closed = nil, true
	s.mu.Unlock()
	err := s.main.close()
	s.leaving.Wait()
	return errors.Join(err, beside)
}

// join sits among the readers of the batcher, if the state is held there and they are not far ahead of it.
func (r *reader) join(ctx context.Context, state schema.State) error {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if err := r.turn.get(ctx, r.handle); err != nil {
		return err
	}
	defer r.giveTurn()
	want := sitting{mode: wire.ModeJoin, state: state, open: true}
	reply, err := r.seats.request(ctx, &want)
	if err != nil {
		return err
	}
	return r.seats.read(&want, &reply)
}

// rest has the reader read no run, and keep its place.
func (r *reader) rest() {
	r.run.rest()
	r.line.rest()
}

// rest ends a run that is read, and leaves the handle idle.
func (r *run) rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.End(errElsewhere, nil) {
		r.over(errElsewhere)
		r.life.Revive()
		r.ctx, r.cancel = context.WithCancelCause(r.handle)
	}
}

// rest drops the results that are here of a run which the reader does not read any more.
func (l *line) rest() {
	l.mu.Lock()
	defer l.unlock()
	l.tally.apart++
	l.buf.Reset(1, nil, 1)
	l.sess, l.holes, l.past, l.ended = nil, nil, 0, false
}

// reach is how many batches may be in flight.
func (l *line) reach() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.window, 1)
}
