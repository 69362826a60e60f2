//go:build linux

package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	stepsAhead = 32  // that a process iterates at a time, if it is quick
	keptAhead  = 512 // steps that were iterated and not asked for yet, of all positions
)

// instance is a data set with parameters. Each process opens it when it first needs it.
type instance struct {
	set    *Set
	handle uint64
	params string

	silent atomic.Bool // the data set does not say how far a state is

	mu    sync.Mutex
	print *dataset.Fingerprint // of the first process that opened it; nil before
	ahead map[string]following // what follows a state
	order []string             // the states of ahead, oldest first; some may be gone from there
}

// Fingerprint is what the first process that opened the data set says of its data.
func (i *instance) Fingerprint(context.Context) (dataset.Fingerprint, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return *i.print, nil
}

// sees compares what a process that opened the data set says of its data with what the first said.
func (i *instance) sees(print dataset.Fingerprint) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.print == nil {
		i.print = &print
	}
	if i.print.Digest != print.Digest {
		return errors.New("its data changed since it was opened")
	}
	return nil
}

// readFingerprint reads what a data set says of its data: nil for nothing.
func readFingerprint(dec *msgpack.Decoder) (print dataset.Fingerprint, err error) {
	var said *struct {
		Digest  string      `msgpack:"digest"`
		Parts   [][2]string `msgpack:"parts"`
		Ignore  []string    `msgpack:"ignore"`
		Summary string      `msgpack:"summary"`
	}
	if err := dec.Decode(&said); err != nil {
		return print, &brokenError{fmt.Errorf("%w: fingerprint: %w", bridge.ErrFrame, err)}
	}
	if said == nil {
		return print, nil
	}
	print = dataset.Fingerprint{Digest: said.Digest, Ignore: said.Ignore, Summary: said.Summary}
	for _, p := range said.Parts {
		print.Parts = append(print.Parts, dataset.Part{Name: p[0], Value: p[1]})
	}
	return print, nil
}

// following is a step of the iterator.
type following struct{ job, next []byte }

// Start returns the first state.
func (i *instance) Start() (state []byte, err error) {
	err = i.iterate(func(ctx context.Context, p *proc) error {
		dec, err := p.call(ctx, "start", i.handle)
		if err != nil {
			return err
		}
		if state, err = dec.DecodeBytes(); err != nil {
			return &brokenError{fmt.Errorf("%w: start: %w", bridge.ErrFrame, err)}
		}
		return nil
	})
	return state, err
}

// Next returns what follows a state. Since it is a pure function, the process is asked for many steps at a time.
func (i *instance) Next(state []byte) (job, next []byte, err error) {
	if f, ok := i.known(state); ok {
		return f.job, f.next, nil
	}
	var steps []following
	err = i.iterate(func(ctx context.Context, p *proc) error {
		dec, err := p.call(ctx, "next", i.handle, state, stepsAhead)
		if err != nil {
			return err
		}
		if steps, err = readSteps(dec); err != nil {
			return &brokenError{fmt.Errorf("%w: next: %w", bridge.ErrFrame, err)}
		}
		return nil
	})
	if err != nil {
		if errors.Is(err, errEnd) {
			err = io.EOF
		}
		return nil, nil, err
	}
	i.keep(steps)
	return steps[0].job, steps[0].next, nil
}

func (i *instance) known(state []byte) (following, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f, ok := i.ahead[string(state)]
	return f, ok
}

// keep remembers all steps but the first, and forgets the oldest where there are too many.
func (i *instance) keep(steps []following) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k := 1; k < len(steps); k++ {
		key := string(steps[k-1].next)
		if _, ok := i.ahead[key]; !ok {
			i.order = append(i.order, key)
		}
		i.ahead[key] = steps[k]
	}
	for len(i.order) > keptAhead {
		delete(i.ahead, i.order[0])
		i.order = i.order[1:]
	}
}

func readSteps(dec *msgpack.Decoder) ([]following, error) {
	n, err := dec.DecodeArrayLen()
	if err != nil {
		return nil, err
	}
	if n < 1 || n > stepsAhead {
		return nil, fmt.Errorf("%d steps, not 1 to %d", n, stepsAhead)
	}
	steps := make([]following, n)
	for k := range steps {
		if _, err := bridge.Array(dec, 2); err != nil {
			return nil, err
		}
		if steps[k].job, err = dec.DecodeBytes(); err != nil {
			return nil, err
		}
		if steps[k].next, err = dec.DecodeBytes(); err != nil {
			return nil, err
		}
		if len(steps[k].next) > schema.MaxState {
			size := len(steps[k].next)
			return nil, fmt.Errorf("%w: %d bytes encoded, at most %d", schema.ErrStateTooLarge, size, schema.MaxState)
		}
	}
	return steps, nil
}

// Progress asks the process that iterates how far a state is. A data set that does not say so is asked once.
func (i *instance) Progress(state []byte) (at dataset.Progress, err error) {
	if i.silent.Load() {
		return at, kind.ErrNoProgress
	}
	err = i.iterate(func(ctx context.Context, p *proc) error {
		dec, err := p.call(ctx, "progress", i.handle, state)
		if f := (*failure)(nil); errors.As(err, &f) && f.code == "bad_request" {
			i.silent.Store(true) // a program that knows of no progress
			return kind.ErrNoProgress
		}
		if err != nil {
			return err
		}
		var said []uint64
		err = dec.Decode(&said)
		switch {
		case err != nil:
			return &brokenError{fmt.Errorf("%w: progress: %w", bridge.ErrFrame, err)}
		case said == nil:
			i.silent.Store(true)
			return kind.ErrNoProgress
		case len(said) != 4:
			return &brokenError{fmt.Errorf("%w: progress: %d numbers, not four", bridge.ErrFrame, len(said))}
		}
		at = dataset.Progress{Epoch: said[0], Epochs: said[1], Batch: said[2], Batches: said[3]}
		return nil
	})
	return at, err
}

// iterate calls f with the process that iterates, for a bounded time.
func (i *instance) iterate(f func(context.Context, *proc) error) error {
	limit := i.set.cfg.NextTimeout
	late := fmt.Errorf("the iterator did not return within %v", limit)
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, late)
	defer cancel()
	return i.set.pure(ctx, i, func(p *proc) error { return f(ctx, p) })
}

// Materialize has a process make a batch, and copies it into scratch: the process writes its memory again for the next.
func (i *instance) Materialize(ctx context.Context, job, scratch []byte) (pieces [][]byte, grown []byte, err error) {
	grown = scratch
	err = i.set.with(ctx, i.set.slots, i, func(p *proc) error {
		dec, err := p.call(ctx, "materialize", i.handle, job, kind.Trace(ctx))
		if err != nil {
			return err
		}
		size, err := dec.DecodeUint64()
		if err != nil {
			return &brokenError{fmt.Errorf("%w: materialize: a size: %w", bridge.ErrFrame, err)}
		}
		if size > wire.MaxPayload {
			return &brokenError{fmt.Errorf("%w: a batch of %d bytes", bridge.ErrFrame, size)}
		}
		view, err := p.region.View(int(size))
		if err != nil {
			return &brokenError{err}
		}
		grown = append(scratch[:0], view...)
		return nil
	})
	if err != nil {
		return nil, grown, err
	}
	return [][]byte{grown}, grown, nil
}

// Close lets go of what was iterated ahead, and has the processes that are idle close the data set.
func (i *instance) Close() error {
	i.mu.Lock()
	i.ahead, i.order = make(map[string]following), nil
	i.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	return i.set.shut(ctx, i)
}
