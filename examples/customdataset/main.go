// Command customdataset is a whole jetbatch binary with a data set of its own: the same commands, coordinator and
// worker included, over Waves.
//
//	go run ./examples/customdataset up &
//	go run ./examples/customdataset take --name train --dataset waves --params '{"size": 4096, "epochs": 100}' --verify
//
// The Dockerfile beside it makes an image of it that runs in the docker-compose.yml of jetbatch:
//
//	CGO_ENABLED=0 go build -o examples/customdataset/jetbatch ./examples/customdataset
//	docker build -t my/jetbatch examples/customdataset
//	JETBATCH_IMAGE=my/jetbatch docker compose up
package main

import (
	"context"
	"fmt"
	"io"
	"math"

	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

func main() { cli.Main(definition) }

var definition = dataset.Define("waves", func(_ context.Context, p Params) (Waves, error) {
	if p.Size < 1 {
		return Waves{}, fmt.Errorf("size is %d, and at least 1", p.Size)
	}
	return Waves{p}, nil
})

// Params come from the trainer.
type Params struct {
	Size   int    `json:"size"`   // samples of a batch
	Epochs uint64 `json:"epochs"` // batches until the data ends
}

// Waves has one sine wave per batch, each higher than the one before.
type Waves struct{ Params }

// State is where an iterator stands: how many batches came before.
type State struct {
	Index uint64 `msgpack:"index"`
}

// Job is all that a worker needs to make a batch.
type Job struct {
	Frequency float64 `msgpack:"frequency"`
}

// Start is the first state.
func (w Waves) Start() (State, error) { return State{}, nil }

// Next runs on a coordinator: cheap, and a function of the state alone.
func (w Waves) Next(s State) (Job, State, error) {
	if s.Index >= w.Epochs {
		return Job{}, s, io.EOF
	}
	return Job{Frequency: float64(s.Index + 1)}, State{s.Index + 1}, nil
}

// Materialize runs on workers, many at a time: as dear as it has to be.
func (w Waves) Materialize(_ context.Context, job Job) (schema.Batch, error) {
	samples := make([]float32, w.Size)
	for i := range samples {
		samples[i] = float32(math.Sin(2 * math.Pi * job.Frequency * float64(i) / float64(w.Size)))
	}
	x, err := schema.NewTensor([]int{1, w.Size}, samples)
	if err != nil {
		return nil, err
	}
	return schema.Batch{{Name: "x", Tensor: x}}, nil
}
