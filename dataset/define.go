package dataset

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"reflect"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/travel"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Definition is a named kind of data set, to be given to coordinators, workers, embedded.Start or cli.Main. Its zero
// value defines nothing: they refuse it.
type Definition struct {
	handle
	author *author
}

// handle keeps the kind from users and not from the roles, which ask kind.Of.
type handle = kind.Handle

// author is what a definition knows of the author's types.
type author struct {
	open    func(context.Context, json.RawMessage) (anyLoop, error)
	batch   reflect.Type
	params  reflect.Type
	invalid error // why values of the types cannot travel
}

// Define names a kind of data set. open is called with the parameters that the trainer sent, once per
// process and parameter set; a data set that is an io.Closer is closed after its last job. Coordinators
// use only Next, workers only Materialize, so open should put off what only one of them needs.
//
// Parameters travel as JSON: P has json tags, and fields that P does not have are an error. [Param] says how their
// meaning is told to users of the command. The name is 1
// to 64 letters, digits, '-' and '_'; the version is 1 until WithVersion.
//
// S, J and B must be types whose values come back from another process as they were: [Definition.Validate], and with it
// every role, refuses others.
func Define[P, S, J, B any, D Dataset[S, J, B]](name string, open func(context.Context, P) (D, error)) Definition {
	openTyped := func(ctx context.Context, raw json.RawMessage) (Dataset[S, J, B], error) {
		var params P
		if err := decodeParams(name, raw, &params); err != nil {
			return nil, err
		}
		return open(ctx, params)
	}
	openBytes := func(ctx context.Context, raw json.RawMessage) (kind.Instance, error) {
		ds, err := openTyped(ctx, raw)
		if err != nil {
			return nil, err
		}
		return &instance[S, J, B]{ds: ds}, nil
	}
	openLoop := func(ctx context.Context, raw json.RawMessage) (anyLoop, error) {
		ds, err := openTyped(ctx, raw)
		if err != nil {
			return nil, err
		}
		return &loop[S, J, B]{ds: ds}, nil
	}
	normal := func(raw json.RawMessage) (json.RawMessage, error) { return normalParams[P](name, raw) }
	return Definition{
		handle: kind.NewHandle(&kind.Kind{Name: name, Version: 1, OpenFunc: openBytes, NormalFunc: normal}),
		author: &author{
			open: openLoop, batch: reflect.TypeFor[B](), params: reflect.TypeFor[P](), invalid: checkTypes[S, J, B](),
		},
	}
}

// checkTypes reports why values of a data set's types cannot travel.
func checkTypes[S, J, B any]() error {
	for _, t := range []struct {
		reflect.Type
		name string
	}{{reflect.TypeFor[S](), "state"}, {reflect.TypeFor[J](), "job"}, {reflect.TypeFor[B](), "batch"}} {
		if err := travel.Check(t.Type, t.name); err != nil {
			return err
		}
	}
	return nil
}

// WithVersion returns the definition under another version. Raise it when the same state would yield
// other jobs or batches than before: states of another version are refused.
func (d Definition) WithVersion(version uint32) Definition {
	k := kind.Of(d)
	if k == nil {
		return d
	}
	return Definition{kind.NewHandle(&kind.Kind{Name: k.Name, Version: version, OpenFunc: k.OpenFunc, NormalFunc: k.NormalFunc}), d.author}
}

// Name returns the data set's name; empty for the zero Definition.
func (d Definition) Name() string {
	if k := kind.Of(d); k != nil {
		return k.Name
	}
	return ""
}

// Version returns the data set's version; 0 for the zero Definition.
func (d Definition) Version() uint32 {
	if k := kind.Of(d); k != nil {
		return k.Version
	}
	return 0
}

// Validate reports why coordinators and workers refuse the definition: wire.ErrBadName for a bad name or the zero
// Definition, ErrType with the field's name for a state, job or batch that would not come back from another process as
// it was.
func (d Definition) Validate() error {
	if err := wire.CheckName("data set", d.Name()); err != nil {
		return err
	}
	if d.author.invalid != nil {
		return fmt.Errorf("data set %s: %w", d.Name(), d.author.invalid)
	}
	return nil
}

// normalParams writes parameters as P does. A member that is zero is left out where P is the same without it.
// Parameters that P cannot read again as it wrote them keep the form in which the trainer sent them.
func normalParams[P any](name string, raw json.RawMessage) (normal json.RawMessage, err error) {
	defer kind.Recover(&err)
	var params P
	if err := decodeParams(name, raw, &params); err != nil {
		return nil, err
	}
	same := func(text json.RawMessage) bool {
		var again P
		return decodeParams(name, text, &again) == nil && reflect.DeepEqual(params, again)
	}
	if normal, err = json.Marshal(params); err != nil || !same(normal) {
		normal = raw
	}
	return kind.Normal(normal, same), nil
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

func (i *instance[S, J, B]) Fingerprint(ctx context.Context) (print kind.Fingerprint, err error) {
	defer kind.Recover(&err)
	f, ok := any(i.ds).(Fingerprinter)
	if !ok {
		return kind.Fingerprint{}, nil
	}
	p, err := f.Fingerprint(ctx)
	if err != nil {
		return kind.Fingerprint{}, err
	}
	return fingerprintOf(p), nil
}

func fingerprintOf(p Fingerprint) kind.Fingerprint {
	print := kind.Fingerprint{Digest: p.Digest, Ignore: p.Ignore, Summary: p.Summary}
	for _, part := range p.Parts {
		print.Parts = append(print.Parts, kind.Part(part))
	}
	return print
}

func (i *instance[S, J, B]) Rebase(state []byte, was *kind.Origin) (rebased []byte, err error) {
	defer kind.Recover(&err)
	r, ok := any(i.ds).(Rebaser[S])
	if !ok {
		return nil, kind.ErrNoRebase
	}
	var s S
	if err := msgp.Unmarshal(state, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", kind.ErrWrongState, err)
	}
	var origin Origin
	if was != nil {
		origin = Origin{partsOf(was.Params), partsOf(was.Parts)}
	}
	if s, err = r.Rebase(s, origin); err != nil {
		return nil, err
	}
	st, err := schema.NewState(s)
	return st.Data, err
}

func (i *instance[S, J, B]) Progress(state []byte) (progress kind.Progress, err error) {
	defer kind.Recover(&err)
	p, ok := any(i.ds).(Progresser[S])
	if !ok {
		return kind.Progress{}, kind.ErrNoProgress
	}
	var s S
	if err := msgp.Unmarshal(state, &s); err != nil {
		return kind.Progress{}, fmt.Errorf("%w: %w", kind.ErrWrongState, err)
	}
	known, err := p.Progress(s)
	return kind.Progress(known), err
}

func partsOf(parts []kind.Part) []Part {
	list := make([]Part, len(parts))
	for i, p := range parts {
		list[i] = Part(p)
	}
	return list
}

func (i *instance[S, J, B]) Close() (err error) {
	defer kind.Recover(&err)
	if c, ok := i.ds.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
