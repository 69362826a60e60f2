package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/remote"
	"github.com/jetbatch/jetbatch/schema"
)

const ondaWhat = "random windows of Onda signals with their labels; the service in one process with 2 slots, and a loop in one process"

const ondaSlots = 2

// ondaArg says what both read.
type ondaArg struct {
	Params onda.Params `json:"params"`
	// Concurrency is how many windows of a batch are read at once; 0 is the data set's own choice.
	Concurrency int `json:"concurrency"`
	// Slots of the service; 0 is ondaSlots.
	Slots int `json:"slots"`
	// Store is where s3:// URLs lead to.
	Store string `json:"store"`
}

func ondaWindows(ctx context.Context, b *bench) (*Report, error) {
	data := b.opts.data
	if data == "" {
		data = filepath.Join(b.opts.tempDir, "onda")
		if err := onda.Synthesize(data, onda.SynthConfig{Seed: 1, Recordings: 8, Duration: 3 * time.Minute}); err != nil {
			return nil, err
		}
	}
	params, err := onda.GuessContext(ctx, data)
	if err != nil {
		return nil, err
	}
	if params.Dir, err = filepath.Abs(data); err != nil {
		return nil, err
	}
	params.Seed = 1
	report := &Report{Notes: []string{fmt.Sprintf("data: %s, %s, windows of %v", data, params.Signals, time.Duration(params.BatchDuration))}}
	if b.opts.data == "" {
		report.Notes[0] = fmt.Sprintf("data: 8 made-up recordings of 3 minutes, windows of %v", time.Duration(params.BatchDuration))
	}
	for _, batch := range []int{16, 64} {
		params.BatchSize = batch
		if err := b.ondaBatches(ctx, params, report); err != nil {
			return nil, err
		}
	}
	return report, nil
}

// ondaBatches adds the figures of one size of batches.
func (b *bench) ondaBatches(ctx context.Context, params onda.Params, report *Report) error {
	batches := fmt.Sprintf("%d windows per batch", params.BatchSize)
	windowsPerSecond := func(arg takeArg, a takeAnswer) float64 { return float64(params.BatchSize) * perSecond(arg, a) }
	arg := takeArg{Warm: 2*ondaSlots + 2, Timed: b.quick(3_200, 16_000) / params.BatchSize}
	var sides []*side
	var entries []entry
	add := func(name, role string, concurrency int) error {
		s := b.side(batches + ", " + name)
		p, err := s.start(ctx, role, ondaArg{Params: params, Concurrency: concurrency}, nil)
		sides, entries = append(sides, s), append(entries, taking(s, p, arg, windowsPerSecond))
		return err
	}
	const eager = "loop, windows of a batch read at once"
	if err := errors.Join(add("service", "onda service", 0), add(againstLoop, "onda loop", 1), add(eager, "onda loop", 0)); err != nil {
		return err
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return err
	}
	report.Rows = append(report.Rows,
		row(batches, againstLoop, "windows/s", samples[0], samples[1]), row(batches, eager, "windows/s", samples[0], samples[2]))
	errs := []error{b.addPeaks(ctx, report, sides...)}
	for _, s := range sides {
		errs = append(errs, s.end())
	}
	return errors.Join(errs...)
}

// define is the data set as both read it.
func (a ondaArg) define() dataset.Definition {
	return dataset.Define(onda.Name, func(ctx context.Context, p onda.Params) (*onda.Dataset, error) {
		return onda.New(ctx, p, onda.Config{Concurrency: a.Concurrency, Remote: remote.New(remote.Config{})})
	})
}

// startOndaService is the whole service and its trainer in one process.
func startOndaService(ctx context.Context, log *slog.Logger, arg ondaArg) (*role, any, error) {
	if arg.Store != "" {
		if err := useStore(arg.Store); err != nil {
			return nil, nil, err
		}
	}
	s, err := embedded.Start(ctx, embedded.Config{Slots: cmp.Or(arg.Slots, ondaSlots), Logger: log}, arg.define())
	if err != nil {
		return nil, nil, err
	}
	params, err := json.Marshal(arg.Params)
	if err != nil {
		return nil, nil, err
	}
	t := &trainer{log: log, nc: s.Conn(), batchers: make(map[string]batcher)}
	if _, err := t.open(ctx, openArg{Dataset: onda.Name, Name: "onda", Params: params, Tensors: true}); err != nil {
		return nil, nil, err
	}
	return &role{close: func() {
		t.close()
		closing(log, s.Close())
	}, ops: map[string]op{opTake: handle(func(ctx context.Context, arg takeArg) (takeAnswer, error) {
		arg.Name = "onda"
		return t.take(ctx, arg)
	})}}, nil, nil
}

// startOndaLoop is the loop that anybody would write first.
func startOndaLoop(ctx context.Context, log *slog.Logger, arg ondaArg) (*role, any, error) {
	ds, err := onda.New(ctx, arg.Params, onda.Config{Concurrency: arg.Concurrency})
	if err != nil {
		return nil, nil, err
	}
	reference := dataset.Sequential(ds)
	var state schema.State
	take := func(ctx context.Context) (int, error) {
		step, err := reference.Take(ctx, state)
		if err != nil {
			return 0, err
		}
		state = step.Next
		return batchSize(step.Batch), nil
	}
	return &role{close: func() { closing(log, ds.Close()) }, ops: map[string]op{
		opTake: handle(func(ctx context.Context, arg takeArg) (takeAnswer, error) { return timed(ctx, arg, take) }),
	}}, nil, nil
}
