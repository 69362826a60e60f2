package embedded_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

func definition() dataset.Definition { return testset.Define("toy", nil) }

func start(t *testing.T, cfg embedded.Config) *embedded.Service {
	t.Helper()
	svc, err := embedded.Start(context.WithoutCancel(t.Context()), cfg, definition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() }) // closed by the test, mostly
	return svc
}

type batcher = client.Batcher[schema.Batch]

func open(t *testing.T, svc *embedded.Service, p testset.Params, change ...func(*client.Config)) *batcher {
	t.Helper()
	cfg := client.Config{Name: "train", Dataset: "toy", Params: p, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	b, err := client.Open[schema.Batch](t.Context(), svc.Conn(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oracle is what must be taken from the start.
func oracle(t *testing.T, p testset.Params) *testset.Oracle {
	t.Helper()
	o, err := testset.NewOracle(definition(), p, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// take takes one batch, which must be the right one.
func take(t *testing.T, b *batcher, o *testset.Oracle) schema.Timing {
	t.Helper()
	step, err := b.Take(t.Context(), o.State)
	if err := o.Check(step, err); err != nil {
		t.Fatalf("after %d batches: %v", o.Taken, err)
	}
	step.Release()
	return step.Timing
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
	p := testset.Params{N: 200}
	b, o := open(t, svc, p), oracle(t, p)
	for i := 1; i <= 200; i++ {
		take(t, b, o)
		if i == 50 {
			if err := svc.KillWorker("embedded-1"); err != nil {
				t.Fatal(err)
			}
			if name, err := svc.AddWorker(); err != nil || name != "embedded-3" {
				t.Fatalf("worker %q, %v", name, err)
			}
		}
	}
	step, err := b.Take(t.Context(), o.State)
	if err := o.Check(step, err); err != io.EOF {
		t.Fatalf("after the last: %v, want io.EOF", err)
	}
	if err := svc.KillWorker("embedded-1"); err == nil {
		t.Error("a worker was killed twice")
	}
	natstest.Eventually(t, "nobody answers for the killed worker", func() bool {
		_, err := svc.Conn().RequestWithContext(t.Context(), wire.StatusPrefix+".embedded-1", nil)
		return errors.Is(err, nats.ErrNoResponders)
	})
	if err := errors.Join(b.Close(), svc.Close()); err != nil {
		t.Errorf("a worker that was killed went wrong: %v", err)
	}
}

// errRefused is what a registry says that takes nothing.
var errRefused = errors.New("nothing is registered here")

type refusing struct{}

func (refusing) Register(prometheus.Collector) error { return errRefused }

func (refusing) MustRegister(...prometheus.Collector) {}

func (refusing) Unregister(prometheus.Collector) bool { return false }

// TestCloseSaysWhatWentWrong has a coordinator end before its time.
func TestCloseSaysWhatWentWrong(t *testing.T) {
	t.Parallel()
	log := make(said, 64)
	svc := start(t, embedded.Config{Workers: -1, Registerer: refusing{}, Logger: slog.New(log)})
	for <-log != "role ended" {
	}
	if err := svc.Close(); !errors.Is(err, errRefused) {
		t.Errorf("Close: %v, want %v", err, errRefused)
	}
}

// TestTemporaryFolderIsRemoved looks where the service keeps what it was given no folder for.
func TestTemporaryFolderIsRemoved(t *testing.T) { //nolint:paralleltest // it changes the environment
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	svc := start(t, embedded.Config{})
	if kept, err := os.ReadDir(dir); err != nil || len(kept) != 1 {
		t.Fatalf("while it runs: %v, %v", kept, err)
	}
	if err := svc.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What is in Dir outlives the process: the batcher is still there, and joined, not begun again.
func TestDirIsKept(t *testing.T) {
	t.Parallel()
	cfg := embedded.Config{Dir: t.TempDir()}
	svc := start(t, cfg)
	p := testset.Params{N: 100}
	b, o := open(t, svc, p), oracle(t, p)
	take(t, b, o)
	if err := errors.Join(b.Close(), svc.Close()); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	b = open(t, again, p)
	defer b.Close()
	s, err := b.Status(t.Context())
	if err != nil || s.Phase != schema.PhaseRunning {
		t.Fatalf("status %+v, %v, want a batcher that runs", s, err)
	}
	take(t, b, o)
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

// A data set whose values would be lost on their way is refused by every role, with the name of the field.
func TestTypesThatDoNotTravel(t *testing.T) {
	t.Parallel()
	type hides struct{ name string }
	def := dataset.Define("hides", func(context.Context, struct{}) (dataset.Funcs[int, hides, int], error) {
		return dataset.Funcs[int, hides, int]{
			NextFunc:        func(i int) (hides, int, error) { return hides{"x"}, i + 1, nil },
			MaterializeFunc: func(_ context.Context, job hides) (int, error) { return len(job.name), nil },
		}, nil
	})
	svc := start(t, embedded.Config{Workers: -1})
	_, asCoordinator := coordinator.New(svc.Conn(), coordinator.Config{}, def)
	_, asWorker := worker.New(svc.Conn(), worker.Config{}, def)
	_, both := embedded.Start(t.Context(), embedded.Config{}, def)
	for role, err := range map[string]error{"coordinator": asCoordinator, "worker": asWorker, "embedded": both} {
		if !errors.Is(err, dataset.ErrType) || !strings.Contains(err.Error(), "data set hides: ") ||
			!strings.Contains(err.Error(), "job.name (string)") {
			t.Errorf("%s: got %v", role, err)
		}
	}
}

func TestCloseEndsWaits(t *testing.T) {
	t.Parallel()
	svc := start(t, embedded.Config{Workers: -1})
	b := open(t, svc, testset.Params{N: 3})
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

// The end of the context that the service was started with ends all of it, and Close waits for that.
func TestContextEndsTheService(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	svc, err := embedded.Start(ctx, embedded.Config{Workers: -1, Listen: "127.0.0.1:0"}, definition())
	if err != nil {
		t.Fatal(err)
	}
	b := open(t, svc, testset.Params{N: 3})
	taken := make(chan error, 1)
	go func() {
		_, err := b.Take(t.Context(), schema.State{})
		taken <- err
	}()
	cancel()
	if err := <-taken; !errors.Is(err, client.ErrDisconnected) {
		t.Errorf("Take: %v", err)
	}
	if err := svc.Close(); err != nil {
		t.Error(err)
	}
	if nc, err := client.Connect(svc.URL()); err == nil {
		nc.Close()
		t.Error("the server still listens")
	}
	if _, err := svc.AddWorker(); !errors.Is(err, context.Canceled) {
		t.Errorf("AddWorker: %v", err)
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

// Close does not wait for running jobs, which are told that their time is up, unless the configuration says how long.
func TestCloseAndRunningJobs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		drain time.Duration
		let   bool // the job is let through once Close was called
	}{
		"by default": {},
		"drained":    {drain: time.Minute, let: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			running, let := make(chan struct{}), make(chan struct{})
			ended := make(chan error, 1) // why the first job ended
			def := testset.Define("toy", &testset.Hooks{Materialize: func(ctx context.Context, _ testset.Params, j testset.Job) error {
				if j.At > 1 {
					return nil
				}
				close(running)
				var err error
				select {
				case <-let:
				case <-ctx.Done():
					err = context.Cause(ctx)
				}
				ended <- err
				return err
			}})
			log := make(said, 64)
			cfg := embedded.Config{DrainTimeout: tc.drain, Slots: 1, Logger: slog.New(log)}
			svc, err := embedded.Start(t.Context(), cfg, def)
			if err != nil {
				t.Fatal(err)
			}
			b := open(t, svc, testset.Params{})
			if err := b.Start(t.Context(), schema.State{}); err != nil {
				t.Fatal(errors.Join(err, svc.Close()))
			}
			<-running
			closed := make(chan error, 1)
			began := time.Now()
			go func() { closed <- svc.Close() }()
			if tc.let {
				for <-log != "worker drains" { // Close is under way, and the job still runs
				}
				close(let)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("Close took %v", took)
			}
			if err := <-ended; (err == nil) != tc.let {
				t.Errorf("the job ended with %v, let through: %v", err, tc.let)
			}
			_ = b.Close() // its connection is closed
		})
	}
}

// said is a handler that sends the messages of a log, as far as there is room.
type said chan string

func (said) Enabled(context.Context, slog.Level) bool { return true }

func (s said) Handle(_ context.Context, r slog.Record) error {
	select {
	case s <- r.Message:
	default:
	}
	return nil
}

func (s said) WithAttrs([]slog.Attr) slog.Handler { return s }

func (s said) WithGroup(string) slog.Handler { return s }

func TestNegativeDrainTimeout(t *testing.T) {
	t.Parallel()
	if svc, err := embedded.Start(t.Context(), embedded.Config{DrainTimeout: -1}, definition()); err == nil {
		t.Errorf("started: %v", svc.Close())
	}
}
