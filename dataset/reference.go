package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/schema"
)

// Reference iterates a data set in the calling goroutine: the slow and obviously right way that the
// service is compared with.
type Reference[B any] struct {
	take  func(context.Context, schema.State) (schema.Step[B], error)
	close func() error
	seq   uint64
}

// Sequential returns the reference of a data set that has no name yet: its states have the name, version and origin of
// the state that they follow from, none after the zero state. [SequentialOf] is that of a definition.
func Sequential[S, J, B any](ds Dataset[S, J, B]) *Reference[B] {
	l := &loop[S, J, B]{ds: ds, invalid: checkTypes[S, J, B]()}
	return &Reference[B]{take: l.take, close: l.close}
}

// SequentialOf opens a definition with parameters, encoded as client.Config.Params are, and returns its reference,
// whose batches, states and end are the service's: states have the definition's name and version, and those of another
// are [ErrWrongState]. They have the origin of parameters and data, too, and those of another are [ErrWrongData]; clear
// a state's Origin to go on from it all the same. B is the author's type of batches, or any. So one batch is loaded by
// hand from a state:
//
//	ref, err := dataset.SequentialOf[schema.Batch](ctx, def, params)
//	...
//	defer ref.Close()
//	step, err := ref.Take(ctx, state)
func SequentialOf[B any](ctx context.Context, def Definition, params any) (*Reference[B], error) {
	if err := def.Validate(); err != nil {
		return nil, err
	}
	if t := reflect.TypeFor[B](); t != def.author.batch && t.Kind() != reflect.Interface {
		return nil, fmt.Errorf("data set %s: its batches are %v, not %v", def.Name(), def.author.batch, t)
	}
	var raw json.RawMessage
	if params != nil {
		var err error
		if raw, err = json.Marshal(params); err != nil {
			return nil, fmt.Errorf("data set %s: parameters: %w", def.Name(), err)
		}
	}
	l, err := def.author.open(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("open data set %s: %w", def.Name(), err)
	}
	origin, err := l.origin(ctx, kind.Of(def), raw)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open data set %s: %w", def.Name(), err), l.close())
	}
	takeOne := l.named(def.Name(), def.Version(), origin)
	take := func(ctx context.Context, state schema.State) (schema.Step[B], error) {
		s, err := takeOne(ctx, state)
		step := schema.Step[B]{Prev: s.Prev, Next: s.Next, Timing: s.Timing, Deliveries: s.Deliveries}
		if err != nil {
			return step, err
		}
		batch, ok := s.Batch.(B)
		if !ok && s.Batch != nil {
			return step, fmt.Errorf("data set %s: a batch is %T, not %v", def.Name(), s.Batch, reflect.TypeFor[B]())
		}
		step.Batch = batch
		return step, nil
	}
	return &Reference[B]{take: take, close: l.close}, nil
}

// Take returns the batch that follows state and the state after it; io.EOF at the end of the data, and only there. The
// zero state is the data set's Start, or ErrNoStart without one; bytes that do not decode are ErrWrongState; types that
// cannot travel are ErrType. Other errors are the data set's own; nothing is retried and no panic is caught. Seq counts
// the calls that returned a batch; Timing says how long Next and Materialize took, holes included. Not safe for
// concurrent use.
func (r *Reference[B]) Take(ctx context.Context, state schema.State) (schema.Step[B], error) {
	step, err := r.take(ctx, state)
	if err != nil {
		return schema.Step[B]{}, err
	}
	r.seq++
	step.Seq = r.seq
	return step, nil
}

// Close closes the data set if it is an io.Closer; Take must not be called any more.
func (r *Reference[B]) Close() error { return r.close() }

// loop is the reference with the author's types.
type loop[S, J, B any] struct {
	ds      Dataset[S, J, B]
	invalid error

	name    string // of the data set, if it is defined
	version uint32
	from    kind.Origin
}

