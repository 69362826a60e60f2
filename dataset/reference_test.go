package dataset_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

func TestSequential(t *testing.T) {
	t.Parallel()
	ref := dataset.Sequential(&squares{length: 3})
	state := schema.State{}
	for i, want := range []string{"0", "1", "4"} {
		step, err := ref.Take(t.Context(), state)
		if err != nil || step.Batch != want || step.Seq != uint64(i+1) || !step.Prev.Equal(state) {
			t.Fatalf("got %+v, %v; want %s", step, err, want)
		}
		state = step.Next
	}
	for range 2 {
		if _, err := ref.Take(t.Context(), state); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
			t.Fatalf("got %v, want exactly io.EOF, twice", err)
		}
	}
	step, err := ref.Take(t.Context(), schema.State{})
	if err != nil || step.Batch != "0" || step.Seq != 4 {
		t.Fatalf("got %+v, %v; want the first batch again", step, err)
	}
}

func TestSequentialKeepsTheStatesName(t *testing.T) {
	t.Parallel()
	state := schema.State{Dataset: "squares", Version: 7, Data: encode(t, position{1})}
	step, err := dataset.Sequential(&squares{length: 3}).Take(t.Context(), state)
	if err != nil || step.Next.Dataset != "squares" || step.Next.Version != 7 {
		t.Fatalf("got %+v, %v", step.Next, err)
	}
}

func TestSequentialSkips(t *testing.T) {
	t.Parallel()
	ds := &squares{length: 5, batch: func(_ context.Context, job int) (string, error) {
		if job%2 == 0 {
			return "", fmt.Errorf("job %d: %w", job, dataset.Skip("even"))
		}
		return fmt.Sprint(job), nil
	}}
	ref := dataset.Sequential(ds)
	step, err := ref.Take(t.Context(), schema.State{})
	if err != nil || step.Batch != "1" || step.Seq != 1 || !step.Prev.IsZero() {
		t.Fatalf("got %+v, %v; want 1 for the state that was asked for", step, err)
	}
	if step, err = ref.Take(t.Context(), step.Next); err != nil || step.Batch != "3" {
		t.Fatalf("got %+v, %v; want 3", step, err)
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
	ds := &squares{next: func(p position) (int, position, error) { return p.I, position{p.I + 1}, nil }}
	ds.batch = func(_ context.Context, job int) (string, error) {
		if job == 3 {
			cancel(gone)
		}
		return "", dataset.Skip("all of it") // without the cancellation it would never end
	}
	if _, err := dataset.Sequential(ds).Take(ctx, schema.State{}); !errors.Is(err, gone) {
		t.Fatalf("got %v, want the cause", err)
	}
}
