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
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// instanceOf opens a set by way of a Definition.
func instanceOf(t *testing.T, p params, hooks testset.Hooks) kind.Instance {
	t.Helper()
	closed := 0
	hooks.Close = func() error {
		closed++
		return nil
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	def := define(hooks)
	inst, release, err := kind.Of(def).Acquire(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		release()
		kind.Of(def).CloseIdle()
		if closed != 1 {
			t.Errorf("closed %d times, want once", closed)
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
	set := open(t, params{N: 2}, testset.Hooks{})
	type funcsOf = dataset.Funcs[position, testset.Job, schema.Batch]
	type datasetOf = dataset.Dataset[position, testset.Job, schema.Batch]
	funcs := funcsOf{NextFunc: set.Next, MaterializeFunc: set.Materialize}
	dataset.Sequential(set)
	for _, def := range []dataset.Definition{
		dataset.Define("pointer", func(context.Context, params) (*testset.Set, error) { return set, nil }),
		dataset.Define("funcs", func(context.Context, struct{}) (funcsOf, error) { return funcs, nil }),
		dataset.Define("interface", func(context.Context, struct{}) (datasetOf, error) { return funcs, nil }),
	} {
		if _, release, err := kind.Of(def).Acquire(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", def.Name(), err)
		} else {
			release()
		}
	}
	step, err := dataset.Sequential(funcs).Take(t.Context(), schema.State{Data: encode(t, position{I: 1})})
	if err != nil || testset.Label(step.Batch) != 2 {
		t.Errorf("got %v, %v", step.Batch, err)
	}
}

func TestWithVersion(t *testing.T) {
	t.Parallel()
	one := define(testset.Hooks{})
	two := one.WithVersion(2)
	if one.Name() != "toy" || one.Version() != 1 || two.Name() != "toy" || two.Version() != 2 || kind.Of(two).Version != 2 {
		t.Fatalf("got %s@%d and %s@%d", one.Name(), one.Version(), two.Name(), two.Version())
	}
	if again := kind.Of(one); again != kind.Of(one) || again == kind.Of(two) {
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
		{raw: `{"n":3,"salt":7}`, want: params{N: 3, Salt: 7}},
		{raw: ` {"n":3} `, want: params{N: 3}},
		{raw: `{"nn":3}`, err: kind.ErrBadParams},
		{raw: `{"n":"3"}`, err: kind.ErrBadParams},
		{raw: `{"n":3`, err: kind.ErrBadParams},
		{raw: `{"n":3}{"n":4}`, err: kind.ErrBadParams},
		{raw: `{"n":3}]`, err: kind.ErrBadParams},
		{raw: `[]`, err: kind.ErrBadParams},
		{raw: `{"slow":1}`, want: params{Slow: 1}, err: errOpen},
	} {
		var got params
		def := define(testset.Hooks{Open: func(ctx context.Context, p params) error {
			got = p
			return refusing.Open(ctx, p)
		}})
		_, release, err := kind.Of(def).Acquire(t.Context(), json.RawMessage(tc.raw))
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
	inst := instanceOf(t, params{N: 1}, testset.Hooks{})
	start, err := inst.Start()
	if err != nil {
		t.Fatal(err)
	}
	job, next, err := inst.Next(start)
	if err != nil {
		t.Fatal(err)
	}
	scratch := []byte("before ")
	out, _, err := inst.Materialize(t.Context(), job, scratch)
	if err != nil {
		t.Fatal(err)
	}
	if batch, err := wire.DecodePayload[schema.Batch](bytes.Join(out, nil)); err != nil || testset.Label(batch) != 1 {
		t.Fatalf("got %v, %v; want the batch", batch, err)
	}
	if _, grown, _ := inst.Materialize(t.Context(), job, make([]byte, 4096)); cap(grown) != 4096 {
		t.Fatalf("scratch of 4096 bytes was not used: %d", cap(grown))
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
	inst, release, err := kind.Of(def).Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer kind.Of(def).CloseIdle() // Funcs has nothing to close
	defer release()
	if _, err := inst.Start(); !errors.Is(err, kind.ErrNoStart) {
		t.Fatalf("got %v", err)
	}
}

// Everything of the author's that panics becomes an error that shows where.
func TestPanics(t *testing.T) {
	t.Parallel()
	inst := instanceOf(t, params{}, testset.Hooks{
		Next:        func(position, *testset.Job, *position) error { panic(io.EOF) },
		Materialize: func(context.Context, params, testset.Job) error { panic(dataset.Skip("never")) },
	})
	_, _, err := inst.Next(encode(t, position{}))
	wantPanic(t, err)
	_, _, err = inst.Materialize(t.Context(), encode(t, testset.Job{At: 1}), nil)
	wantPanic(t, err)
	if _, ok := dataset.SkipReason(err); ok || errors.Is(err, io.EOF) {
		t.Fatal("a panic passes for a skip or for the end of the data")
	}
}

// broken is a data set of bytes that panics with every call.
type broken struct{ dataset.Bytes }

func (broken) Progress([]byte) (dataset.Progress, error) { panic("no progress") }

func TestPanicsOfBytes(t *testing.T) {
	t.Parallel()
	def := dataset.DefineBytes("broken", 1, func(context.Context, json.RawMessage) (dataset.Bytes, error) {
		return broken{}, nil
	})
	inst, release, err := kind.Of(def).Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, start := inst.Start()
	_, _, next := inst.Next(nil)
	_, grown, materialize := inst.Materialize(t.Context(), nil, make([]byte, 4096))
	_, progress := inst.Instance.(kind.Progresser).Progress(nil)
	for i, err := range []error{start, next, materialize, progress, inst.Close()} {
		var p *kind.PanicError
		if !errors.As(err, &p) {
			t.Errorf("method %d: %v", i, err)
		}
	}
	if cap(grown) != 4096 {
		t.Error("the scratch is lost with a panic")
	}
	release()
	kind.Of(def).CloseIdle() // panics no more than the methods
}

func wantPanic(t *testing.T, err error) {
	t.Helper()
	var p *kind.PanicError
	if !errors.As(err, &p) || !strings.Contains(string(p.Stack), "testset.(*Set)") {
		t.Fatalf("got %v, want a PanicError with the author's stack", err)
	}
}

func TestStateTooLarge(t *testing.T) {
	t.Parallel()
	def := dataset.Define("large", func(context.Context, struct{}) (dataset.Funcs[[]byte, int, string], error) {
		return dataset.Funcs[[]byte, int, string]{NextFunc: func([]byte) (int, []byte, error) { return 0, make([]byte, schema.MaxState), nil }}, nil
	})
	inst, release, err := kind.Of(def).Acquire(t.Context(), nil)
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
