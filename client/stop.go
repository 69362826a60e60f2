package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	// Close asks for so long while it is told to ask again: a coordinator that has just begun waits for the lease of
	// the one before.
	leaveTimeout = 6 * time.Second
	// And for so long while there is no answer at all.
	leaveDeaf = 2 * time.Second
)

// stop is Batcher.Stop.
func (r *reader) stop(ctx context.Context) error {
	if err := r.quit(ctx); err != nil {
		return err
	}
	return r.run.told()
}

// quit ends the run, here and at the owner. The error is of that: the run keeps the one that it had.
func (r *reader) quit(ctx context.Context) error {
	had := r.run.stop()
	if errors.Is(had, ErrClosed) || errors.Is(had, ErrSuperseded) {
		return had // the run is another's
	}
	r.line.owner.set(schema.PhaseClosed)
	var failed *schema.Fault
	err := r.ask.ask(ctx, r.ending(false, func(reply *wire.StopReply) { failed = reply.Error }))
	if err != nil && !errors.Is(err, ErrStopped) {
		return err
	}
	if failed != nil {
		r.run.owe(r.cfg.faultError(failed))
	}
	return nil
}

// close is Batcher.Close.
func (r *reader) close() error {
	first, superseded := r.line.close()
	if !first {
		return nil
	}
	r.unregister()
	r.cancel(r.run.err())
	r.both.close()
	r.tasks.Wait()
	r.empty()
	r.intake.fetcher.conns.close()
	if superseded {
		r.lock.remove()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	deaf := time.AfterFunc(leaveDeaf, func() { giveUp(context.DeadlineExceeded) })
	defer deaf.Stop()
	q := r.ending(true, func(*wire.StopReply) { deaf.Stop() })
	q.run, q.limit = context.Background(), leaveDeaf // the handle has ended
	if err := r.ask.ask(ctx, q); err != nil && !errors.Is(err, ErrSuperseded) && !errors.Is(err, ErrStopped) {
		r.lock.abandon() // it says that the seat is free
		return fmt.Errorf("leave: %w", err)
	}
	r.lock.remove()
	return nil
}

// ending is the request that ends the run or gives up the seat, with the last word on how far the trainer came.
func (r *reader) ending(leave bool, told func(*wire.StopReply)) question {
	last := r.line.credit(time.Now(), true)
	return question{
		op: "stop", limit: requestTimeout, run: r.handle,
		body: &wire.StopRequest{Batcher: r.cfg.Name, Request: r.ask.newID(), Reader: r.line.id,
			Secret: r.line.secret, Rank: r.cfg.place(), Leave: leave, Last: &last},
		decode: func(subject string, data []byte) (*schema.Fault, error) {
			var reply wire.StopReply
			err := readAnswer(subject, data, &reply)
			told(&reply)
			return reply.Fault, err
		},
	}
}
