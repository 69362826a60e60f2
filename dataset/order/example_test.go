package order_test

import (
	"context"
	"fmt"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/dataset/order"
)

// Letters has its order from order.Epochs, and only makes batches.
type Letters struct {
	order.Epochs
	text string
}

// Materialize makes a batch of the samples that were chosen for it.
func (l Letters) Materialize(_ context.Context, samples []uint64) (batch string, err error) {
	for _, s := range samples {
		batch += l.text[s : s+1]
	}
	return batch, nil
}

// Two epochs of seven samples, three at a time, each epoch in an order of its own.
func ExampleEpochs() {
	letters := Letters{order.Epochs{N: 7, Batch: 3, Limit: 2, Seed: 1}, "abcdefg"}
	for state, err := letters.Start(); ; {
		var samples []uint64
		if samples, state, err = letters.Next(state); err != nil {
			fmt.Println(err)
			return
		}
		batch, _ := letters.Materialize(context.Background(), samples)
		fmt.Println(batch, state)
	}
	// Output:
	// gcb {0 3}
	// efa {0 6}
	// d {0 7}
	// ead {1 3}
	// fcb {1 6}
	// g {1 7}
	// EOF
}

// The batches of an epoch of three files with 4, 2 and 3 samples: no file is left before it is used up.
func ExampleShards() {
	shards := order.Shards{Sizes: []uint64{4, 2, 3}, Batch: 4, Limit: 1, Seed: 1}
	for state, err := shards.Start(); ; {
		var samples []order.Sample
		if samples, state, err = shards.Next(state); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(samples)
	}
	// Output:
	// [{1 1} {1 0} {2 1} {2 2}]
	// [{2 0} {0 3} {0 2} {0 0}]
	// [{0 1}]
	// EOF
}

// Three draws from the first source for each from the second, on average, and from each source in its own order.
func ExampleMix() {
	mix := order.Mix[order.Position, []uint64]{
		Sources: []dataset.Iterator[order.Position, []uint64]{
			order.Epochs{N: 1000, Seed: 1},
			order.Epochs{N: 50, InOrder: true},
		},
		Weights: []float64{3, 1},
		Batch:   8,
	}
	state, _ := mix.Start()
	batch, _, err := mix.Next(state)
	for _, drawn := range batch {
		fmt.Println("source", drawn.Source, "sample", drawn.Job[0])
	}
	fmt.Println(err)
	// Output:
	// source 0 sample 658
	// source 0 sample 756
	// source 0 sample 105
	// source 0 sample 583
	// source 1 sample 0
	// source 0 sample 255
	// source 1 sample 1
	// source 0 sample 513
	// <nil>
}

// Six samples of a frequent class and one of a rare one, which are drawn equally often.
func ExampleClasses() {
	classes := order.Classes{Samples: [][]uint64{{0, 1, 2, 3, 4, 5}, {6}}, Weights: []float64{1, 1}, Batch: 10}
	samples, _, err := classes.Next(0)
	fmt.Println(samples, err)
	// Output:
	// [1 6 4 1 6 2 6 4 1 6] <nil>
}
