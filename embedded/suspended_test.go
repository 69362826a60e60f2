package embedded_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// A trainer whose only worker cannot open the data set waits, and its error says which machine lacks what. It goes on
// by itself when that machine is mended.
func TestWaitSaysWhatWorkersLack(t *testing.T) {
	t.Parallel()
	svc := start(t, embedded.Config{Workers: -1, Logger: slog.New(slog.DiscardHandler)})
	var mounted atomic.Bool
	w, err := worker.New(svc.Conn(), worker.Config{Name: "worker-b", Logger: slog.New(slog.DiscardHandler)},
		testset.Define("toy", &testset.Hooks{Open: func(context.Context, testset.Params) error {
			if !mounted.Load() {
				return &fs.PathError{Op: "open", Path: "/no-mount/data", Err: syscall.ENOENT}
			}
			return nil
		}}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	b := open(t, svc, testset.Params{N: 3})
	defer func() { _ = b.Close() }()
	const want = "no worker can make batches of data set toy: worker-b: cannot open toy: no such folder /no-mount (1 of 1 worker)"
	natstest.Eventually(t, "the wait says what the worker lacks", func() bool {
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.Take(short, schema.State{})
		var wait *client.WaitError
		if !errors.As(err, &wait) {
			t.Fatalf("taken without a worker: %v", err)
		}
		return strings.Contains(err.Error(), "; "+want+": ")
	})
	natstest.Eventually(t, "so does the status", func() bool {
		s, err := b.Status(t.Context())
		return err == nil && s.Waiting == want
	})
	mounted.Store(true)
	long, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if _, err := b.Take(long, schema.State{}); err != nil {
		t.Fatal(err)
	}
}

// The only worker's recordings are away while a run goes on, as a mount below the folder of the tables: no verdict.
func TestRecordingsAreAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 2}); err != nil {
		t.Fatal(err)
	}
	svc, err := embedded.Start(t.Context(), embedded.Config{Workers: 1, Logger: slog.New(slog.DiscardHandler)}, onda.Definition())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = svc.Close() }()
	b, err := client.Open[schema.Batch](t.Context(), svc.Conn(), client.Config{
		Name: "train", Dataset: onda.Name, Window: 1, Params: onda.Params{Dir: dir}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	step, err := b.Take(t.Context(), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	samples := filepath.Join(dir, "samples")
	if err := os.Rename(samples, samples+".away"); err != nil {
		t.Fatal(err)
	}
	state := step.Next
	natstest.Eventually(t, "the wait says what is missing", func() bool {
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		step, err := b.Take(short, state)
		if err == nil {
			state = step.Next // it was made before
			return false
		}
		if !errors.Is(err, client.ErrUnavailable) {
			t.Fatal(err)
		}
		return strings.Contains(err.Error(), "cannot open onda: no such folder "+samples)
	})
	if err := os.Rename(samples+".away", samples); err != nil {
		t.Fatal(err)
	}
	long, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if _, err := b.Take(long, state); err != nil {
		t.Fatal(err)
	}
}
