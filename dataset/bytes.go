package dataset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bytes is an opened data set that is known by its bytes alone, such as one in another process or another language.
// States and jobs are canonical msgpack, as docs/BRIDGE.md describes it; a batch is the payload of a [schema.Batch].
// Its methods are called from several goroutines, and their errors are those of [Iterator], [Materializer] and
// [Starter]. It may be a [Fingerprinter], and a [Progresser] of the bytes of states, which answers with an error if it
// does not know how far one is. A panic of a method is an error of it.
type Bytes interface {
	// Start returns the first state, or an error that wraps ErrNoStart.
	Start() (state []byte, err error)
	// Next returns the job that follows state and the state after it; exactly io.EOF ends the data.
	Next(state []byte) (job, next []byte, err error)
	// Materialize returns the payload in pieces, which do not change any more or lie in scratch. That is overwritten,
	// grown where it has to be, and returned in any case.
	Materialize(ctx context.Context, job, scratch []byte) (payload [][]byte, grown []byte, err error)
	Close() error
}

// DefineBytes is [Define] for a data set that is known by its bytes alone.
func DefineBytes(name string, version uint32, open func(ctx context.Context, params json.RawMessage) (Bytes, error)) Definition {
	openKind := func(ctx context.Context, params json.RawMessage) (kind.Instance, error) {
		set, err := open(ctx, params)
		if err != nil {
			return nil, err
		}
		return bytesInstance{set}, nil
	}
	openLoop := func(ctx context.Context, params json.RawMessage) (anyLoop, error) {
		set, err := open(ctx, params)
		if err != nil {
			return nil, err
		}
		return &loop[msgpack.RawMessage, msgpack.RawMessage, schema.Batch]{ds: decoded{set}}, nil
	}
	normal := func(params json.RawMessage) (json.RawMessage, error) {
		exact, err := kind.Exact(params)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", kind.ErrBadParams, err)
		}
		return exact, nil
	}
	return Definition{
		handle: kind.NewHandle(&kind.Kind{Name: name, Version: version, OpenFunc: openKind, NormalFunc: normal}),
		author: &author{open: openLoop, batch: reflect.TypeFor[schema.Batch](), params: reflect.TypeFor[any]()},
	}
}

// bytesInstance is a data set of bytes as coordinators and workers see it.
type bytesInstance struct{ set Bytes }

func (i bytesInstance) Start() (state []byte, err error) {
	defer kind.Recover(&err)
	return i.set.Start()
}

func (i bytesInstance) Next(state []byte) (job, next []byte, err error) {
	defer kind.Recover(&err)
	return i.set.Next(state)
}

func (i bytesInstance) Materialize(
	ctx context.Context, job, scratch []byte,
) (pieces [][]byte, grown []byte, err error) {
	grown = scratch // after a panic, too
	defer kind.Recover(&err)
	return i.set.Materialize(ctx, job, scratch)
}

func (i bytesInstance) Fingerprint(ctx context.Context) (print kind.Fingerprint, err error) {
	defer kind.Recover(&err)
	f, ok := i.set.(Fingerprinter)
	if !ok {
		return kind.Fingerprint{}, nil
	}
	p, err := f.Fingerprint(ctx)
	return fingerprintOf(p), err
}

func (i bytesInstance) Progress(state []byte) (progress kind.Progress, err error) {
	defer kind.Recover(&err)
	p, ok := i.set.(Progresser[[]byte])
	if !ok {
		return kind.Progress{}, kind.ErrNoProgress
	}
	known, err := p.Progress(state)
	return kind.Progress(known), err
}

func (i bytesInstance) Close() (err error) {
	defer kind.Recover(&err)
	return i.set.Close()
}

// decoded is a data set of bytes as the reference loop wants it.
type decoded struct{ Bytes }

func (d decoded) Start() (msgpack.RawMessage, error) { return d.Bytes.Start() }

func (d decoded) Fingerprint(ctx context.Context) (Fingerprint, error) {
	if f, ok := d.Bytes.(Fingerprinter); ok {
		return f.Fingerprint(ctx)
	}
	return Fingerprint{}, nil
}

func (d decoded) Next(state msgpack.RawMessage) (job, next msgpack.RawMessage, err error) {
	return d.Bytes.Next(state)
}

func (d decoded) Materialize(ctx context.Context, job msgpack.RawMessage) (schema.Batch, error) {
	payload, _, err := d.Bytes.Materialize(ctx, job, nil)
	if err != nil {
		return nil, err
	}
	return wire.DecodePayload[schema.Batch](bytes.Join(payload, nil))
}
