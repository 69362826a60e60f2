package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/schema"
)

// run is the state of a handle with what follows from it: a context that ends with the run, and news for Take. It is
// safe for concurrent use.
type run struct {
	name    string          // of the batcher
	handle  context.Context // ends at Close, with ErrClosed
	changed *news

	mu       sync.Mutex
	life     life.Life
	ctx      context.Context // ends when the run does, with its error
	cancel   context.CancelCauseFunc
	failures uint64
	owing    bool  // a Stop has ended the run, and none has returned yet what the owner says of it
	untold   error // the failure that it took the place of
}

func newRun(handle context.Context, name string, changed *news) *run {
	r := &run{name: name, handle: handle, changed: changed}
	r.ctx, r.cancel = context.WithCancelCause(handle)
	return r
}

func (r *run) errClosed() error { return fmt.Errorf("batcher %s: %w", r.name, ErrClosed) }

func (r *run) errStopped() error { return fmt.Errorf("batcher %s: %w", r.name, ErrStopped) }

func (r *run) errSuperseded(by string) error {
	return fmt.Errorf("batcher %s: %w: trainer %s", r.name, ErrSuperseded, cmp.Or(by, "that has left since"))
}

// errLocked is what ended the run, or the handle. Called with mu held.
func (r *run) errLocked() error {
	if r.life.State() == life.Closed {
		return r.errClosed()
	}
	return r.life.Err()
}

// err returns what ended the run, or the handle; nil while nothing did. The end of the data is io.EOF.
func (r *run) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errLocked()
}

// status returns the fault and the error of a run that ended, and whether the run is this handle's still.
func (r *run) status() (fault *schema.Fault, begun bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.life.Fault(), r.life.Begun(), r.errLocked()
}

// context returns the run's. It ends with what ends the run.
func (r *run) context() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ctx
}

// end ends the run with an error that stays until Start, unless it has ended before.
func (r *run) end(err error) { r.blame(err, nil) }

// blame is end with the fault of the job that is to blame. It returns what ended the run: this error, or an earlier
// one.
func (r *run) blame(err error, fault *schema.Fault) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.life.End(err, fault) {
		return r.errLocked()
	}
	if failure(err) {
		r.failures++
	}
	r.over(err)
	return err
}

// finish notes that the data ended, and returns what ended the run: that, or an earlier error.
func (r *run) finish() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.End(io.EOF, nil) { // what is read goes on being read, for another state
		r.changed.tell()
	}
	return r.errLocked()
}

// over ends all that goes on for the run. Called with mu held.
func (r *run) over(err error) {
	r.cancel(err)
	r.changed.tell()
}

// stop ends the run as the trainer wishes, and returns what had ended it before, which told returns too. A seat that
// another reader took is that reader's to stop.
func (r *run) stop() (had error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	had = r.errLocked()
	if errors.Is(had, ErrClosed) || errors.Is(had, ErrSuperseded) || errors.Is(had, ErrStopped) {
		return had
	}
	err := r.errStopped()
	r.life.Stop(err)
	r.over(err)
	r.owing = true
	if !isEnd(had) {
		r.untold = had
	}
	return had
}

// owe notes an error of the run that is stopped, if there is one, for the first Stop that the owner answers.
func (r *run) owe(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.owing && r.untold == nil {
		r.untold = err
	}
}

// told returns the error that the run had, once.
func (r *run) told() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	err, r.owing, r.untold = r.untold, false, nil
	return err
}

// close ends the handle. It reports whether that is news, and whether another reader has the seat.
func (r *run) close() (news, superseded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	superseded = errors.Is(r.life.Err(), ErrSuperseded)
	if !r.life.Close() {
		return false, superseded
	}
	r.over(r.errClosed())
	return true, superseded
}

// revive makes a run that ended one that can be started.
func (r *run) revive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.Revive() {
		r.owing, r.untold = false, nil
		r.cancel(nil) // of no run that goes on
		r.ctx, r.cancel = context.WithCancelCause(r.handle)
	}
}

// sit notes that there is a seat, or returns what ended the run meanwhile.
func (r *run) sit() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.life.Sit() {
		return r.errLocked()
	}
	return nil
}

// suspect raises a doubt.
func (r *run) suspect(why string, weight life.Weight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.Suspect(life.Doubt{Why: why, Weight: weight}) {
		r.changed.tell()
	}
}

// settle ends a doubt that the arrival of the head settles.
func (r *run) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.life.Settle(life.Silent)
}

// doubting reports whether there is a doubt, and returns what ended the run.
func (r *run) doubting() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.life.State() == life.Doubting, r.errLocked()
}

// repair counts a repair and returns its doubt, with how many there were since the last batch, and how many of these
// were about what is stored. A doubt that was settled meanwhile has no weight.
func (r *run) repair() (d life.Doubt, repairs, damages int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life.State() != life.Doubting {
		return d, 0, 0
	}
	d = r.life.Doubt()
	repairs, damages = r.life.Repair()
	return d, repairs, damages
}

// progress notes that a batch was taken.
func (r *run) progress() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.life.Progress()
}

// failed returns how many runs ended with a failure.
func (r *run) failed() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failures
}

// failure reports whether err, which ends a run, is a failure and not the wish of a trainer, this one or another.
func failure(err error) bool {
	return !errors.Is(err, ErrStopped) && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrSuperseded)
}
