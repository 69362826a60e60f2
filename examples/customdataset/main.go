// Command customdataset is a whole jetbatch binary with a data set of its own: the same commands, coordinator and
// worker included, over Waves. docs/WRITING_A_DATASET.md shows it.
package main

import (
	"context"
	"fmt"
	"math"

	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/dataset/order"
	"github.com/jetbatch/jetbatch/schema"
)

// The binary is coordinator, worker and every tool, for the data sets that it is given here.
func main() { cli.Main(dataset.Define("waves", open)) }

// Params come from the trainer, as JSON; a field that is not here is an error.
type Params struct {
	Waves  uint64 `json:"waves" help:"Waves that there are."`
	Batch  int    `json:"batch" help:"Waves of a batch." default:"1"`
	Size   int    `json:"size" help:"Samples of a wave."`
	Epochs uint64 `json:"epochs" help:"Epochs until the data ends." default:"0, endless"`
	Seed   uint64 `json:"seed" help:"Seed of the order of waves."`
}

// Waves are sine waves, each higher than the one before. All of them come once per epoch, in an order that is shuffled
// anew for each: order.Epochs is the data set's Start and Next.
type Waves struct {
	order.Epochs
	size int
}

// open is called once per process and parameter set.
func open(_ context.Context, p Params) (*Waves, error) {
	if p.Waves < 1 || p.Size < 1 {
		return nil, fmt.Errorf("waves is %d and size %d; both are at least 1", p.Waves, p.Size)
	}
	return &Waves{order.Epochs{N: p.Waves, Batch: p.Batch, Limit: p.Epochs, Seed: p.Seed}, p.Size}, nil
}

// Materialize runs on workers, many calls at a time: as dear as it has to be. An error is tried again, and then reaches
// the trainer's Take with its cause and this worker's name.
func (w *Waves) Materialize(_ context.Context, waves []uint64) (schema.Batch, error) {
	samples := make([]float32, 0, len(waves)*w.size)
	for _, wave := range waves {
		for i := range w.size {
			samples = append(samples, float32(math.Sin(2*math.Pi*float64(1+wave)*float64(i)/float64(w.size))))
		}
	}
	x, err := schema.NewTensor([]int{len(waves), w.size}, samples) // (batch, time)
	return schema.Batch{{Name: "x", Tensor: x}}, err
}
