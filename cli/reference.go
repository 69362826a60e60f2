package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// reference is dataset.Sequential on bytes: it verifies any data set that is compiled in, whatever its types.
type reference struct {
	kind  *kind.Kind
	inst  *kind.Opened
	state []byte
	n     int
}

// openReference opens the data set named name at state; close lets go of it.
func (a *app) openReference(ctx context.Context, name string, params json.RawMessage, state schema.State) (ref *reference, closing func(), err error) {
	var k *kind.Kind
	for _, d := range a.defs {
		if d.Name() == name {
			if err := d.Validate(); err != nil {
				return nil, nil, err
			}
			k = kind.Of(d)
		}
	}
	if k == nil {
		return nil, nil, a.notHere(name)
	}
	if !state.IsZero() && (state.Dataset != "" && state.Dataset != k.Name || state.Version != 0 && state.Version != k.Version) {
		return nil, nil, fmt.Errorf("%w: it is of %s@%d, and this is %s@%d", kind.ErrWrongState, state.Dataset, state.Version, k.Name, k.Version)
	}
	inst, release, err := k.Acquire(ctx, params)
	if err != nil {
		return nil, nil, fmt.Errorf("reference: %w", err)
	}
	ref = &reference{kind: k, inst: inst, state: state.Data}
	if state.IsZero() {
		if ref.state, err = inst.Start(); err != nil {
			release()
			return nil, nil, fmt.Errorf("reference: %w", err)
		}
	}
	return ref, func() { release(); k.CloseIdle() }, nil
}

// checkOrigin returns what this machine has, if a state is of something else.
func (r *reference) checkOrigin(state schema.State) error {
	if here := r.inst.Origin; !state.IsZero() && state.Origin != "" && state.Origin != here.Digest {
		return errors.New(strings.Join(here.Differences(nil)[1:], "; "))
	}
	return nil
}

// beginAt refuses a state of other parameters or data, unless the change is accepted: then it goes on where the data
// set says, as the service does, though what the state was of is not known here.
func (r *reference) beginAt(state schema.State, accept bool) error {
	err := r.checkOrigin(state)
	switch {
	case err == nil:
		return nil
	case !accept:
		return fmt.Errorf("%w: it was made with others than these: %w", kind.ErrWrongData, err)
	}
	rebaser, ok := r.inst.Instance.(kind.Rebaser)
	if !ok {
		return nil
	}
	rebased, err := rebaser.Rebase(state.Data, nil)
	switch {
	case errors.Is(err, kind.ErrNoRebase):
		return nil
	case err != nil:
		return fmt.Errorf("%w: the state means nothing there: %w", kind.ErrWrongData, err)
	}
	r.state = rebased
	return nil
}

// next returns the payload that follows and moves on; jobs that the data set skips are passed over. At the end of the
// data it returns io.EOF.
func (r *reference) next(ctx context.Context) (payload []byte, err error) {
	for {
		job, next, err := r.inst.Next(r.state)
		if err != nil {
			return nil, err
		}
		pieces, _, err := r.inst.Materialize(ctx, job, nil)
		if _, skipped := dataset.SkipReason(err); skipped {
			r.state = next
			continue
		}
		if err != nil {
			return nil, err
		}
		r.state = next
		r.n++
		return wire.Pieces(pieces).AppendTo(nil), nil
	}
}

// compare checks a batch that was taken, and the state after it, against the reference's next.
func (r *reference) compare(ctx context.Context, payload []byte, next schema.State) error {
	if err := r.checkOrigin(next); err != nil {
		return fmt.Errorf("%w: batch %d: the service has other parameters or data than this machine, which has: %w",
			errDiffers, r.n+1, err)
	}
	want, err := r.next(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: batch %d: the reference has none: %w", errDiffers, r.n+1, err)
	}
	return differ(r.n, payload, want, next.Data, r.state)
}

// end checks that the data ends here.
func (r *reference) end(ctx context.Context) error {
	switch _, err := r.next(ctx); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("%w: the data ended after %d batches, but the reference fails: %w", errDiffers, r.n, err)
	}
	return fmt.Errorf("%w: the data ended after %d batches, but the reference has another", errDiffers, r.n-1)
}

// differ says where batch n, or the state after it, is not what the reference gives; nil if they are identical.
func differ(n int, got, want, gotState, wantState []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: batch %d: %d bytes, the reference has %d; the first difference is at byte %d",
			errDiffers, n, len(got), len(want), commonPrefix(got, want))
	}
	if !bytes.Equal(gotState, wantState) {
		return fmt.Errorf("%w: the state after batch %d: %x, the reference has %x", errDiffers, n, gotState, wantState)
	}
	return nil
}

func commonPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// named is the state that the next batch follows.
func (r *reference) named() schema.State {
	return schema.State{
		Dataset: r.kind.Name, Version: r.kind.Version, Origin: r.inst.Origin.Digest, Data: r.state,
	}
}
