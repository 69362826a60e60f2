// Command benchmark is the jetbatch binary with a data set of batches of a given size, for run.py beside it.
package main

import (
	"bytes"
	"context"

	"github.com/jetbatch/jetbatch/cli"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/schema"
)

// sized is batches of Size bytes.
type sized struct {
	Size int `json:"size"`
}

type position struct{ Index int }

func (sized) Start() (position, error) { return position{}, nil }

func (sized) Next(p position) (int, position, error) { return p.Index, position{p.Index + 1}, nil }

func (s sized) Materialize(_ context.Context, job int) (schema.Batch, error) {
	x, err := schema.NewTensor([]int{s.Size}, bytes.Repeat([]byte{byte(job)}, s.Size))
	return schema.Batch{{Name: "x", Tensor: x}}, err
}

func main() {
	cli.Main(dataset.Define("sized", func(_ context.Context, s sized) (sized, error) { return s, nil }))
}