// anyLoop is a loop without its types.
type anyLoop interface {
	// origin is what the states of the opened data set count in.
	origin(ctx context.Context, k *kind.Kind, params json.RawMessage) (kind.Origin, error)
	// named gives the loop the name, version and origin that its states have.
	named(name string, version uint32, from kind.Origin) takeAny
	close() error
}

// takeAny is Reference.Take before it counts.
type takeAny func(context.Context, schema.State) (schema.Step[any], error)

func (l *loop[S, J, B]) origin(ctx context.Context, k *kind.Kind, params json.RawMessage) (kind.Origin, error) {
	return k.OriginOf(ctx, &instance[S, J, B]{ds: l.ds}, params)
}

func (l *loop[S, J, B]) named(name string, version uint32, from kind.Origin) takeAny {
	l.name, l.version, l.from = name, version, from
	return func(ctx context.Context, state schema.State) (schema.Step[any], error) {
		s, err := l.take(ctx, state)
		return schema.Step[any]{
			Batch: s.Batch, Prev: s.Prev, Next: s.Next, Timing: s.Timing, Deliveries: s.Deliveries,
		}, err
	}
}

func (l *loop[S, J, B]) close() error {
	if c, ok := l.ds.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (l *loop[S, J, B]) take(ctx context.Context, state schema.State) (schema.Step[B], error) {
	step := schema.Step[B]{Prev: state, Deliveries: 1}
	if l.invalid != nil {
		return step, l.invalid
	}
	state, err := l.begin(state)
	if err != nil {
		return step, err
	}
	for {
		if err := context.Cause(ctx); err != nil {
			return step, err
		}
		var s S
		if err := state.Decode(&s); err != nil {
			return step, fmt.Errorf("%w: %w", ErrWrongState, err)
		}
		began := time.Now()
		job, next, err := l.ds.Next(s)
		step.Timing.Iterate += time.Since(began)
		if err == io.EOF { //nolint:errorlint // exactly io.EOF is the end: a wrapped one is a truncated file
			return step, io.EOF
		}
		if err != nil {
			return step, notTheEnd("next", err)
		}
		step.Next, err = schema.NewState(next)
		if err != nil {
			return step, err
		}
		step.Next.Dataset, step.Next.Version, step.Next.Origin = state.Dataset, state.Version, state.Origin
		began = time.Now()
		step.Batch, err = l.ds.Materialize(ctx, job)
		step.Timing.Materialize += time.Since(began)
		var skip *skipError
		if !errors.As(err, &skip) {
			return step, notTheEnd("materialize", err)
		}
		state = step.Next
	}
}

// begin is the state that the loop goes on from when it is asked for state.
func (l *loop[S, J, B]) begin(state schema.State) (schema.State, error) {
	if l.name != "" && state.Dataset != "" && (state.Dataset != l.name || state.Version != l.version) {
		return state, fmt.Errorf("%w: it is of %s@%d, and this is %s@%d",
			ErrWrongState, state.Dataset, state.Version, l.name, l.version)
	}
	if l.name != "" && !state.IsZero() && state.Origin != "" && state.Origin != l.from.Digest {
		return state, fmt.Errorf("%w: %s", ErrWrongData, strings.Join(l.from.Differences(nil), "; "))
	}
	if state.IsZero() {
		starter, ok := l.ds.(Starter[S])
		if !ok {
			return state, ErrNoStart
		}
		s, err := starter.Start()
		if err != nil {
			return state, notTheEnd("start", err)
		}
		if state, err = schema.NewState(s); err != nil {
			return state, err
		}
	}
	if l.name != "" {
		state.Dataset, state.Version, state.Origin = l.name, l.version, l.from.Digest
	}
	return state, nil
}

// notTheEnd keeps an io.EOF that is not the iterator's own word from passing for the end of the data: to the service,
// too, a truncated file is a failure.
func notTheEnd(where string, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("%s: %w: %v", where, io.ErrUnexpectedEOF, err)
}
