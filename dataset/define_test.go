package dataset_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// instanceOf opens ds by way of a Definition.
func instanceOf(t *testing.T, ds *squares) kind.Instance {
	t.Helper()
	def := dataset.Define("squares", func(context.Context, params) (*squares, error) { return ds, nil })
	inst, release, err := def.Kind().Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		release()
		def.Kind().CloseIdle()
		if ds.closed != 1 {
			t.Errorf("closed %d times, want once", ds.closed)
		}
	})
	return inst
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := msgp.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The type parameters of all three are inferred, from a pointer, from a value, from Funcs and from the interface.
func TestInference(t *testing.T) {
	t.Parallel()
	funcs := dataset.Funcs[position, int, string]{
		NextFunc:        (&squares{length: 2}).Next,
		MaterializeFunc: (&squares{}).Materialize,
	}
	dataset.Sequential(&squares{})
	for _, def := range []dataset.Definition{
		dataset.Define("pointer", openSquares),
		dataset.Define("funcs", func(context.Context, struct{}) (dataset.Funcs[position, int, string], error) { return funcs, nil }),
		dataset.Define("interface", func(context.Context, struct{}) (dataset.Dataset[position, int, string], error) { return funcs, nil }),
	} {
		if _, release, err := def.Kind().Acquire(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", def.Name(), err)
		} else {
			release()
		}
	}
	step, err := dataset.Sequential(funcs).Take(t.Context(), schema.State{Data: encode(t, position{1})})
	if err != nil || step.Batch != "1" {
		t.Errorf("got %q, %v", step.Batch, err)
	}
}

func TestWithVersion(t *testing.T) {
	t.Parallel()
	one := dataset.Define("squares", openSquares)
	two := one.WithVersion(2)
	if one.Name() != "squares" || one.Version() != 1 || two.Name() != "squares" || two.Version() != 2 || two.Kind().Version != 2 {
		t.Fatalf("got %s@%d and %s@%d", one.Name(), one.Version(), two.Name(), two.Version())
	}
	if again := one.Kind(); again != one.Kind() || again == two.Kind() {
		t.Fatal("a definition is one kind, and each version its own")
	}
}

func TestParams(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		raw  string
		want params
		err  error
	}{
		{raw: ``},
		{raw: `null`},
		{raw: `{}`},
		{raw: `{"length":3,"name":"x"}`, want: params{3, "x"}},
		{raw: ` {"length":3} `, want: params{Length: 3}},
		{raw: `{"lenght":3}`, err: kind.ErrBadParams},
		{raw: `{"length":"3"}`, err: kind.ErrBadParams},
		{raw: `{"length":3`, err: kind.ErrBadParams},
		{raw: `{"length":3}{"length":4}`, err: kind.ErrBadParams},
		{raw: `{"length":3}]`, err: kind.ErrBadParams},
		{raw: `[]`, err: kind.ErrBadParams},
		{raw: `{"length":-1}`, want: params{Length: -1}, err: errOpen},
	} {
		var got params
		def := dataset.Define("squares", func(ctx context.Context, p params) (*squares, error) {
			got = p
			return openSquares(ctx, p)
		})
		_, release, err := def.Kind().Acquire(t.Context(), json.RawMessage(tc.raw))
		if err == nil {
			release()
		}
		if !errors.Is(err, tc.err) || got != tc.want {
			t.Errorf("%s: got %+v, %v; want %+v, %v", tc.raw, got, err, tc.want, tc.err)
		}
	}
}

func TestInstance(t *testing.T) {
	t.Parallel()
	inst := instanceOf(t, &squares{length: 1})
	start, err := inst.Start()
	if err != nil {
		t.Fatal(err)
	}
	job, next, err := inst.Next(start)
	if err != nil {
		t.Fatal(err)
	}
	scratch := []byte("before ")
	if out, grown, err := inst.Materialize(t.Context(), job, scratch); err != nil || string(bytes.Join(out, nil)) != "\xa10" || &grown[0] != &scratch[0] {
		t.Fatalf("got %q, %v; want the batch, in scratch", out, err)
	}
	if _, _, err := inst.Next(next); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
		t.Fatalf("got %v, want exactly io.EOF", err)
	}
	if _, _, err := inst.Next([]byte{0xc1}); !errors.Is(err, kind.ErrWrongState) {
		t.Fatalf("got %v for bytes that are no state", err)
	}
	if _, _, err := inst.Materialize(t.Context(), []byte{0xc1}, nil); !dataset.IsPermanent(err) {
		t.Fatalf("got %v for bytes that are no job, want a permanent error", err)
	}
}

func TestInstanceWithoutStart(t *testing.T) {
	t.Parallel()
	def := dataset.Define("funcs", func(context.Context, struct{}) (dataset.Funcs[position, int, string], error) {
		return dataset.Funcs[position, int, string]{}, nil
	})
	inst, release, err := def.Kind().Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer def.Kind().CloseIdle() // Funcs has nothing to close
	defer release()
	if _, err := inst.Start(); !errors.Is(err, kind.ErrNoStart) {
		t.Fatalf("got %v", err)
	}
}

// Everything of the author's that panics becomes an error that shows where.
func TestPanics(t *testing.T) {
	t.Parallel()
	inst := instanceOf(t, &squares{
		next:  func(position) (int, position, error) { panic(io.EOF) },
		batch: func(context.Context, int) (string, error) { panic(dataset.Skip("never")) },
	})
	_, _, err := inst.Next(encode(t, position{}))
	wantPanic(t, err)
	_, _, err = inst.Materialize(t.Context(), encode(t, 1), nil)
	wantPanic(t, err)
	if _, ok := dataset.SkipReason(err); ok || errors.Is(err, io.EOF) {
		t.Fatal("a panic passes for a skip or for the end of the data")
	}
}

func wantPanic(t *testing.T, err error) {
	t.Helper()
	var p *kind.PanicError
	if !errors.As(err, &p) || !strings.Contains(string(p.Stack), "squares") {
		t.Fatalf("got %v, want a PanicError with the author's stack", err)
	}
}

func TestStateTooLarge(t *testing.T) {
	t.Parallel()
	def := dataset.Define("large", func(context.Context, struct{}) (dataset.Funcs[[]byte, int, string], error) {
		return dataset.Funcs[[]byte, int, string]{NextFunc: func([]byte) (int, []byte, error) { return 0, make([]byte, schema.MaxState), nil }}, nil
	})
	inst, release, err := def.Kind().Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, _, err := inst.Next(encode(t, []byte{1})); !errors.Is(err, schema.ErrStateTooLarge) {
		t.Fatalf("got %v", err)
	}
}

func TestMarkedErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk on fire")
	err := fmt.Errorf("while reading: %w", dataset.Permanent(cause))
	if !dataset.IsPermanent(err) || !errors.Is(err, cause) || dataset.IsPermanent(cause) || dataset.Permanent(nil) != nil {
		t.Error("Permanent marks an error and keeps its cause")
	}
	skip := fmt.Errorf("while reading: %w", dataset.Skip("empty"))
	if reason, ok := dataset.SkipReason(skip); !ok || reason != "empty" {
		t.Errorf("got %q, %v", reason, ok)
	}
	if _, ok := dataset.SkipReason(cause); ok {
		t.Error("a foreign error passes for a skip")
	}
}
