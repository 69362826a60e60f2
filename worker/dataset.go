package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// opened is the data set of a lane: opened with the first job, kept until the lane is closed and its last
// job has ended.
type opened struct {
	kind   *kind.Kind
	params json.RawMessage

	mu      sync.Mutex
	inst    kind.Instance
	release func()
	users   int
	closed  bool
}

// acquire returns the instance; done must be called when err is nil. It returns a *machineError when the reason may be
// this machine's.
func (o *opened) acquire(ctx context.Context) (kind.Instance, error) {
	o.mu.Lock()
	inst := o.inst
	if inst != nil {
		o.users++
	}
	o.mu.Unlock()
	if inst != nil {
		return inst, nil
	}
	inst, release, err := o.kind.Acquire(ctx, o.params)
	if err != nil {
		if ofMachine(err) {
			err = &machineError{o.kind.Name, err}
		}
		return nil, err
	}
	o.mu.Lock()
	o.users++
	if o.inst == nil {
		o.inst, o.release, release = inst, release, func() {}
	}
	inst = o.inst
	o.mu.Unlock()
	release() // another job of this lane opened it at the same time; the kind shares one instance
	return inst, nil
}

func (o *opened) done() {
	o.mu.Lock()
	o.users--
	o.finish()
}

func (o *opened) close() {
	o.mu.Lock()
	o.closed = true
	o.finish()
}

// finish unlocks o.mu and gives up the instance of a closed lane without users.
func (o *opened) finish() {
	release := func() {}
	if o.closed && o.users == 0 && o.release != nil {
		release, o.inst, o.release = o.release, nil, nil
	}
	o.mu.Unlock()
	release()
}

// machineError is an opening of a data set that failed for a reason of this machine, and so says nothing of the job.
type machineError struct {
	dataset string
	cause   error
}

func (e *machineError) Error() string {
	var path *fs.PathError
	if errors.As(e.cause, &path) {
		return fmt.Sprintf("cannot open %s: %s: %v", e.dataset, path.Path, path.Err)
	}
	return fmt.Sprintf("cannot open %s: %v", e.dataset, e.cause)
}

func (e *machineError) Unwrap() error { return e.cause }

// ofMachine reports whether an opening failed for want of something that another machine may have: a mount, a
// permission, space, memory or descriptors. The coordinator has opened the same data set.
func ofMachine(err error) bool {
	for _, cause := range []error{
		fs.ErrNotExist, fs.ErrPermission, syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE,
		syscall.ENOMEM, syscall.EIO, syscall.ESTALE, syscall.ENOTCONN,
	} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}
