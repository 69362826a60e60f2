package client_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// squares is a data set that ends: batch n is n squared.
type squares struct{ N int }

func (squares) Start() (int, error) { return 0, nil }

func (s squares) Next(n int) (job, next int, err error) {
	if n == s.N {
		return 0, 0, io.EOF
	}
	return n, n + 1, nil
}

func (squares) Materialize(_ context.Context, n int) (int, error) { return n * n, nil }

type params struct {
	N int `json:"n"`
}

// The trainer's loop: take, train, save the state. Here it stops in the middle, and a second trainer goes on
// from the saved state.
func Example() {
	ctx := context.Background()
	def := dataset.Define("squares", func(_ context.Context, p params) (squares, error) {
		return squares(p), nil
	})
	svc, err := embedded.Start(ctx, embedded.Config{Workers: 2}, def)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()

	train := func(from schema.State, most int) (saved schema.State) {
		b, err := client.Open[int](ctx, svc.Conn(), client.Config{Name: "train", Dataset: "squares", Params: params{N: 6}})
		if err != nil {
			log.Fatal(err)
		}
		defer b.Close()
		for step, err := range b.All(ctx, from) {
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(step.Batch)
			saved = step.Next
			if most--; most == 0 {
				break
			}
		}
		return saved
	}
	saved := train(schema.State{}, 4)
	fmt.Println("resumed")
	train(saved, 0)
	// Output:
	// 0
	// 1
	// 4
	// 9
	// resumed
	// 16
	// 25
}
