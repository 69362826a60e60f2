// Command trainer is what a training program looks like: it takes batches in order from the batcher "example", and
// keeps its checkpoint, a counter and the state of the data, in the file checkpoint.json. Stop it anywhere by Ctrl-C or
// SIGTERM and start it again: it goes on with the very next batch. Killed outright, it goes on from the last hundredth
// step.
//
//	go run ./cmd/jetbatch demo --keep data
//	go run ./cmd/jetbatch up &
//	go run ./examples/trainer data
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: trainer FOLDER, with labelled Onda signals")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends it at once
	err := run(ctx, os.Args[1])
	if err != nil {
		log.Print(err)
	}
	switch {
	case ctx.Err() != nil:
		os.Exit(130) // stopped before it was done
	case err != nil:
		os.Exit(1)
	}
}

func run(ctx context.Context, folder string) error {
	dir, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	params, err := onda.Guess(dir)
	if err != nil {
		return err
	}
	nc, err := client.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL))
	if err != nil {
		return err
	}
	defer nc.Close()
	return train(ctx, nc, params, "checkpoint.json", 1000, os.Stdout)
}

// Checkpoint is all that a run needs to go on.
type Checkpoint struct {
	Steps int          `json:"steps"`
	Mean  float64      `json:"mean"` // the "model"
	Data  schema.State `json:"data"` // where the data goes on
}

// train takes batches until steps were taken, checkpoints before included. However it ends, the last step is saved.
func train(ctx context.Context, nc *nats.Conn, params onda.Params, path string, steps int, out io.Writer) (err error) {
	var at Checkpoint
	if err := at.load(path); err != nil {
		return err
	}
	b, err := client.Open[schema.Batch](ctx, nc, client.Config{Name: "example", Dataset: onda.Name, Params: params})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, at.save(path), b.Close())
		fmt.Fprintf(out, "saved after step %d\n", at.Steps)
	}()
	for at.Steps < steps {
		step, err := b.Take(ctx, at.Data)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		x, _ := step.Batch.Get("x")
		samples, err := schema.View[float32](x) // (batch, channel, time), without a copy
		if err != nil {
			return err
		}
		at.fit(samples)
		at.Data = step.Next
		step.Release()
		if at.Steps%100 == 0 {
			fmt.Fprintf(out, "step %d: mean %.6f\n", at.Steps, at.Mean)
			if err := at.save(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// fit is a very small model.
func (c *Checkpoint) fit(samples []float32) {
	sum := 0.0
	for _, s := range samples {
		sum += float64(s)
	}
	c.Steps++
	c.Mean += (sum/float64(len(samples)) - c.Mean) / float64(c.Steps)
}

func (c *Checkpoint) load(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, c)
}

// save replaces the file in one step: after a crash of the machine it has the content before or this one, whole, since
// the new content is on the disk before it has the name, and the name before save returns.
func (c *Checkpoint) save(path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, syncFile(f), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(syncFile(dir), dir.Close())
}

// syncFile is a variable for the test of when it is called.
var syncFile = (*os.File).Sync
