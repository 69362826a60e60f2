package dataset_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

func TestSequential(t *testing.T) {
	t.Parallel()
	ref := sequential(t, params{N: 3}, testset.Hooks{})
	state := schema.State{}
	for i := range uint64(3) {
		step, err := ref.Take(t.Context(), state)
		if err != nil || testset.Label(step.Batch) != i+1 || step.Seq != i+1 || !step.Prev.Equal(state) {
			t.Fatalf("got %+v, %v; want %d", step, err, i+1)
		}
		state = step.Next
	}
	for range 2 {
		if _, err := ref.Take(t.Context(), state); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
			t.Fatalf("got %v, want exactly io.EOF, twice", err)
		}
	}
	step, err := ref.Take(t.Context(), schema.State{})
	if err != nil || testset.Label(step.Batch) != 1 || step.Seq != 4 {
		t.Fatalf("got %+v, %v; want the first batch again", step, err)
	}
}

func TestSequentialKeepsTheStatesName(t *testing.T) {
	t.Parallel()
	state := schema.State{Dataset: "toy", Version: 7, Data: encode(t, position{I: 1})}
	step, err := sequential(t, params{N: 3}, testset.Hooks{}).Take(t.Context(), state)
	if err != nil || step.Next.Dataset != "toy" || step.Next.Version != 7 {
		t.Fatalf("got %+v, %v", step.Next, err)
	}
}

func TestSequentialSkips(t *testing.T) {
	t.Parallel()
	ref := sequential(t, params{N: 5}, testset.Hooks{Materialize: func(_ context.Context, _ params, j testset.Job) error {
		if j.At%2 == 1 {
			return fmt.Errorf("job %d: %w", j.At, dataset.Skip("odd"))
		}
		return nil
	}})
	step, err := ref.Take(t.Context(), schema.State{})
	if err != nil || testset.Label(step.Batch) != 2 || step.Seq != 1 || !step.Prev.IsZero() {
		t.Fatalf("got %+v, %v; want 2 for the state that was asked for", step, err)
	}
	if step, err = ref.Take(t.Context(), step.Next); err != nil || testset.Label(step.Batch) != 4 {
		t.Fatalf("got %+v, %v; want 4", step, err)
	}
	if _, err = ref.Take(t.Context(), step.Next); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
		t.Fatalf("got %v, want the end after a last batch that is skipped", err)
	}
}

func TestSequentialErrors(t *testing.T) {
	t.Parallel()
	disk := errors.New("disk on fire")
	funcs := func(next, batch error) dataset.Dataset[position, int, string] {
		return dataset.Funcs[position, int, string]{
			NextFunc:        func(p position) (int, position, error) { return 1, p, next },
			MaterializeFunc: func(context.Context, int) (string, error) { return "", batch },
		}
	}
	good := schema.State{Data: encode(t, position{})}
	for name, tc := range map[string]struct {
		ds    dataset.Dataset[position, int, string]
		state schema.State
		want  error
	}{
		"no start":                {funcs(nil, nil), schema.State{}, dataset.ErrNoStart},
		"not a state":             {funcs(nil, nil), schema.State{Data: []byte{0xc1}}, dataset.ErrWrongState},
		"another data set":        {funcs(nil, nil), schema.State{Data: encode(t, "text")}, dataset.ErrWrongState},
		"iterator":                {funcs(disk, nil), good, disk},
		"materialize":             {funcs(nil, disk), good, disk},
		"truncated index":         {funcs(fmt.Errorf("index: %w", io.EOF), nil), good, io.ErrUnexpectedEOF},
		"truncated file":          {funcs(nil, io.EOF), good, io.ErrUnexpectedEOF},
		"truncated file, wrapped": {funcs(nil, fmt.Errorf("file: %w", io.EOF)), good, io.ErrUnexpectedEOF},
	} {
		step, err := dataset.Sequential(tc.ds).Take(t.Context(), tc.state)
		if !errors.Is(err, tc.want) || errors.Is(err, io.EOF) || step.Seq != 0 {
			t.Errorf("%s: got %+v, %v; want %v", name, step, err, tc.want)
		}
	}
}

