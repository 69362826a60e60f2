package embedded_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// squares yields 1, 4, 9 … up to N².
type squares struct {
	N int `json:"n"`
}

func (s squares) Start() (int, error) { return 1, nil }

func (s squares) Next(i int) (job, next int, err error) {
	if i > s.N {
		return 0, 0, io.EOF
	}
	return i, i + 1, nil
}

func (s squares) Materialize(_ context.Context, i int) (int, error) { return i * i, nil }

func Example() {
	ctx, quiet := context.Background(), slog.New(slog.DiscardHandler)
	def := dataset.Define("squares", func(_ context.Context, s squares) (squares, error) { return s, nil })
	svc, err := embedded.Start(ctx, embedded.Config{Workers: 2, Logger: quiet}, def)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer svc.Close()
	b, err := client.Open[int](ctx, svc.Conn(), client.Config{
		Name: "train", Dataset: "squares", Params: squares{N: 5}, Logger: quiet,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	for step, err := range b.All(ctx, schema.State{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(step.Batch)
	}
	// Output:
	// 1
	// 4
	// 9
	// 16
	// 25
}
