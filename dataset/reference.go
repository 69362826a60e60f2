package dataset

import (
	"context"
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/kind"
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
				return step, kind.ErrNoStart
			}
			s, err := starter.Start()
			if err != nil {
				return step, err
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
				return step, fmt.Errorf("%w: %w", kind.ErrWrongState, err)
			}
			job, next, err := ds.Next(s)
			if err != nil {
				return step, err
			}
			step.Next, err = schema.NewState(next)
			if err != nil {
				return step, err
			}
			step.Next.Dataset, step.Next.Version = state.Dataset, state.Version
			step.Batch, err = ds.Materialize(ctx, job)
			var skip *skipError
			if !errors.As(err, &skip) {
				return step, err
			}
			state = step.Next
		}
	}}
}

// Take returns the batch that follows state and the state after it; io.EOF at the end of the data. The
// zero state is the data set's Start. Errors are the data set's own and nothing is retried. Seq counts the
// calls that returned a batch. Not safe for concurrent use.
func (r *Reference[B]) Take(ctx context.Context, state schema.State) (schema.Step[B], error) {
	step, err := r.take(ctx, state)
	if err != nil {
		return schema.Step[B]{}, err
	}
	r.seq++
	step.Seq = r.seq
	return step, nil
}
