package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

type spanKey struct{}

// Metrics of the trainer, what a batch was waited for, and the trace that it belongs to.
func Example_observing() {
	// A tracer would put its span there.
	ctx := context.WithValue(context.Background(), spanKey{}, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	def := dataset.Define("squares", func(_ context.Context, p params) (squares, error) {
		return squares(p), nil
	})
	svc, err := embedded.Start(ctx, embedded.Config{Workers: 2}, def)
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()

	registry := prometheus.NewRegistry()
	b, err := client.Open[int](ctx, svc.Conn(), client.Config{
		Name: "train", Dataset: "squares", Params: params{N: 6}, Registerer: registry,
		Trace: func(ctx context.Context) string { span, _ := ctx.Value(spanKey{}).(string); return span },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	step, err := b.Take(ctx, schema.State{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(step.Trace)
	waited := step.Timing.Wait
	for _, cause := range step.Timing.Causes() {
		waited -= cause.Wait
	}
	fmt.Println("waited for nothing known:", waited)
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "jetbatch_client_batches_total" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output:
	// 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
	// waited for nothing known: 0s
	// jetbatch_client_batches_total 1
}
