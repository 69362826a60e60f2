package dataset_test

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type params = testset.Params

type position = testset.Position

var errOpen = errors.New("no such set")

// refusing does not open a set that is slow.
var refusing = testset.Hooks{Open: func(_ context.Context, p params) error {
	if p.Slow > 0 {
		return errOpen
	}
	return nil
}}

func define(hooks testset.Hooks) dataset.Definition { return testset.Define("toy", &hooks) }

func open(t *testing.T, p params, hooks testset.Hooks) *testset.Set {
	t.Helper()
	set, err := testset.Open(t.Context(), p, &hooks)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// sequential is the reference of a set, which has no name.
func sequential(t *testing.T, p params, hooks testset.Hooks) *dataset.Reference[schema.Batch] {
	t.Helper()
	return dataset.Sequential(open(t, p, hooks))
}
