package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
)

// Options of a run, the same at all ranks.
type Options struct {
	Data  string // folder of labelled recordings in Onda format, read in place
	Out   string // folder for checkpoint and picture
	Steps int    // in all, those before a checkpoint included
	Every int    // steps from one checkpoint, evaluation and line of output to the next
}

// The files in Options.Out.
const (
	checkpointFile = "checkpoint.gob"
	pictureFile    = "training.png"
)

// run trains from the checkpoint, if there is one, to the last step, as one rank of a world, or alone without one.
func run(ctx context.Context, nc *nats.Conn, o Options, world *client.World, out io.Writer) error {
	var at Checkpoint
	file := filepath.Join(o.Out, checkpointFile)
	if err := at.Load(file); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if at.Steps >= o.Steps {
		fmt.Fprintf(out, "done at step %d\n", at.Steps)
		return nil
	}
	training, validation, err := params(ctx, o.Data)
	if err != nil {
		return err
	}
	network, err := NewNetwork(len(training.Encoding), &at)
	if err != nil {
		return err
	}
	adder, err := NewAdder(nc, world)
	if err != nil {
		return err
	}
	batches, err := client.Open[schema.Batch](ctx, nc, client.Config{
		Name: "gomlx", Dataset: onda.Name, Params: training, World: world, TakeOver: true,
	})
	if err != nil {
		return err
	}
	defer batches.Close()
	t := &trainer{
		Options: o, at: &at, network: network, adder: adder, out: out,
		data: dataset(ctx, batches, "training"),
	}
	t.data.From = at.Data
	if world == nil || world.Rank == 0 {
		// Evaluated by one rank, alone: the others wait for it with the next gradients.
		others, err := client.Open[schema.Batch](ctx, nc, client.Config{
			Name: "gomlx-validation", Dataset: onda.Name, Params: validation, TakeOver: true,
			// Each evaluation goes back to the first batch, which a trainer is warned of, and finds them all still held.
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})), Retain: 64,
		})
		if err != nil {
			return err
		}
		defer others.Close()
		t.validation = dataset(ctx, others, "validation")
		t.validation.Rewind = true
	}
	if at.Steps > 0 {
		t.say("goes on after step %d\n", at.Steps)
	}
	if err := t.train(ctx); err != nil {
		return err
	}
	digest, err := network.Digest()
	rank := 0
	if world != nil {
		rank = world.Rank
	}
	fmt.Fprintf(out, "rank %d: weights %s after step %d\n", rank, digest, at.Steps)
	return err
}

// dataset feeds windows and labels of a batcher to GoMLX.
func dataset(ctx context.Context, b *client.Batcher[schema.Batch], title string) *Dataset {
	return &Dataset{Context: ctx, Batcher: b, Title: title, Inputs: []string{"x"}, Labels: []string{"y"}}
}

// params are what to train on, at random and without end, and every fourth window of the recordings that are kept from
// it.
func params(ctx context.Context, dir string) (training, validation onda.Params, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return training, validation, err
	}
	training, err = onda.GuessContext(ctx, dir)
	if err != nil {
		return training, validation, err
	}
	training.BatchSize = 32
	training.BatchDuration = onda.Duration(2 * time.Second)
	validation = training
	validation.Mode, validation.Epochs = onda.ModeEpochs, 1
	validation.BatchSize, validation.Stride = 128, onda.Duration(8*time.Second)
	training.Split, validation.Split = &onda.Split{Use: "train"}, &onda.Split{Use: "validation"}
	if _, ok := training.Encoding["pvc"]; ok {
		training.ClassWeights = map[string]float64{"pvc": 5} // few seconds have such a beat
	}
	return training, validation, nil
}

// trainer is one run at one rank.
type trainer struct {
	Options
	at               *Checkpoint
	network          *Network
	adder            *Adder
	data, validation *Dataset // validation where this rank evaluates, saves and speaks; nil elsewhere
	out              io.Writer
}

func (t *trainer) say(format string, args ...any) {
	if t.validation != nil {
		fmt.Fprintf(t.out, format, args...)
	}
}

func (t *trainer) train(ctx context.Context) error {
	for batch, err := range t.data.Iter() {
		if err != nil {
			return err
		}
		part, err := t.network.Gradients(batch, t.data.Rows())
		if err := errors.Join(err, batch.Finalize()); err != nil {
			return err
		}
		sums, err := t.adder.Sum(ctx, t.at.Steps, part)
		if err != nil {
			return err
		}
		if err := t.network.Update(sums); err != nil {
			return err
		}
		t.at.Steps++
		t.at.Data = t.data.State()
		t.at.Curve.add(sums[0], sums[1])
		last := t.at.Steps == t.Steps
		if t.at.Steps%t.Every == 0 || last {
			if err := t.report(); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
	return io.ErrUnexpectedEOF // the data have no end
}

// report evaluates, saves and prints, at one rank.
func (t *trainer) report() error {
	if t.validation == nil {
		return nil
	}
	loss, accuracy, first, err := t.network.Evaluate(t.validation)
	if err != nil {
		return err
	}
	c := &t.at.Curve
	c.Validation = append(c.Validation, Point{t.at.Steps, loss, accuracy, max(first, 1-first)})
	if err := t.at.Save(filepath.Join(t.Out, checkpointFile), t.network); err != nil {
		return err
	}
	t.say("step %d: loss %.4f, accuracy %.3f; validation: loss %.4f, accuracy %.3f\n",
		t.at.Steps, mean(c.Loss, t.Every), mean(c.Accuracy, t.Every), loss, accuracy)
	return t.at.Curve.Draw(filepath.Join(t.Out, pictureFile), t.Every)
}
