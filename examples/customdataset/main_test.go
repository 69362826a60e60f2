package main

import (
	"errors"
	"io"
	"testing"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/dataset/order"
	"github.com/jetbatch/jetbatch/datasettest"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// The data set keeps the rules.
func TestWaves(t *testing.T) {
	t.Parallel()
	datasettest.Run(t, open, Params{Waves: 10, Batch: 3, Size: 512, Epochs: 2}, order.Position{})
}

// What the service yields is what the data set yields in one process, to the end.
func TestServiceEqualsReference(t *testing.T) {
	t.Parallel()
	params := Params{Size: 512, Waves: 5, Epochs: 4}
	service, err := embedded.Start(t.Context(), embedded.Config{Workers: 2, Slots: 2}, dataset.Define("waves", open))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	b, err := client.Open[schema.Batch](t.Context(), service.Conn(), client.Config{Name: "test", Dataset: "waves", Params: params})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	waves, err := open(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	reference := dataset.Sequential(waves)
	n := 0
	var state schema.State
	for step, err := range b.All(t.Context(), schema.State{}) {
		if err != nil {
			t.Fatal(err)
		}
		want, err := reference.Take(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		if got := samples(t, step.Batch); got[len(got)/7] != samples(t, want.Batch)[len(got)/7] {
			t.Errorf("batch %d differs", step.Seq)
		}
		state = want.Next
		n++
	}
	if n != 20 {
		t.Errorf("%d batches before the end, not 20", n)
	}
	if _, err := reference.Take(t.Context(), state); !errors.Is(err, io.EOF) {
		t.Errorf("the reference goes on: %v", err)
	}
}

func samples(t *testing.T, b schema.Batch) []float32 {
	t.Helper()
	x, ok := b.Get("x")
	if !ok {
		t.Fatal("no tensor x")
	}
	view, err := schema.View[float32](x)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

// A batch is made by hand, without a service.
func TestOneBatch(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ref, err := dataset.SequentialOf[schema.Batch](ctx, dataset.Define("waves", open), Params{Waves: 10, Size: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Close()
	var state schema.State // the zero State is the first; or state.UnmarshalText(token)
	step, err := ref.Take(ctx, state)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(samples(t, step.Batch)); got != 512 {
		t.Errorf("%d samples", got)
	}
}
