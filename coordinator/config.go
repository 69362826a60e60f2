package coordinator

import (
	"cmp"
	"fmt"
	"log/slog"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Defaults of Config and of a batcher's settings.
const (
	DefaultLease       = 3 * time.Second
	DefaultReaderLease = 5 * time.Second
	DefaultStall       = 10 * time.Second
	DefaultWindowBytes = owner.DefaultWindowBytes
	DefaultIdleTimeout = owner.DefaultIdleTimeout
)

// Config of a Coordinator.
type Config struct {
	// Name tells coordinators apart; it must be new for every process. Defaults to a ULID.
	Name string
	// Lease is how long another coordinator's lease must have stood still before its batchers are taken
	// over. The same for all coordinators. Defaults to 3 s.
	Lease time.Duration
	// ReaderLease is how long a reader may be silent before another may open its batcher. Defaults to 5 s.
	ReaderLease time.Duration
	// Stall is how long Next may take before the run fails with iterator_stalled. Defaults to 10 s.
	Stall time.Duration
	// Replicas of the bucket and the job stream, when they are created. Defaults to 1.
	Replicas int
	// Logger is told what changes. Defaults to slog.Default().
	Logger *slog.Logger
	// Registerer is given the coordinator's metrics while Run runs: docs/METRICS.md has their names. Defaults to none.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() (Config, error) {
	c.Name = cmp.Or(c.Name, ulid.Make().String())
	c.Lease = cmp.Or(c.Lease, DefaultLease)
	c.ReaderLease = cmp.Or(c.ReaderLease, DefaultReaderLease)
	c.Stall = cmp.Or(c.Stall, DefaultStall)
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if err := wire.CheckName("coordinator", c.Name); err != nil {
		return c, err
	}
	if c.Name == wire.EveryCoordinator {
		return c, fmt.Errorf("coordinator config: the name %q means every coordinator: take another", c.Name)
	}
	if c.Lease < 0 || c.ReaderLease < 0 || c.Stall < 0 || c.Replicas < 0 {
		return c, fmt.Errorf("coordinator config: a duration or number is negative: lease %v, reader lease %v, stall %v, replicas %d",
			c.Lease, c.ReaderLease, c.Stall, c.Replicas)
	}
	return c, nil
}
