package testset

import (
	"context"
	"errors"
	"io"
	"testing"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/datasettest"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The set keeps the contract that it is used to test others by.
func TestConformance(t *testing.T) {
	t.Parallel()
	open := func(ctx context.Context, p Params) (*Set, error) { return Open(ctx, p, nil) }
	datasettest.Run(t, open, Params{N: 20, HoleEvery: 7, BigEvery: 5, BigSize: 1000, Salt: 3}, Position{Seed: 7})
}

// Every way in which a batch can be wrong is told by its name, and a right one is not.
func TestOracle(t *testing.T) {
	t.Parallel()
	def, p := Define("toy", nil), Params{N: 12, HoleEvery: 5}
	step := func(p Params, from schema.State, n int) schema.Step[schema.Batch] {
		t.Helper()
		ref, err := dataset.SequentialOf[schema.Batch](t.Context(), def, p)
		if err != nil {
			t.Fatal(err)
		}
		var s schema.Step[schema.Batch]
		for range n {
			if s, err = ref.Take(t.Context(), from); err != nil {
				t.Fatal(err)
			}
			from = s.Next
		}
		return s
	}
	elsewhere, err := StateAt("toy", 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	salted := step(Params{N: 12, HoleEvery: 5, Salt: 1}, schema.State{}, 3)
	stale := step(p, elsewhere, 1)
	stale.Prev = step(p, schema.State{}, 2).Next
	unnamed := step(p, schema.State{}, 3)
	unnamed.Next.Dataset = ""
	for name, tc := range map[string]struct {
		got   schema.Step[schema.Batch]
		err   error
		class string
	}{
		"right":            {got: step(p, schema.State{}, 3)},
		"the next one":     {got: step(p, schema.State{}, 4), class: Lost},
		"the one before":   {got: step(p, schema.State{}, 2), class: Duplicated},
		"of another run":   {got: step(p, elsewhere, 1), class: Stale},
		"another state":    {got: stale, class: Stale},
		"a nameless state": {got: unnamed, class: Stale},
		"other bytes":      {got: salted, class: Different},
		"an early end":     {err: io.EOF, class: WrongEnd},
		"no right state":   {err: errors.New("x"), class: "x"},
	} {
		o, err := NewOracle(def, p, schema.State{})
		if err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= 2; n++ {
			if err := o.Check(step(p, schema.State{}, n), nil); err != nil {
				t.Fatal(err)
			}
		}
		err = o.Check(tc.got, tc.err)
		var v *Violation
		switch {
		case tc.class == "" && (err != nil || o.Taken != 3):
			t.Errorf("%s: %v after %d", name, err, o.Taken)
		case tc.err != nil && tc.class == "x" && !errors.Is(err, tc.err):
			t.Errorf("%s: got %v", name, err)
		case tc.class != "" && tc.class != "x" && (!errors.As(err, &v) || v.Class != tc.class):
			t.Errorf("%s: got %v, want %s", name, err, tc.class)
		}
	}
	o, err := NewOracle(def, Params{N: 1}, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Check(step(Params{N: 1}, schema.State{}, 1), nil)); err != nil {
		t.Fatal(err)
	}
	if err := o.Check(schema.Step[schema.Batch]{}, io.EOF); err != io.EOF { //nolint:errorlint // exactly
		t.Errorf("got %v at the end of both", err)
	}
	var v *Violation
	if err := o.Check(step(p, schema.State{}, 2), nil); !errors.As(err, &v) || v.Class != WrongEnd {
		t.Errorf("got %v after the end", err)
	}
}
