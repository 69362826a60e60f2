//go:build linux

package process

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/schema"
)

// errEnd is a process's word for the end of the data.
var errEnd = errors.New("the data ends")

// brokenError is of a process that is of no further use.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

func broken(err error) bool {
	var b *brokenError
	return errors.As(err, &b)
}

// died reports whether an error is that a process died, and not what it said, or that its time was up.
func died(err error) bool {
	var f *failure
	return broken(err) && errors.As(err, &f)
}

// failure is an error in the data set's code.
type failure struct {
	text, stack string
	code        string
	kind        error // that it matches: a sentinel, or what the system said; nil for none
}

func (e *failure) Error() string { return e.text }

// Unwrap makes the stack known to coordinators and workers, who look for it in a panic.
func (e *failure) Unwrap() []error {
	errs := []error{&kind.PanicError{Value: e.text, Stack: []byte(e.stack)}}
	if e.kind != nil {
		errs = append(errs, e.kind)
	}
	return errs
}

// readFault reads the error that a process answers with.
func readFault(dec *msgpack.Decoder) error {
	var f struct {
		Code    string `msgpack:"code"`
		Message string `msgpack:"message"`
		Stack   string `msgpack:"stack"`
		Errno   int    `msgpack:"errno"`
		Path    string `msgpack:"path"`
	}
	if err := dec.Decode(&f); err != nil {
		return &brokenError{fmt.Errorf("%w: %w", bridge.ErrFrame, err)}
	}
	err := &failure{text: f.Message, stack: f.Stack, code: f.Code}
	if f.Errno > 0 {
		err.kind = syscall.Errno(f.Errno)
		if f.Path != "" {
			err.kind = &fs.PathError{Op: "open", Path: f.Path, Err: err.kind}
		}
	}
	switch f.Code {
	case "skip":
		return dataset.Skip(f.Message)
	case "permanent":
		return dataset.Permanent(err)
	case "bad_params":
		err.kind = kind.ErrBadParams
	case "wrong_state":
		err.kind = kind.ErrWrongState
	case "no_start":
		return kind.ErrNoStart
	case "state_too_large":
		err.kind = schema.ErrStateTooLarge
	}
	return err
}
