package worker

import (
	"context"
	"encoding/json"
	"sync"

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

// acquire returns the instance; done must be called when err is nil. An opening that failed is a *machineError.
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
	if ctx.Err() != nil && err != nil {
		return nil, err // it was not waited for
	}
	if err != nil {
		return nil, &machineError{o.kind.Name, err} // the coordinator has opened it
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
	return nil, nil, o.otherData(ctx, inst)
}

// check opens the data set anew, to see whether that can be done here and gives what the run was begun on.
func (o *opened) check(ctx context.Context) error {
	inst, release, err := o.kind.Reopen(ctx, o.params)
	if err == nil {
		defer release()
		if o.isRuns(inst) {
			return nil
		}
		err = o.otherData(ctx, inst)
	}
	if ctx.Err() != nil {
		return err
	}
	return &machineError{o.kind.Name, err}
}

func (o *opened) otherData(ctx context.Context, inst *kind.Opened) error {
	return &otherDataError{o.kind.Name, inst.Origin.Differences(o.describe(ctx, o.origin))}
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
