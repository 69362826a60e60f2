package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

// squares yields 1, 4, 9 … up to N².
type squares struct {
	N int `json:"n"`
}

func (s squares) Start() (int, error) { return 1, nil }

func (s squares) Next(i int) (job, next int, err error) {
	if i > s.N {
		return 0, 0, io.EOF
	}
	return i, i + 1, nil
}

func (s squares) Materialize(_ context.Context, i int) (int, error) { return i * i, nil }

func definition() dataset.Definition {
	return dataset.Define("squares", func(_ context.Context, s squares) (squares, error) { return s, nil })
}

func start(t *testing.T, cfg embedded.Config) *embedded.Service {
	t.Helper()
	svc, err := embedded.Start(t.Context(), cfg, definition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() }) // closed by the test, mostly
	return svc
}

func open(t *testing.T, svc *embedded.Service, n int) *client.Batcher[int] {
	t.Helper()
	b, err := client.Open[int](t.Context(), svc.Conn(), client.Config{
		Name: "train", Dataset: "squares", Params: squares{n}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func Example() {
	ctx := context.Background()
	svc, err := embedded.Start(ctx, embedded.Config{Workers: 2}, definition())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer svc.Close()
	b, err := client.Open[int](ctx, svc.Conn(), client.Config{
		Name: "train", Dataset: "squares", Params: squares{N: 5}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	for step, err := range b.All(ctx, schema.State{}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(step.Batch)
	}
	// Output:
	// 1
	// 4
	// 9
	// 16
	// 25
}

func TestNoPortUnlessAsked(t *testing.T) {
	t.Parallel()
	quiet := start(t, embedded.Config{})
	if url := quiet.URL(); url != "" {
		t.Errorf("a service without Listen says that it listens at %s", url)
	}
	loud := start(t, embedded.Config{Listen: "127.0.0.1:0"})
	nc, err := client.Connect(loud.URL())
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestKilledWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	svc := start(t, embedded.Config{Workers: 2, Slots: 1})
	b := open(t, svc, 200)
	var state schema.State
	for i := 1; i <= 200; i++ {
		step, err := b.Take(t.Context(), state)
		if err != nil || step.Batch != i*i {
			t.Fatalf("batch %d: %d, %v", i, step.Batch, err)
		}
		state = step.Next
		if i == 50 {
			if err := svc.KillWorker("embedded-1"); err != nil {
				t.Fatal(err)
			}
			if name, err := svc.AddWorker(); err != nil || name != "embedded-3" {
				t.Fatalf("worker %q, %v", name, err)
			}
		}
	}
	if _, err := b.Take(t.Context(), state); err != io.EOF {
		t.Fatalf("after the last: %v, want io.EOF", err)
	}
	if err := svc.KillWorker("embedded-1"); err == nil {
		t.Error("a worker was killed twice")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// What is in Dir outlives the process: the batcher is still there, and joined, not begun again.
func TestDirIsKept(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir()}
	svc := start(t, cfg)
	b := open(t, svc, 100)
	step, err := b.Take(t.Context(), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), svc.Close()); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	b = open(t, again, 100)
	defer b.Close()
	s, err := b.Status(t.Context())
	if err != nil || s.Phase != schema.PhaseRunning {
		t.Fatalf("status %+v, %v, want a batcher that runs", s, err)
	}
	step, err = b.Take(t.Context(), step.Next)
	if err != nil || step.Batch != 4 {
		t.Fatalf("batch %d, %v, want 4", step.Batch, err)
	}
}

func TestStartFailsPlainly(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]embedded.Config{
		"address": {Listen: "nowhere"},
		"port":    {Listen: "127.0.0.1:http"},
		"dir":     {Dir: "/dev/null/jetbatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if svc, err := embedded.Start(t.Context(), cfg, definition()); err == nil {
				t.Errorf("started: %v", svc.Close())
			} else if !strings.HasPrefix(err.Error(), "embedded: ") {
				t.Error(err)
			}
		})
	}
	if svc, err := embedded.Start(t.Context(), embedded.Config{}, definition(), definition()); err == nil {
		t.Errorf("a data set defined twice is taken: %v", svc.Close())
	}
}

func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	svc := start(t, embedded.Config{Workers: -1})
	b := open(t, svc, 3)
	taken := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		_, err := b.Take(ctx, schema.State{})
		taken <- err
	}()
	if err := svc.Close(); err != nil {
		t.Error(err)
	}
	if err := svc.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := <-taken; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Take on a closed service: %v, want an error that says so before its deadline", err)
	}
	_ = b.Close() // its connection is closed
}

// The server alone is what other processes' coordinators and workers run on: nobody here answers a trainer.
func TestServerOnly(t *testing.T) {
	t.Parallel()
	svc := start(t, embedded.Config{Listen: "127.0.0.1:0", ServerOnly: true})
	nc, err := client.Connect(svc.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = nc.RequestWithContext(t.Context(), wire.CoordinatorPrefix+".overview", []byte("{}"))
	if !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v, want no responders", err)
	}
	if err := svc.Close(); err != nil {
		t.Error(err)
	}
}