func TestSequentialCancelled(t *testing.T) {
	t.Parallel()
	gone := errors.New("trainer is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	ref := sequential(t, params{}, testset.Hooks{Materialize: func(_ context.Context, _ params, j testset.Job) error {
		if j.At == 3 {
			cancel(gone)
		}
		return dataset.Skip("all of it") // without the cancellation it would never end
	}})
	if _, err := ref.Take(ctx, schema.State{}); !errors.Is(err, gone) {
		t.Fatalf("got %v, want the cause", err)
	}
}

// The reference of a definition gives the states that the service gives, with name and version.
func TestSequentialOf(t *testing.T) {
	t.Parallel()
	closed := 0
	def := define(testset.Hooks{Close: func() error {
		closed++
		return nil
	}}).WithVersion(7)
	ref, err := dataset.SequentialOf[schema.Batch](t.Context(), def, params{N: 2})
	if err != nil {
		t.Fatal(err)
	}
	first, err := ref.Take(t.Context(), schema.State{})
	want := first.Next.Clone()
	want.Dataset, want.Version = "toy", 7
	if err != nil || testset.Label(first.Batch) != 1 || !first.Next.Equal(want) || !first.Prev.IsZero() || first.Seq != 1 {
		t.Fatalf("got %+v, %v", first, err)
	}
	for _, from := range []schema.State{want, {Data: want.Data}} { // with a name, and without
		step, err := ref.Take(t.Context(), from)
		if err != nil || testset.Label(step.Batch) != 2 || step.Next.Dataset != "toy" || step.Next.Version != 7 {
			t.Fatalf("got %+v, %v", step, err)
		}
		if _, err := ref.Take(t.Context(), step.Next); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
			t.Fatalf("got %v, want exactly io.EOF", err)
		}
	}
	for _, other := range []schema.State{
		{Dataset: "other", Version: 7, Data: want.Data}, {Dataset: "toy", Version: 6, Data: want.Data},
	} {
		if _, err := ref.Take(t.Context(), other); !errors.Is(err, dataset.ErrWrongState) {
			t.Errorf("%v: got %v", other, err)
		}
	}
	if err := ref.Close(); err != nil || closed != 1 {
		t.Errorf("closed %d times, %v", closed, err)
	}
}

func TestSequentialOfRefuses(t *testing.T) {
	t.Parallel()
	def := define(refusing)
	_, err := dataset.SequentialOf[[]byte](t.Context(), def, nil)
	if err == nil || !strings.Contains(err.Error(), "its batches are schema.Batch, not []uint8") {
		t.Errorf("another type of batches: got %v", err)
	}
	unknown := map[string]int{"nn": 1}
	if _, err := dataset.SequentialOf[any](t.Context(), def, unknown); !errors.Is(err, dataset.ErrBadParams) {
		t.Errorf("unknown parameters: got %v", err)
	}
	if _, err := dataset.SequentialOf[any](t.Context(), def, func() {}); err == nil {
		t.Error("parameters that are no JSON are taken")
	}
	_, err = dataset.SequentialOf[any](t.Context(), def, params{Slow: 1})
	if !errors.Is(err, errOpen) || !strings.Contains(err.Error(), "toy") {
		t.Errorf("got %v", err)
	}
	ref, err := dataset.SequentialOf[any](t.Context(), def, params{N: 1})
	if err != nil {
		t.Fatal(err)
	}
	step, err := ref.Take(t.Context(), schema.State{})
	if batch, ok := step.Batch.(schema.Batch); err != nil || !ok || testset.Label(batch) != 1 {
		t.Errorf("got %+v, %v", step, err)
	}
}
