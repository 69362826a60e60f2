package fleet

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Of two coordinators that both list a batcher or hear a worker, one line remains.
func TestMerge(t *testing.T) {
	t.Parallel()
	s := Merge([]wire.Overview{
		{Coordinator: "b", Batchers: []schema.Status{{Batcher: "t", Seat: 1}, {Batcher: "v", Seat: 1}}, Workers: []schema.WorkerStatus{{Worker: "w", Done: 1}}},
		{Coordinator: "a", Batchers: []schema.Status{{Batcher: "t", Seat: 2}}, Workers: []schema.WorkerStatus{{Worker: "w", Done: 2}}},
	})
	if len(s.Coordinators) != 2 || s.Coordinators[0].Coordinator != "a" || len(s.Batchers) != 2 || s.Batchers[0].Seat != 2 || len(s.Workers) != 1 || s.Workers[0].Done != 2 {
		t.Errorf("merged to %+v", s)
	}
	const none = `{"coordinators":[],"batchers":[],"workers":[]}`
	if data, err := json.Marshal(Merge(nil)); err != nil || string(data) != none {
		t.Errorf("%s, %v; want %s", data, err, none)
	}
}

func TestWaitingFor(t *testing.T) {
	t.Parallel()
	for want, b := range map[string]schema.Status{
		"":                            {Phase: schema.PhaseRunning, Reader: "r"},
		"batch 7 is not committed":    {Phase: schema.PhaseRunning, Reader: "r", Waiting: "batch 7 is not committed"},
		"its trainer to start it":     {Phase: schema.PhaseStopped, Reader: "r"},
		"a trainer, for 3s":           {Phase: schema.PhaseRunning, IdleFor: 3100 * time.Millisecond, Waiting: "batch 7"},
		"a trainer, silent for 9s":    {Phase: schema.PhaseRunning, Reader: "r", IdleFor: 9 * time.Second, Waiting: "batch 7"},
		"failed: store_full":          {Phase: schema.PhaseFailed, Error: &schema.Fault{Code: schema.CodeStoreFull}},
		"failed: batch 5: poison: ow": {Phase: schema.PhaseFailed, IdleFor: 1, Error: &schema.Fault{Code: schema.CodePoison, Seq: 5, Message: "ow"}},
		"failed: batch 5 on w1: poison: ow": {
			Phase: schema.PhaseFailed, Error: &schema.Fault{Code: schema.CodePoison, Seq: 5, Worker: "w1", Message: "ow"},
		},
	} {
		if got := WaitingFor(b); got != want {
			t.Errorf("%+v: %q, want %q", b, got, want)
		}
	}
	// A batcher of a coordinator that is gone, and that no other can feed, waits for that first.
	s := Status{Coordinators: []Coordinator{{Coordinator: "c1"}}}
	b := schema.Status{Phase: schema.PhaseRunning, Owner: "gone", IdleFor: 9 * time.Second, Waiting: "no coordinator has data set x"}
	if got := s.WaitingFor(b); got != b.Waiting {
		t.Errorf("a batcher that nobody feeds waits for %q", got)
	}
	if b.Owner = "c1"; s.WaitingFor(b) != "a trainer, for 9s" {
		t.Errorf("a batcher that is fed waits for %q", s.WaitingFor(b))
	}
	if got := WaitingFor(schema.Status{Phase: schema.PhaseDone, IdleFor: time.Hour}); got != "" {
		t.Errorf("a run that is done waits for %q", got)
	}
}

// A batcher whose first request was refused has no row: it would be one of zeros.
func TestBegun(t *testing.T) {
	t.Parallel()
	got := Begun([]schema.Status{
		{Batcher: "refused", Phase: schema.PhaseStopped, Seat: 2}, {Batcher: "asked", Phase: schema.PhaseStopped, Reader: "r"},
		{Batcher: "opened", Phase: schema.PhaseStopped, Reader: "r", Seat: 1},
		{Batcher: "opening", Phase: schema.PhaseStopped, Waiting: "data set onda is being opened since 3s"},
		{Batcher: "closed", Phase: schema.PhaseClosed}, {Batcher: "runs", Phase: schema.PhaseRunning},
	})
	var names []string
	for _, b := range got {
		names = append(names, b.Batcher)
	}
	if !slices.Equal(names, []string{"opened", "opening", "closed", "runs"}) {
		t.Error(names)
	}
}

func TestWaitShare(t *testing.T) {
	t.Parallel()
	if _, known := WaitShare(schema.Timing{}); known {
		t.Error("known before the first batch")
	}
	if share, _ := WaitShare(schema.Timing{Wait: time.Second, Trainer: 3 * time.Second}); share != 0.25 {
		t.Error(share)
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]*schema.Progress{
		"":                               nil,
		"7 since the start":              {Epoch: 1, Batch: 7},
		"epoch 3, 41 %":                  {Epoch: 3, Batch: 41, Batches: 99},
		"epoch 3, 41 %, 40s to its end":  {Epoch: 3, Batch: 41, Batches: 99, EpochLeft: 40500 * time.Millisecond},
		"epoch 3 of 9, 0 %, 12m left":    {Epoch: 3, Epochs: 9, Batches: 9, EpochLeft: time.Second, Left: 12*time.Minute + 10*time.Second},
		"epoch 1 of 1, 100 %":            {Epoch: 1, Epochs: 1, Batch: 9, Batches: 9},
		"epoch 1 of 1, 50 %, 3h10m left": {Epoch: 1, Epochs: 1, Batch: 1, Batches: 2, Left: 190 * time.Minute},
		"epoch 1 of 1, 50 %, 5d2h left":  {Epoch: 1, Epochs: 1, Batch: 1, Batches: 2, Left: 122 * time.Hour},
		"epoch 1, 50 %, 1h0m to its end": {Epoch: 1, Batch: 1, Batches: 2, EpochLeft: 3599600 * time.Millisecond},
	} {
		if got := Place(p); got != want {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
}
