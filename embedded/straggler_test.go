package embedded_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// paced is the data set where batches take so long; before the first of them it calls first.
func paced(took time.Duration, first func()) dataset.Definition {
	var once sync.Once
	return testset.Define("toy", &testset.Hooks{Materialize: func(ctx context.Context, _ testset.Params, _ testset.Job) error {
		once.Do(first)
		select {
		case <-time.After(took):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
}

// paceRun takes n batches from a service of one quick worker with two slots and another worker, and returns how the
// batcher stands and how long each Take waited. The quick one waits until the other has a job: a loaded machine may
// take longer to start a worker than the quick one does for all batches.
func paceRun(t *testing.T, n int, quick, other time.Duration) (schema.Status, []time.Duration) {
	t.Helper()
	begun := make(chan struct{})
	svc, err := embedded.Start(t.Context(), embedded.Config{Workers: 1, Slots: 2}, paced(quick, func() { <-begun }))
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(svc.Conn(), worker.Config{Slots: 1, Logger: slog.New(slog.DiscardHandler)},
		paced(other, func() { close(begun) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	p := testset.Params{N: uint64(n)}
	b, o := open(t, svc, p, func(cfg *client.Config) { cfg.Window = 8 }), oracle(t, p)
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		running.Wait()
		if err := svc.Close(); err != nil {
			t.Error(err)
		}
	}()
	var waits []time.Duration
	for range n {
		waits = append(waits, take(t, b, o).Wait)
	}
	s, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(waits)
	t.Logf("%d batches: %d given to a second worker, %d issued again; waits of Take: median %v, longest %v", n, s.Backups, s.Reissued,
		waits[n/2], waits[n-1])
	return s, waits
}

// TestSlowWorkerHoldsNobodyUp has a worker that is 200 times slower than the other.
func TestSlowWorkerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	const slow = 2 * time.Second
	s, waits := paceRun(t, 200, 10*time.Millisecond, slow)
	if s.Backups == 0 {
		t.Error("no late batch was given to the other worker")
	}
	held := 0 // without backups it would be one Take in eight
	for _, w := range waits {
		if w > slow/2 {
			held++
		}
	}
	if held > 5 {
		t.Errorf("Take waited %d times for the slow worker", held)
	}
	if s.Reissued > 0 {
		t.Errorf("%d jobs were missing, though nothing was lost", s.Reissued)
	}
}

func TestHealthyRunComputesNothingTwice(t *testing.T) {
	t.Parallel()
	const n = 1000
	s, _ := paceRun(t, n, 2*time.Millisecond, 2*time.Millisecond)
	if s.Backups > n/50 || s.Reissued > 0 {
		t.Errorf("%d batches were computed twice, and %d issued again", s.Backups, s.Reissued)
	}
}
