package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// A worker of one data set, asked how it is and then drained. A real one connects to a server of its own
// with client.Connect and ends Run's context on SIGTERM.
func Example() {
	dir, err := os.MkdirTemp("", "jetbatch")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	srv, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	srv.Start()
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()

	squares := dataset.Define("squares", func(context.Context, struct{}) (dataset.Funcs[int, int, int], error) {
		return dataset.Funcs[int, int, int]{
			NextFunc:        func(n int) (job, next int, err error) { return n, n + 1, nil },
			MaterializeFunc: func(_ context.Context, n int) (int, error) { return n * n, nil },
		}, nil
	})
	w, err := worker.New(nc, worker.Config{Name: "w1", Slots: 2, Logger: slog.New(slog.DiscardHandler)}, squares)
	if err != nil {
		fmt.Println(err)
		return
	}
	beats, err := nc.SubscribeSync(wire.WorkerPrefix + ".w1")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()

	beat, err := beats.NextMsg(10 * time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	var status schema.WorkerStatus
	if err := json.Unmarshal(beat.Data, &status); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(status.Worker, status.Slots, status.Kinds)
	cancel()
	fmt.Println("drained:", <-done)
	// Output:
	// w1 2 [squares-v1-w2]
	// drained: <nil>
}
