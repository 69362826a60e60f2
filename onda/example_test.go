package onda_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jetbatch/jetbatch/onda"
)

// A data set of windows of ten seconds, drawn at random, with one label per
// second.
func Example() {
	dir, err := os.MkdirTemp("", "onda")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 4, Duration: time.Minute}); err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	ds, err := onda.New(ctx, onda.Params{Dir: dir, BatchSize: 8}, onda.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	state, _ := ds.Start()
	for range 2 {
		job, next, err := ds.Next(state)
		if err != nil {
			fmt.Println(err)
			return
		}
		batch, err := ds.Materialize(ctx, job)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, named := range batch {
			fmt.Println(named.Name, named.Tensor.DType, named.Tensor.Shape)
		}
		state = next
	}
	fmt.Println("batches so far:", state.Index)
	// Output:
	// x float32 [8 2 1280]
	// y uint8 [8 1 10]
	// x float32 [8 2 1280]
	// y uint8 [8 1 10]
	// batches so far: 2
}
