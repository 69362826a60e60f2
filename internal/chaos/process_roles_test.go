package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// runRoleIfAsked makes this process a role, if a test started it as one, and then does not return.
func runRoleIfAsked() {
	proctest.Main(map[string]proctest.Role{
		"server":      proctest.ServerRole,
		"coordinator": proctest.CoordinatorRole(machine(os.Getenv(hostEnv)).definition(nil)),
		"worker":      proctest.WorkerRole(machine(os.Getenv(hostEnv)).definition(speak())),
		"trainer":     trainerRole,
	})
}

// speak returns what says on standard output which position a worker materializes.
func speak() func(testset.Job) error {
	var mu sync.Mutex
	return func(j testset.Job) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := fmt.Fprintln(os.Stdout, j.At)
		return err
	}
}

const trainerEnv = "JETBATCH_CHAOS_TRAINER"

// Times of a trainer.
const (
	openTimeout = 2 * time.Minute
	takeTimeout = 2 * time.Minute // a Take that lasts longer hangs: no fault does
)

// trainerConfig is what a trainer process is told.
type trainerConfig struct {
	Batcher string
	Params  testset.Params
	State   schema.State // of the checkpoint that it resumes from
	Window  int
	Pace    time.Duration // of the trainer itself, per batch
	Retain  int
	World   *client.World // nil for a trainer alone
}

// trainerLine is what it says: one per batch, and a last one of how it ended.
type trainerLine struct {
	Prev, Next schema.State
	Label      uint64
	Wait       time.Duration
	Deliveries uint64
	Rows       schema.Rows
	Sum        wire.Digest // of the rows of x

	Done      bool   // the data ended where it must
	Violation string // class of what was wrong; Error says more
	Error     string
	Replaced  bool // superseded by a later trainer
	Lost      bool // with a rank that was lost
	Diverged  bool
	Stopped   bool
	Hung      bool // Take did not return in time
}

// trainerRole takes from its state to the end of the data and checks every batch.
func trainerRole(ctx context.Context, log *slog.Logger) error {
	var cfg trainerConfig
	if err := json.Unmarshal([]byte(os.Getenv(trainerEnv)), &cfg); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	err := train(ctx, log, cfg, out)
	last := trainerLine{Done: err == io.EOF} //nolint:errorlint // exactly io.EOF is the end
	if !last.Done && err != nil {
		last.Error = err.Error()
		var v *testset.Violation
		if errors.As(err, &v) {
			last.Violation = v.Class
		}
		last.Replaced = errors.Is(err, client.ErrSuperseded)
		last.Lost, last.Diverged = errors.Is(err, client.ErrRankLost), errors.Is(err, client.ErrDiverged)
		last.Stopped = errors.Is(err, client.ErrStopped)
		last.Hung = errors.Is(err, client.ErrUnavailable)
	}
	return out.Encode(last)
}

func train(ctx context.Context, log *slog.Logger, cfg trainerConfig, out *json.Encoder) error {
	nc, err := client.Connect(os.Getenv(proctest.URLEnv), nats.RetryOnFailedConnect(true), nats.IgnoreDiscoveredServers())
	if err != nil {
		return err
	}
	defer nc.Close()
	b, err := openPatiently(ctx, nc, client.Config{
		Name: cfg.Batcher, Dataset: sequenceName, Params: cfg.Params, Window: cfg.Window, Retain: cfg.Retain,
		TakeOver: true, // of the trainer that died before
		OnError:  client.InOrder, Logger: log, World: cfg.World,
	})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // says when no coordinator heard it, which is no matter here
	o := newOracle(cfg.Params, cfg.State)
	if cfg.World != nil {
		o.Cut = cut(cfg.World.Rank, cfg.World.Size)
	}
	for {
		line := trainerLine{Prev: o.State}
		began := time.Now()
		take, cancel := context.WithTimeout(ctx, takeTimeout)
		step, err := b.Take(take, o.State)
		cancel()
		line.Wait = time.Since(began)
		if err := o.Check(step, err); err != nil {
			if err == io.EOF && cfg.World == nil { //nolint:errorlint // exactly io.EOF is the end
				stop, cancel := context.WithTimeout(ctx, takeTimeout)
				defer cancel()
				if err := b.Stop(stop); err != nil {
					return fmt.Errorf("stop: %w", err)
				}
			}
			return err
		}
		line.Next, line.Label, line.Deliveries = o.State, testset.Label(step.Batch), step.Deliveries
		x, _ := step.Batch.Get("x")
		line.Rows, line.Sum = step.Rows, wire.Sum(x.Data)
		step.Release()
		if err := out.Encode(line); err != nil {
			return err
		}
		if cfg.Pace > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(cfg.Pace):
			}
		}
	}
}

// openPatiently opens a batcher while the network may be away: what cannot connect is tried again.
func openPatiently(ctx context.Context, nc *nats.Conn, cfg client.Config) (*client.Batcher[schema.Batch], error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		b, err := client.Open[schema.Batch](ctx, nc, cfg)
		if err == nil || ctx.Err() != nil || errors.Is(err, client.ErrSuperseded) {
			return b, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}
