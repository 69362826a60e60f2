package embedded_test

import (
	"context"
	"log/slog"
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

// making is the data set where a batch is made by this function.
func making(materialize func(context.Context) error) dataset.Definition {
	return testset.Define("toy", &testset.Hooks{Materialize: func(ctx context.Context, _ testset.Params, _ testset.Job) error {
		return materialize(ctx)
	}})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeAll takes n batches from a service of two workers with their data sets, the second of which begins when begin is
// closed, and returns how the batcher stands.
func takeAll(t *testing.T, n int, first, second dataset.Definition, begin <-chan struct{}) schema.Status {
	t.Helper()
	svc, err := embedded.Start(t.Context(), embedded.Config{Workers: 1, Slots: 1}, first)
	if err != nil {
		t.Fatal(err)
	}
	w, err := worker.New(svc.Conn(), worker.Config{Slots: 2, Logger: slog.New(slog.DiscardHandler)}, second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		select {
		case <-begin:
			_ = w.Run(ctx)
		case <-ctx.Done():
		}
	})
	p := testset.Params{N: uint64(n)}
	b, o := open(t, svc, p, func(cfg *client.Config) { cfg.Window = 16 }), oracle(t, p)
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
	for range n {
		take(t, b, o)
	}
	s, err := b.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSlowWorkerHoldsNobodyUp has a worker that does not end its first job: only a second worker's result lets the
// trainer go on. The other worker begins when that job runs, so that it is the slow one's on any machine.
func TestSlowWorkerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	var once sync.Once
	slow := making(func(ctx context.Context) error {
		once.Do(func() { close(stuck) })
		<-ctx.Done()
		return ctx.Err()
	})
	quick := making(func(ctx context.Context) error { return pause(ctx, time.Millisecond) })
	s := takeAll(t, 50, slow, quick, stuck)
	if s.Backups == 0 {
		t.Error("the late batch was not given to the other worker")
	}
	if s.Reissued > 0 {
		t.Errorf("%d jobs were missing, though nothing was lost", s.Reissued)
	}
}

func TestHealthyRunComputesNothingTwice(t *testing.T) {
	t.Parallel()
	const n = 1000
	ready := make(chan struct{})
	close(ready)
	healthy := making(func(ctx context.Context) error { return pause(ctx, 2*time.Millisecond) })
	s := takeAll(t, n, healthy, healthy, ready)
	if s.Backups > n/50 || s.Reissued > 0 {
		t.Errorf("%d batches were computed twice, and %d issued again", s.Backups, s.Reissued)
	}
}
