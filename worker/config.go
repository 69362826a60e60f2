package worker

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// DirectOff is the Config.Direct that has all payloads stored.
const DirectOff = "off"

// DefaultKeepBytes is the default of Config.KeepBytes in a process whose memory is not limited.
const DefaultKeepBytes = 512 << 20

// memoryLimit is what the process tries to stay under, in bytes: GOMEMLIMIT, or math.MaxInt64 for no limit.
func memoryLimit() int64 { return debug.SetMemoryLimit(-1) }

// keepBytes is the default of Config.KeepBytes in a process whose memory is limited so; math.MaxInt64 is no limit.
func keepBytes(memoryLimit int64) int64 { return min(DefaultKeepBytes, memoryLimit/4) }

// Config configures a Worker. The zero value works.
type Config struct {
	// Name tells workers apart: 1 to 64 letters, digits, '-' and '_'. A worker that finds another live worker of its
	// name appends '-' and four random letters, and says so in its log. Defaults to the host's name, the process id and
	// four random letters.
	Name string
	// Slots is how many jobs run at once, 16384 at most. Defaults to GOMAXPROCS.
	Slots int
	// JobTimeout is how long one job may take, retries included. The job's context ends then and the job goes to
	// another worker. Defaults to 10 minutes.
	JobTimeout time.Duration
	// DrainTimeout is how long Run goes on after its context has ended, to finish what runs. Defaults to 30 seconds.
	DrainTimeout time.Duration
	// Attempts is how often a failing job is tried before its error is committed. Between tries it waits 50 ms, then
	// five times longer each time, give or take 10 %, 10 s at most. Defaults to 5.
	Attempts int
	// Direct is the host:port at which readers fetch batches that are too large for a record, instead of having them
	// stored by NATS and read from there; "off" has them all stored. Where NATS is spoken to by TLS, so are readers. A
	// reader that cannot reach it gets its batches by NATS. Defaults to a free port at the address from which this
	// machine reaches NATS, or, with a server in this process, to readers of this process, without a port.
	Direct string
	// DirectAdvertise is what readers dial, host:port, where that is not what Direct says. Defaults to where the
	// worker listens.
	DirectAdvertise string
	// KeepBytes bounds the batches that wait to be fetched; what does not fit is stored. The worker's memory is at most
	// this, Slots batches with what Materialize uses for them, and 64 MiB. Defaults to 512 MiB, or to a quarter of
	// GOMEMLIMIT if that is less.
	KeepBytes int64
	// Domain is the domain of the JetStream that stores jobs and results, the same for all roles of a deployment: 1 to
	// 64 letters, digits, '-' and '_'. It is needed where NATS is a leaf node with a JetStream of its own. Defaults to
	// none: the JetStream of the server that nc is connected to.
	Domain string
	// Logger is told what changes. Defaults to slog.Default.
	Logger *slog.Logger
	// Registerer is given the worker's metrics while Run runs: docs/METRICS.md has their names. Defaults to none.
	Registerer prometheus.Registerer
}

// longest stands for every longer time, which nobody lives to see: sums with it do not overflow.
const longest = math.MaxInt64 / 16

func (c *Config) resolve() error {
	c.Name = cmp.Or(c.Name, defaultName())
	c.Slots = cmp.Or(c.Slots, runtime.GOMAXPROCS(0))
	c.JobTimeout = min(cmp.Or(c.JobTimeout, 10*time.Minute), longest)
	c.DrainTimeout = min(cmp.Or(c.DrainTimeout, 30*time.Second), longest)
	c.Attempts = cmp.Or(c.Attempts, 5)
	c.KeepBytes = cmp.Or(c.KeepBytes, keepBytes(memoryLimit()))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c.validate()
}

func (c *Config) validate() error {
	if err := wire.CheckName("worker", c.Name); err != nil {
		return err
	}
	if c.Domain != "" {
		if err := wire.CheckName("JetStream domain", c.Domain); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	switch {
	case c.Slots < 0 || c.Slots > wire.MaxSlots:
		return fmt.Errorf("%w: %d slots; at most %d, or 0 for as many as CPUs", ErrConfig, c.Slots, wire.MaxSlots)
	case c.JobTimeout < 0:
		return fmt.Errorf("%w: JobTimeout %v", ErrConfig, c.JobTimeout)
	case c.DrainTimeout < 0:
		return fmt.Errorf("%w: DrainTimeout %v", ErrConfig, c.DrainTimeout)
	case c.Attempts < 0:
		return fmt.Errorf("%w: %d attempts", ErrConfig, c.Attempts)
	case c.KeepBytes < 0:
		return fmt.Errorf("%w: KeepBytes %d", ErrConfig, c.KeepBytes)
	case c.Direct != "" && c.Direct != DirectOff && !isAddress(c.Direct):
		return fmt.Errorf("%w: Direct %q is no host:port", ErrConfig, c.Direct)
	case c.DirectAdvertise != "" && !isAddress(c.DirectAdvertise):
		return fmt.Errorf("%w: DirectAdvertise %q is no host:port", ErrConfig, c.DirectAdvertise)
	}
	return nil
}

func isAddress(s string) bool {
	_, _, err := net.SplitHostPort(s)
	return err == nil && len(s) <= wire.MaxAddress
}

func defaultName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "worker"
	}
	host = strings.Map(func(r rune) rune {
		if wire.CheckName("worker", string(r)) != nil {
			return '-'
		}
		return r
	}, host)
	return fmt.Sprintf("%.40s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:4]))
}
