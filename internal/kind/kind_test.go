package kind_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/jetbatch/jetbatch/internal/kind"
)

func TestReturning(t *testing.T) {
	t.Parallel()
	if n, err := kind.Returning(func() (int, error) { return 7, io.EOF }); n != 7 || err != io.EOF { //nolint:errorlint // exactly
		t.Errorf("got %d, %v", n, err)
	}
	_, err := kind.Returning(func() (int, error) {
		runtime.Goexit()
		return 0, nil
	})
	if !errors.Is(err, kind.ErrNoReturn) {
		t.Error(err)
	}
}

func TestPanicErrorHidesItsValue(t *testing.T) {
	t.Parallel()
	err := func() (err error) {
		defer kind.Recover(&err)
		panic(context.Canceled)
	}()
	if errors.Is(err, context.Canceled) {
		t.Fatal("a panic passes for a cancellation")
	}
}
