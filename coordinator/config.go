package coordinator

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
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
	// Domain is the domain of the JetStream that stores all, the same for all roles of a deployment: 1 to 64 letters,
	// digits, '-' and '_'. It is needed where NATS is a leaf node with a JetStream of its own. Defaults to none: the
	// JetStream of the server that nc is connected to.
	Domain string
	// Logger is told what changes. Defaults to slog.Default().
	Logger *slog.Logger
	// Registerer is given the coordinator's metrics while Run runs: docs/METRICS.md has their names. Defaults to none.
	Registerer prometheus.Registerer
}

// maxReplicas is the bound of nats-server.
const maxReplicas = 5

// longest stands for every longer time, which nobody lives to see: multiples of it do not overflow.
const longest = math.MaxInt64 / 16

func (c Config) withDefaults() (Config, error) {
	c.Name = cmp.Or(c.Name, ulid.Make().String())
	c.Lease = min(cmp.Or(c.Lease, DefaultLease), longest)
	c.ReaderLease = min(cmp.Or(c.ReaderLease, DefaultReaderLease), longest)
	c.Stall = min(cmp.Or(c.Stall, DefaultStall), longest)
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	if err := wire.CheckName("coordinator", c.Name); err != nil {
		return c, err
	}
	if c.Name == wire.EveryCoordinator {
		return c, fmt.Errorf("coordinator config: the name %q means every coordinator: take another", c.Name)
	}
	if c.Domain != "" {
		if err := wire.CheckName("JetStream domain", c.Domain); err != nil {
			return c, err
		}
	}
	if c.Lease < 0 || c.ReaderLease < 0 || c.Stall < 0 || c.Replicas < 0 {
		return c, fmt.Errorf("coordinator config: a duration or number is negative: lease %v, reader lease %v, stall %v, replicas %d",
			c.Lease, c.ReaderLease, c.Stall, c.Replicas)
	}
	if c.Replicas > maxReplicas {
		return c, fmt.Errorf("coordinator config: %d replicas; NATS keeps %d at most", c.Replicas, maxReplicas)
	}
	return c, nil
}
