package embedded_test

import (
	"context"
	"log"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// A trainer with the service beside it in its process.
func Example_onda() {
	ctx := context.Background()
	cfg := client.Config{Name: "train", Dataset: onda.Name, Params: onda.Params{Dir: "/data", BatchSize: 32}}
	svc, err := embedded.Start(ctx, embedded.Config{Workers: 2}, onda.Definition())
	if err != nil {
		log.Fatal(err)
	}
	defer svc.Close()
	batches, err := client.Open[schema.Batch](ctx, svc.Conn(), cfg) // the rest is the same
	if err != nil {
		log.Fatal(err)
	}
	defer batches.Close()
}
