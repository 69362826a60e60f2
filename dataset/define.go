package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Definition is a named kind of data set, to be given to coordinators, workers, embedded.Start or cli.Main.
type Definition struct {
	kind *kind.Kind
}

// Define names a kind of data set. open is called with the parameters that the trainer sent, once per
// process and parameter set; a data set that is an io.Closer is closed after its last job. Coordinators
// use only Next, workers only Materialize, so open should put off whatever only one of them needs.
//
// Parameters travel as JSON: P has json tags, and fields that P does not have are an error. The name is 1
// to 64 letters, digits, '-' and '_'; the version is 1 until WithVersion.
func Define[P, S, J, B any, D Dataset[S, J, B]](name string, open func(context.Context, P) (D, error)) Definition {
	openBytes := func(ctx context.Context, raw json.RawMessage) (kind.Instance, error) {
		var params P
		if err := decodeParams(raw, &params); err != nil {
			return nil, err
		}
		ds, err := open(ctx, params)
		if err != nil {
			return nil, err
		}
		return &instance[S, J, B]{ds: ds}, nil
	}
	return Definition{&kind.Kind{Name: name, Version: 1, OpenFunc: openBytes}}
}

// WithVersion returns the definition under another version. Raise it when the same state would yield
// other jobs or batches than before: states of another version are refused.
func (d Definition) WithVersion(version uint32) Definition {
	return Definition{&kind.Kind{Name: d.kind.Name, Version: version, OpenFunc: d.kind.OpenFunc}}
}

// Name returns the data set's name; empty for the zero Definition, which coordinators and workers refuse.
func (d Definition) Name() string {
	if d.kind == nil {
		return ""
	}
	return d.kind.Name
}

// Version returns the data set's version.
func (d Definition) Version() uint32 { return d.kind.Version }

// Kind is what coordinator and worker see of the definition.
func (d Definition) Kind() *kind.Kind { return d.kind }

func decodeParams(raw json.RawMessage, params any) error {
	if len(raw) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(params); err != nil {
		return fmt.Errorf("%w: %w", kind.ErrBadParams, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one JSON value", kind.ErrBadParams)
	}
	return nil
}

// instance adapts an author's data set to bytes.
type instance[S, J, B any] struct {
	ds Dataset[S, J, B]
}

func (i *instance[S, J, B]) Start() (state []byte, err error) {
	defer kind.Recover(&err)
	starter, ok := i.ds.(Starter[S])
	if !ok {
		return nil, kind.ErrNoStart
	}
	s, err := starter.Start()
	if err != nil {
		return nil, err
	}
	st, err := schema.NewState(s)
	return st.Data, err
}

func (i *instance[S, J, B]) Next(state []byte) (job, next []byte, err error) {
	defer kind.Recover(&err)
	var s S
	if err := msgp.Unmarshal(state, &s); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", kind.ErrWrongState, err)
	}
	j, n, err := i.ds.Next(s)
	if err != nil {
		return nil, nil, err
	}
	if job, err = msgp.Marshal(j); err != nil {
		return nil, nil, fmt.Errorf("encode job: %w", err)
	}
	if next, err = msgp.Marshal(n); err != nil {
		return nil, nil, fmt.Errorf("encode state: %w", err)
	}
	if len(next) > schema.MaxState {
		return nil, nil, fmt.Errorf("%w: %d bytes encoded, at most %d", schema.ErrStateTooLarge, len(next), schema.MaxState)
	}
	return job, next, nil
}

func (i *instance[S, J, B]) Materialize(ctx context.Context, job, scratch []byte) (pieces [][]byte, grown []byte, err error) {
	grown = scratch // after a panic, too
	defer kind.Recover(&err)
	var j J
	if err := msgp.Unmarshal(job, &j); err != nil {
		return nil, scratch, Permanent(fmt.Errorf("decode job: %w", err))
	}
	b, err := i.ds.Materialize(ctx, j)
	if err != nil {
		return nil, scratch, err
	}
	pieces, grown, err = wire.PayloadPieces(scratch, b)
	if err != nil {
		return nil, scratch, Permanent(fmt.Errorf("encode batch: %w", err))
	}
	return pieces, grown, nil
}

func (i *instance[S, J, B]) Close() (err error) {
	defer kind.Recover(&err)
	if c, ok := i.ds.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
