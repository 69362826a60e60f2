package testset

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Oracle knows what a trainer must take: what dataset.Sequential yields, without delays.
type Oracle struct {
	State schema.State // where the trainer is: what to ask Take for
	Taken int          // batches checked and found right

	// Cut is what of a batch the trainer takes, if it is one of several ranks. Nil for all of it.
	Cut func(schema.Batch) schema.Batch

	ref *dataset.Reference[schema.Batch]
}

// NewOracle is the oracle of a definition made by Define, with no trouble that would end this process.
func NewOracle(def dataset.Definition, p Params, from schema.State) (*Oracle, error) {
	p.Delay, p.SlowEvery, p.ExitAt = 0, 0, 0
	ref, err := dataset.SequentialOf[schema.Batch](context.Background(), def, p)
	if err != nil {
		return nil, err
	}
	return &Oracle{State: from, ref: ref}, nil
}

// How a batch can be wrong. A run ends at its first wrong batch, when it cannot be known yet whether the one that was
// passed over would have come later: lost and reordered are one class.
const (
	Lost       = "lost_or_reordered" // a later batch came in its place
	Duplicated = "duplicated"        // the batch before came again, or an earlier one of the run
	Stale      = "stale"             // the right place of another run or state
	Different  = "different"         // other bytes
	WrongEnd   = "wrong_end"         // the data ended, or went on, at the wrong place
)

// Classes are all of these.
func Classes() []string { return []string{Lost, Duplicated, Stale, Different, WrongEnd} }

// Violation is a broken promise. Everything else that goes wrong is an error of the run.
type Violation struct {
	Class string
	What  string
}

func (v *Violation) Error() string { return v.Class + ": " + v.What }

// Want is what Take must return for o.State.
func (o *Oracle) Want() (schema.Step[schema.Batch], error) {
	return o.ref.Take(context.Background(), o.State)
}

// At is what Take must return for a state.
func (o *Oracle) At(state schema.State) (schema.Step[schema.Batch], error) {
	return o.ref.Take(context.Background(), state)
}

// Check compares what Take returned for o.State with the reference, and moves on by one batch if it is right. The error
// is a *Violation when something wrong was taken, io.EOF when both sides end here, and else err itself.
func (o *Oracle) Check(got schema.Step[schema.Batch], err error) error {
	if err != nil && err != io.EOF { //nolint:errorlint // Take promises exactly io.EOF at the end
		return err
	}
	want, refErr := o.Want()
	switch {
	case err == io.EOF && refErr == io.EOF: //nolint:errorlint // as above, and so does the reference
		return io.EOF
	case err == io.EOF: //nolint:errorlint // as above
		return &Violation{WrongEnd, fmt.Sprintf("the data ended after %d batches, at %v", o.Taken, o.State)}
	case refErr != nil:
		return &Violation{WrongEnd, fmt.Sprintf("label %d came where the reference says %v", Label(got.Batch), refErr)}
	}
	is, should := Label(got.Batch), Label(want.Batch)
	switch {
	case is > should:
		return &Violation{Lost, fmt.Sprintf("label %d, want %d, after %d batches", is, should, o.Taken)}
	case is < should:
		return &Violation{Duplicated, fmt.Sprintf("label %d, want %d, after %d batches", is, should, o.Taken)}
	case !got.Prev.Equal(o.State):
		return &Violation{Stale, fmt.Sprintf("label %d: state before it is %v, want %v", is, got.Prev, o.State)}
	case !got.Next.Equal(want.Next):
		return &Violation{Stale, fmt.Sprintf("label %d: state after it is %v, want %v", is, got.Next, want.Next)}
	}
	a, err := wire.AppendPayload(nil, got.Batch)
	if err != nil {
		return err
	}
	if o.Cut != nil {
		want.Batch = o.Cut(want.Batch)
	}
	b, err := wire.AppendPayload(nil, want.Batch)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return &Violation{Different, fmt.Sprintf("label %d: %d bytes are not the reference's %d", is, len(a), len(b))}
	}
	o.State = got.Next
	o.Taken++
	return nil
}
