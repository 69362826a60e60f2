package main

import (
	"context"
	"fmt"
	"iter"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/train"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/schema"
)

// Dataset is a batcher as a train.Dataset, for train.Loop, train.Trainer and loops of one's own. Copy this file: it
// needs nothing of the others.
//
// Where the data stand belongs to the trainer, so the trainer asks for State when it saves a checkpoint, and gives the
// state back as From. Batches come one at a time and State is that of the last one: a wrapper that reads ahead, such as
// those of GoMLX's package dataset, would have State run ahead of the training. Nothing is lost without one, since the
// batcher reads ahead itself. It is for one goroutine.
type Dataset struct {
	// Context ends a wait for a batch. Defaults to context.Background().
	Context context.Context
	// Batcher to take from, open. It stays the caller's.
	Batcher *client.Batcher[schema.Batch]
	// Title is what GoMLX calls it. Defaults to "jetbatch".
	Title string
	// Inputs and Labels are the names of the batch's tensors that GoMLX gets as such, in this order. Shapes and element
	// types stay as they are.
	Inputs, Labels []string
	// From is the state of the first batch. Defaults to where the data begin.
	From schema.State
	// Rewind has each Iter begin at From, as an evaluation needs it. Defaults to false: Iter goes on after the last
	// batch, so that a second train.Loop.RunSteps does.
	Rewind bool

	last schema.Step[schema.Batch] // without its tensors
}

// Name is Title.
func (d *Dataset) Name() string {
	if d.Title == "" {
		return "jetbatch"
	}
	return d.Title
}

// State is what to save after the last batch was trained on; From before the first.
func (d *Dataset) State() schema.State {
	if d.last.Next.IsZero() {
		return d.From
	}
	return d.last.Next
}

// Rows says which rows of how many the last batch had; all of them without a client.World.
func (d *Dataset) Rows() schema.Rows { return d.last.Rows }

// Iter yields batches until the data end, or an error and nothing more. The tensors are copies and the caller's.
func (d *Dataset) Iter() iter.Seq2[train.Batch, error] {
	return func(yield func(train.Batch, error) bool) {
		ctx, from := d.Context, d.State()
		if ctx == nil {
			ctx = context.Background()
		}
		if d.Rewind {
			from = d.From
		}
		for step, err := range d.Batcher.All(ctx, from) {
			var batch train.Batch
			if err == nil {
				batch, err = d.convert(step.Batch)
				step.Release()
			}
			if err != nil {
				yield(train.Batch{}, err)
				return
			}
			d.last = step
			d.last.Batch = nil
			if !yield(batch, nil) {
				return
			}
		}
	}
}

// convert copies the named tensors, since those of b are views that end with Release.
func (d *Dataset) convert(b schema.Batch) (to train.Batch, err error) {
	if to.Inputs, err = copied(b, d.Inputs); err == nil {
		to.Labels, err = copied(b, d.Labels)
	}
	return to, err
}

func copied(b schema.Batch, names []string) ([]*tensors.Tensor, error) {
	var all []*tensors.Tensor
	for _, name := range names {
		t, ok := b.Get(name)
		if !ok {
			return nil, fmt.Errorf("the batch has no tensor %q", name)
		}
		dtype, ok := dtypes.MapOfNames[t.DType.String()]
		if !ok {
			return nil, fmt.Errorf("tensor %q: GoMLX has no elements %s", name, t.DType)
		}
		c, err := tensors.FromRaw(nil, 0, shapes.Make(dtype, t.Shape...), t.Data)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		all = append(all, c)
	}
	return all, nil
}
