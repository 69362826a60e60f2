// Package kind is a data set reduced to bytes: what coordinators and workers see of a
// dataset.Definition. It knows nothing of the author's types, of NATS or of sequence numbers.
package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
)

// Kind is one kind of data set at one version.
type Kind struct {
	Name    string
	Version uint32
	// OpenFunc opens the data set with parameters as the trainer sent them.
	OpenFunc func(ctx context.Context, params json.RawMessage) (Instance, error)
	// NormalFunc returns the one form of parameters that mean the same, or an error that wraps ErrBadParams.
	NormalFunc func(params json.RawMessage) (json.RawMessage, error)

	pool pool
}

// Instance is an opened data set. Its methods are safe for concurrent use and turn a panic of the
// author's code into a *PanicError.
type Instance interface {
	// Start returns the first state, or ErrNoStart.
	Start() (state []byte, err error)
	// Next returns the job that follows state and the state after it, canonically encoded; exactly io.EOF ends the data.
	Next(state []byte) (job, next []byte, err error)
	// Materialize returns the encoded batch in pieces, which may be the author's memory and do not change any more, or
	// lie in scratch. That is overwritten, grown where it has to be, and returned in any case.
	Materialize(ctx context.Context, job, scratch []byte) (pieces [][]byte, grown []byte, err error)
	Close() error
}

// Fingerprinter is an Instance that knows its data. The zero Fingerprint is of one that does not after all.
type Fingerprinter interface {
	Fingerprint(ctx context.Context) (Fingerprint, error)
}

// Rebaser is an Instance that may know where a position of another origin goes on in its own; ErrNoRebase if it does
// not after all. was is nil for one that nobody knows any more.
type Rebaser interface {
	Rebase(state []byte, was *Origin) (rebased []byte, err error)
}

// Progresser is an Instance that may know how far a state is; ErrNoProgress if it does not after all.
type Progresser interface {
	Progress(state []byte) (Progress, error)
}

// Progress is a place in the data, counted in batches; see dataset.Progress.
type Progress struct{ Epoch, Epochs, Batch, Batches uint64 }

// Opened is an Instance with what it was opened on.
type Opened struct {
	Instance
	Origin Origin
}

// Handle, embedded in an exported type, lets [Of] find the kind behind a value of that type, and keeps it from the
// type's users.
type Handle struct{ kind *Kind }

// NewHandle returns the handle of k.
func NewHandle(k *Kind) Handle { return Handle{k} }

// holder is implemented by the types that embed a Handle, and by no others: its method has no name outside of here.
type holder interface{ held() *Kind }

func (h Handle) held() *Kind { return h.kind }

// Of returns the kind of a dataset.Definition, nil for its zero value.
func Of(definition holder) *Kind { return definition.held() }

// Errors of instances and their opening, for errors.Is.
var (
	ErrNoStart    = errors.New("the data set has no Start, so a state must be given")
	ErrBadParams  = errors.New("bad parameters")
	ErrWrongState = errors.New("not a state of this data set")
	ErrNoRebase   = errors.New("the data set does not say what a position means on other data")
	ErrNoProgress = errors.New("the data set does not say how far a state is")
	ErrWrongData  = errors.New("the state is of other parameters or data")
	// ErrUnopened is of an instance that finds out late, when it makes a batch, that it cannot be opened.
	ErrUnopened = errors.New("the data set cannot be opened")
	// ErrNoReturn is of the author's code that calls runtime.Goexit, as t.FailNow does.
	ErrNoReturn = errors.New("the data set's code ended its goroutine instead of returning")
)

// PanicError is a panic in the author's code. It does not unwrap to an error that was panicked with: a panic is never
// a skip, a cancellation or the end of the data.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Recover turns a panic into a *PanicError; defer it around the author's code.
func Recover(err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Value: v, Stack: debug.Stack()}
	}
}

// Returning calls the author's code in a goroutine of its own, which the code may end; then the error is ErrNoReturn.
func Returning[T any](call func() (T, error)) (v T, err error) {
	err = ErrNoReturn
	done := make(chan struct{})
	go func() {
		defer close(done)
		v, err = call()
	}()
	<-done
	return v, err
}
