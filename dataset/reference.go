package dataset

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jetbatch/jetbatch/schema"
)

// Reference iterates a data set in the calling goroutine: the slow and obviously right way that the
// service is compared with.
type Reference[B any] struct {
	take func(context.Context, schema.State) (schema.Step[B], error)
	seq  uint64
}

// Sequential returns the reference of a data set.
func Sequential[S, J, B any](ds Dataset[S, J, B]) *Reference[B] {
	return &Reference[B]{take: func(ctx context.Context, state schema.State) (schema.Step[B], error) {
		step := schema.Step[B]{Prev: state, Deliveries: 1}
		if state.IsZero() {
			starter, ok := ds.(Starter[S])
			if !ok {
				return step, ErrNoStart
			}
			s, err := starter.Start()
			if err != nil {
				return step, notTheEnd("start", err)
			}
			if state, err = schema.NewState(s); err != nil {
				return step, err
			}
		}
		for {
			if err := context.Cause(ctx); err != nil {
				return step, err
			}
			var s S
			if err := state.Decode(&s); err != nil {
				return step, fmt.Errorf("%w: %w", ErrWrongState, err)
			}
			job, next, err := ds.Next(s)
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
			step.Next.Dataset, step.Next.Version = state.Dataset, state.Version
			step.Batch, err = ds.Materialize(ctx, job)
			var skip *skipError
			if !errors.As(err, &skip) {
				return step, notTheEnd("materialize", err)
			}
			state = step.Next
		}
	}}
}

// notTheEnd keeps an io.EOF that is not the iterator's own word from passing for the end of the data: to the service,
// too, a truncated file is a failure.
func notTheEnd(where string, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("%s: %w: %v", where, io.ErrUnexpectedEOF, err)
}

// Take returns the batch that follows state and the state after it; io.EOF at the end of the data, and only there. The
// zero state is the data set's Start, or ErrNoStart without one; bytes that do not decode are ErrWrongState. Other
// errors are the data set's own; nothing is retried and no panic is caught. Seq counts the calls that returned a batch.
// Not safe for concurrent use.
func (r *Reference[B]) Take(ctx context.Context, state schema.State) (schema.Step[B], error) {
	step, err := r.take(ctx, state)
	if err != nil {
		return schema.Step[B]{}, err
	}
	r.seq++
	step.Seq = r.seq
	return step, nil
}
