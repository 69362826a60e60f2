package dataset_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

// Dice is a whole data set: batches of throws, drawn in order by a generator that is part of the state and thrown
// anywhere. State and job need no methods; exported fields travel.
type Dice struct{ Batches, Size int }

type Draw struct {
	Index int
	PCG   rand.PCG
}

func (d Dice) Start() (Draw, error) { return Draw{PCG: *rand.NewPCG(1, 2)}, nil }

func (d Dice) Next(s Draw) (seed uint64, next Draw, err error) {
	if s.Index == d.Batches {
		return 0, s, io.EOF
	}
	s.Index++ // s is a copy
	seed = s.PCG.Uint64()
	return seed, s, nil
}

func (d Dice) Materialize(_ context.Context, seed uint64) (throws []int, err error) {
	r := rand.New(rand.NewPCG(seed, 0))
	for range d.Size {
		throws = append(throws, 1+r.IntN(6))
	}
	return throws, nil
}

// A data set, its definition for coordinators and workers, and the loop that they do the same as.
func Example() {
	dice := dataset.Define("dice", func(_ context.Context, d Dice) (Dice, error) { return d, nil })
	fmt.Println(dice.Name(), dice.Version())

	ctx := context.Background()
	reference := dataset.Sequential(Dice{Batches: 3, Size: 4})
	var checkpoint, state schema.State
	for {
		step, err := reference.Take(ctx, state)
		if err == io.EOF {
			break
		} else if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(step.Seq, step.Batch)
		if state = step.Next; step.Seq == 1 {
			checkpoint = state
		}
	}
	resumed, err := dataset.Sequential(Dice{Batches: 3, Size: 4}).Take(ctx, checkpoint)
	fmt.Println("resumed", resumed.Batch, err)

	// Output:
	// dice 1
	// 1 [2 6 6 3]
	// 2 [1 5 6 6]
	// 3 [2 5 5 2]
	// resumed [1 5 6 6] <nil>
}
