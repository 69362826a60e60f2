package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"syscall"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// opened is the data set of a lane: opened with the first job, kept until the lane is closed and its last
// job has ended.
type opened struct {
	kind     *kind.Kind
	params   json.RawMessage
	origin   string                                                // that the run was begun on; empty for unknown
	describe func(ctx context.Context, digest string) *kind.Origin // what an origin stands for; nil for unknown

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
	had := o.inst
	if had != nil {
		o.users++
	}
	o.mu.Unlock()
	if had != nil {
		return had, nil
	}
	inst, release, err := o.open(ctx)
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
	release() // another job of this lane opened it at the same time
	return inst, nil
}

// open opens the data set that the run was begun on. Where this process has opened it on other data before, they may be
// the run's by now.
func (o *opened) open(ctx context.Context) (kind.Instance, func(), error) {
	inst, release, err := o.kind.Acquire(ctx, o.params)
	if err != nil || o.isRuns(inst) {
		return inst, release, err
	}
	release()
	inst, release, err = o.kind.Reopen(ctx, o.params)
	if err != nil || o.isRuns(inst) {
		return inst, release, err
	}
	defer release()
	return nil, nil, &otherDataError{o.kind.Name, inst.Origin.Differences(o.describe(ctx, o.origin))}
}

func (o *opened) isRuns(inst *kind.Opened) bool {
	return o.origin == "" || o.origin == inst.Origin.Digest
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

// otherDataError says that this machine has other parameters or data than those that the run was begun on. A batch that it
// made would be of another sequence.
type otherDataError struct {
	dataset     string
	differences []string // from the run's
}

func (e *otherDataError) Error() string {
	return fmt.Sprintf("has other data of %s than the run: %s", e.dataset, strings.Join(e.differences, "; "))
}

// machineError is an opening of a data set that failed for a reason of this machine, and so says nothing of the job.
type machineError struct {
	dataset string
	cause   error
}

func (e *machineError) Error() string {
	var other *otherDataError
	if errors.As(e.cause, &other) {
		return other.Error()
	}
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
	var other *otherDataError
	if errors.As(err, &other) {
		return true
	}
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
