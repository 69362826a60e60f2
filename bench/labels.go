package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/jetbatch/jetbatch/onda"
)

const labelsWhat = "peak memory of a process that opens recordings of 10 h with a label for every second"

const (
	againstTarget = "500 MB"
	againstArrow  = "both tables in Arrow's memory"

	labelStretches = 20 // of each recording
)

// labels looks at processes that do nothing else: what a worker opens, and a coordinator, which draws as well.
func labels(ctx context.Context, b *bench) (*Report, error) {
	dir := filepath.Join(b.opts.tempDir, "labels")
	m := madeUp{
		recordings: b.quick(100_000, 100_000), length: 10 * time.Hour, channels: 2, rate: 100, stretches: labelStretches,
	}
	if _, err := m.tables(dir); err != nil {
		return nil, err
	}
	names := []string{"worker", "coordinator, class weights", "floor"}
	sides := make([]*side, len(names))
	entries := make([]entry, len(names))
	for i, name := range names {
		sides[i] = b.side(name)
		entries[i] = entry{sides[i], func(ctx context.Context) (outcome, error) {
			return opened(ctx, sides[i], labelsArg{Dir: dir, Arrow: i == 2, Draw: i == 1})
		}}
	}
	samples, err := b.measure(ctx, entries...)
	if err != nil {
		return nil, err
	}
	target := make([]sample, len(samples[0]))
	for i := range target {
		target[i].Value = 500 * float64(m.recordings) / 100_000
	}
	r := &Report{Notes: []string{fmt.Sprintf("%d recordings, each with %d annotations; a byte for each label would be "+
		"%d MB", m.recordings, labelStretches, int64(m.recordings)*int64(m.length/time.Second)/1e6)}}
	for i, name := range names[:2] {
		r.Rows = append(r.Rows, row(name, againstTarget, "MB", samples[i], target),
			row(name, againstArrow, "MB", samples[i], samples[2]))
	}
	for i := range r.Rows {
		r.Rows[i].dropCosts()
	}
	return r, nil
}

// opened is the peak of a process that begins and ends in the round.
func opened(ctx context.Context, s *side, arg labelsArg) (outcome, error) {
	if _, err := s.start(ctx, "onda labels", arg, nil); err != nil {
		return outcome{}, err
	}
	usage, err := s.usage(ctx)
	if err != nil {
		return outcome{}, err
	}
	return outcome{Value: float64(usage["onda labels"].Peak) / 1e6, Batches: 1}, s.end()
}

type labelsArg struct {
	Dir   string `json:"dir"`
	Arrow bool   `json:"arrow"` // the tables alone
	Draw  bool   `json:"draw"`  // a job, by weights
}

// startLabels opens the data set, or reads its tables, and keeps them.
func startLabels(ctx context.Context, log *slog.Logger, arg labelsArg) (*role, any, error) {
	if arg.Arrow {
		kept, err := readTables(arg.Dir)
		return &role{close: func() { runtime.KeepAlive(kept) }}, nil, err
	}
	// There are no files of samples.
	p := onda.Params{Dir: arg.Dir, Files: "trust"}
	if arg.Draw {
		p.ClassWeights = map[string]float64{"stage 1": 3}
	}
	ds, err := onda.New(ctx, p, onda.Config{OpenBytes: 1 << 30, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	if arg.Draw {
		state, err := ds.Start()
		if err == nil {
			_, _, err = ds.Next(state)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return &role{close: func() { runtime.KeepAlive(ds) }}, nil, nil
}

// readTables has every record of both tables at once, as who labels has to.
func readTables(dir string) ([]any, error) {
	var kept []any
	for _, name := range []string{signalTable, labelTable} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		r, err := ipc.NewFileReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		kept = append(kept, data, r)
		for i := range r.NumRecords() {
			rec, err := r.RecordBatch(i)
			if err != nil {
				return nil, err
			}
			rec.Retain()
			kept = append(kept, rec)
		}
	}
	return kept, nil
}
