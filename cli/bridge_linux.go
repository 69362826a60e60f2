package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/bridge/process"
	"github.com/jetbatch/jetbatch/bridge/trainer"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
)

// Run serves the trainer at the other end of standard input until it ends.
func (c *bridgeCmd) Run(ctx context.Context, a *app) error {
	if c.Memory < 0 || c.Slots < 0 {
		return fmt.Errorf("%w: --memory and --slots are not negative", errUsage)
	}
	conn, err := bridge.NewConn(os.Stdin)
	if err != nil {
		return fmt.Errorf("%w: standard input is no socket: a package of another language starts this command, see docs/BRIDGE.md: %w", errUsage, err)
	}
	cfg := trainer.Config{
		Connect: func(ctx context.Context, log *slog.Logger) (*nats.Conn, error) {
			dialer := &bridge.Dialer{Dialer: net.Dialer{Timeout: nats.DefaultTimeout}}
			nc, err := c.connect(ctx, log, "jetbatch-bridge", 10*time.Second, nats.SetCustomDialer(dialer))
			if why := dialer.Failed(); err != nil && why != nil { // NATS keeps it to itself
				err = fmt.Errorf("%w: %w", err, why)
			}
			return nc, ofTrainer(err)
		},
		Domain: c.Domain, Memory: c.Memory, Level: leastLevel(ctx, a.log),
	}
	if !c.Beside && os.Getenv("GOMAXPROCS") == "" {
		// Small batches pass from goroutine to goroutine in no time, and waking another thread for each is most of the work.
		runtime.GOMAXPROCS(1)
		cfg.Large = runtime.SetDefaultGOMAXPROCS
	}
	var service *embedded.Service
	ended := func() {}
	if c.Beside {
		cfg.Connect = func(ctx context.Context, log *slog.Logger) (*nats.Conn, error) {
			heard := *a // standard error is for last words, and no place that grows
			heard.log = log
			defs, closing, err := c.definitions(ctx, &heard, c.Slots)
			if err != nil {
				return nil, ofTrainer(err)
			}
			ended = closing
			beside := embedded.Config{Slots: c.Slots, Logger: log}
			service, err = embedded.Start(context.WithoutCancel(ctx), beside, defs...)
			if err != nil {
				return nil, err
			}
			return service.Conn(), nil
		}
	}
	err = trainer.Serve(ctx, conn, cfg)
	if service != nil {
		err = errors.Join(err, service.Close())
	}
	ended()
	return err
}

// ofTrainer has the trainer told that what it started the bridge with is wrong, where a command line would be.
func ofTrainer(err error) error {
	if exitCode(err) == exitUsage || errors.Is(err, process.ErrBadConfig) {
		return fmt.Errorf("%w: %w", client.ErrBadConfig, err)
	}
	return err
}

// start starts the first process of each data set.
func (f *processFlags) start(ctx context.Context, a *app, commands []command, slots int) (defs []dataset.Definition, closing func(), err error) {
	defs = slices.Clone(a.defs)
	var sets []*process.Set
	closing = func() {
		var ending sync.WaitGroup
		for _, s := range sets {
			ending.Go(s.Close)
		}
		ending.Wait()
	}
	for _, c := range commands {
		s, err := process.Open(ctx, process.Config{Name: c.name, Command: c.argv, Slots: slots, Memory: f.ProcessMemory, Logger: a.log})
		if err != nil {
			closing()
			return nil, nil, err
		}
		sets = append(sets, s)
		defs = append(defs, s.Definition())
	}
	return defs, closing, nil
}

// leastLevel is the least level that is logged.
func leastLevel(ctx context.Context, log *slog.Logger) slog.Level {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if log.Enabled(ctx, level) {
			return level
		}
	}
	return slog.LevelError
}
