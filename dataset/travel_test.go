package dataset_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// funcs is a data set whose functions are not called.
type funcs[S, J, B any] = dataset.Funcs[S, J, B]

func defineTypes[S, J, B any](ds funcs[S, J, B]) dataset.Definition {
	return dataset.Define("types", func(context.Context, struct{}) (funcs[S, J, B], error) { return ds, nil })
}

type secret struct{ name string }

// Types that lose values on their way are named before anything is taken, by a definition and by the plain loop.
func TestTypesThatDoNotTravel(t *testing.T) {
	t.Parallel()
	ref := dataset.Sequential(funcs[int, secret, int]{NextFunc: func(i int) (secret, int, error) {
		return secret{name: "lost on the way"}, i + 1, nil
	}})
	if _, err := ref.Take(t.Context(), schema.State{Data: encode(t, 1)}); !errors.Is(err, dataset.ErrType) {
		t.Errorf("Sequential: got %v", err)
	}
	for name, tc := range map[string]struct {
		def  dataset.Definition
		want string // empty for a good one
	}{
		"good":            {defineTypes(funcs[struct{ PCG rand.PCG }, []int, schema.Batch]{}), ""},
		"by pointer":      {defineTypes(funcs[*rand.PCG, *struct{ A int }, *struct{ B int }]{}), ""},
		"other version":   {defineTypes(funcs[secret, int, int]{}).WithVersion(2), "state.name (string)"},
		"state":           {defineTypes(funcs[secret, int, int]{}), "state.name (string)"},
		"job":             {defineTypes(funcs[int, []secret, int]{}), "job[].name (string)"},
		"batch":           {defineTypes(funcs[int, int, map[string]any]{}), "batch[] (interface {})"},
		"batch of any":    {defineTypes(funcs[int, int, any]{}), "batch (interface {})"},
		"keys of a state": {defineTypes(funcs[map[int]int, int, int]{}), "state (map[int]int)"},
	} {
		err := tc.def.Validate()
		if _, refErr := dataset.SequentialOf[any](t.Context(), tc.def, nil); (refErr == nil) != (err == nil) {
			t.Errorf("%s: the definition says %v, its reference %v", name, err, refErr)
		}
		if tc.want == "" && err == nil {
			continue
		}
		if tc.want == "" || !errors.Is(err, dataset.ErrType) || !strings.Contains(err.Error(), "data set types: ") ||
			!strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

// The zero Definition has no name, no version and no data, and says so.
func TestZeroDefinition(t *testing.T) {
	t.Parallel()
	var zero dataset.Definition
	for _, d := range []dataset.Definition{zero, zero.WithVersion(3)} {
		if d.Name() != "" || d.Version() != 0 {
			t.Errorf("got %q@%d", d.Name(), d.Version())
		}
		if err := d.Validate(); !errors.Is(err, wire.ErrBadName) {
			t.Errorf("got %v", err)
		}
		if _, err := dataset.SequentialOf[any](t.Context(), d, nil); !errors.Is(err, wire.ErrBadName) {
			t.Errorf("got %v", err)
		}
	}
}
