package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/lend"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// OnError says when Take reports the error of a batch.
type OnError uint8

const (
	// FailFast reports an error as soon as it is known, even when good batches before it are buffered.
	FailFast OnError = iota
	// InOrder delivers every batch before the error first.
	InOrder
)

// OnLag says what becomes of a reader that is further behind the others than Config.Lag.
type OnLag uint8

const (
	// LagDetach has it go on alone, in a batcher of its own, until it has caught up.
	LagDetach OnLag = iota
	// LagWait has the others wait for it.
	LagWait
)

// Config says which batcher to open. Only Name and Dataset must be set.
type Config struct {
	// Name of the batcher: 1 to 64 letters, digits, '-' and '_', without "__". One process at a time holds a name; a
	// training run and its validation have two. Several hold it as ranks of a World, or each as a Reader.
	Name string

	// Dataset is the name of the data set's Definition.
	Dataset string

	// Params are the data set's parameters, encoded with their json tags; a json.RawMessage goes as it is.
	// Defaults to none.
	Params any

	// Window is how many batches may be in flight. Defaults to 2 x live worker slots + 1.
	Window int

	// WindowBytes bounds window x largest batch, and the payloads that this process holds ahead of the
	// trainer; the next batch is fetched at any size. Defaults to 1 GiB, or to a quarter of GOMEMLIMIT if that is less.
	WindowBytes int64

	// World is set when this process is one of several ranks that take each batch together. Defaults to nil: it takes
	// whole batches, alone. In a world OnError is InOrder, so that all ranks meet an error at the same batch.
	World *World

	// Reader is the name of this process among several that take all batches of the batcher, each at its own pace: 1 to 64
	// letters, digits, '-' and '_', without "__"; with the batcher's name and "__" between them 64 at most. What all of
	// them take is made once, as long as they are within Lag of one another. None of them skips a batch, and none waits
	// for another but with LagWait. Moves, errors and Stop are each reader's own. Defaults to none: this process has the
	// batcher for itself. It does not go together with World.
	Reader string

	// Lag is how many batches the slowest of the readers may be behind the furthest; a window at least. One that is
	// further behind, or asks for a state that is not held while others go on, goes on alone in the batcher
	// Name__Reader, and comes back when it has caught up; Take does both by itself. The first reader's Lag, OnLag and
	// other settings count. Defaults to 4 windows, and no more than fit into WindowBytes.
	Lag int

	// OnLag says what becomes of a reader that is further behind. Defaults to LagDetach.
	OnLag OnLag

	// OnError says when an error is reported. Defaults to FailFast.
	OnError OnError

	// Retain is how many taken batches stay in the store, so that going back to one is a look-up; -1 for none.
	// Defaults to half the window.
	Retain int

	// IdleTimeout is how long a batcher without a reader is kept, 30 days at most. Defaults to 10 min.
	IdleTimeout time.Duration

	// NoDirect has large batches stored by NATS and read from there, as if no worker could be reached. Defaults to
	// false: they are fetched from the workers that made them.
	NoDirect bool

	// Domain is the domain of the JetStream that stores what is taken, the same for all roles of a deployment: 1 to 64
	// letters, digits, '-' and '_'. It is needed where NATS is a leaf node with a JetStream of its own. Defaults to
	// none: the JetStream of the server that Open is connected to.
	Domain string

	// TakeOver makes Open and Start take the batcher from a process that still holds it. Defaults to false.
	TakeOver bool

	// AcceptChange has Take and Start go on from a state of other parameters or data, which are an *OriginError else: the
	// position is used as it is, and the differences are logged and shown in Status. Set it when the change is meant, such
	// as data that was moved or appended to, for one run: every state from there on is of the new data. Defaults to
	// false.
	AcceptChange bool

	// Logger hears of re-seats and of waits that last. Defaults to slog.Default().
	Logger *slog.Logger

	// Registerer is given the metrics of this handle until Close: docs/METRICS.md has their names. Two handles on one
	// batcher need two. Defaults to none.
	Registerer prometheus.Registerer

	// Trace returns the W3C traceparent of the span in the context of a Take or Start, or the empty string. It goes with
	// the jobs that this call lets out to where they are materialized, and comes back with their batches in Step.Trace;
	// what is no traceparent is dropped. It runs in the goroutine of that call. With OpenTelemetry it is
	//
	//	func(ctx context.Context) string {
	//		carrier := propagation.MapCarrier{}
	//		propagation.TraceContext{}.Inject(ctx, carrier)
	//		return carrier["traceparent"]
	//	}
	//
	// Defaults to none.
	Trace func(context.Context) string

	params  json.RawMessage
	part    wire.Part    // of each batch, that this process wants
	beside  bool         // a reader's own batcher, beside the one that it shares
	buffers lend.Buffers // where payloads are received; nil for memory of the client's own
}

const defaultWindowBytes = 1 << 30

// windowBytes is the default of Config.WindowBytes in a process whose memory is limited so; math.MaxInt64 is no limit.
func windowBytes(memoryLimit int64) int64 { return min(defaultWindowBytes, memoryLimit/4) }

// resolve returns the configuration with its defaults filled in, or ErrBadConfig.
func (c Config) resolve(batches bool) (*Config, error) {
	c.WindowBytes = cmp.Or(c.WindowBytes, windowBytes(debug.SetMemoryLimit(-1)))
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 10*time.Minute)
	c.Logger = cmp.Or(c.Logger, slog.Default()).With("batcher", c.Name)
	if c.Params != nil {
		raw, err := json.Marshal(c.Params)
		if err != nil {
			return nil, fmt.Errorf("%w: parameters: %w", ErrBadConfig, err)
		}
		c.params = raw
	}
	if c.World != nil {
		c.OnError = InOrder
		c.Logger = c.Logger.With("rank", c.World.Rank)
	}
	if c.Reader != "" {
		c.Logger = c.Logger.With("reader", c.Reader)
	}
	if err := c.validate(); err != nil {
		return &c, err
	}
	if err := c.World.validate(batches); err != nil {
		return &c, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if c.World != nil {
		c.part, _ = c.World.part() // it is valid
	}
	return &c, nil
}

func (c *Config) validate() error {
	check := wire.CheckOwnName
	if c.beside {
		check = wire.CheckName
	}
	if err := check("batcher", c.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if err := c.validateReader(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if err := wire.CheckName("data set", c.Dataset); err != nil {
		return fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if c.Domain != "" {
		if err := wire.CheckName("JetStream domain", c.Domain); err != nil {
			return fmt.Errorf("%w: %w", ErrBadConfig, err)
		}
	}
	switch {
	case c.Window < 0 || c.Window > math.MaxInt32:
		return fmt.Errorf("%w: a window of %d batches", ErrBadConfig, c.Window)
	case c.WindowBytes < 0:
		return fmt.Errorf("%w: a window of %d bytes", ErrBadConfig, c.WindowBytes)
	case c.Retain < -1 || c.Retain > math.MaxInt32:
		return fmt.Errorf("%w: %d batches to retain; -1 is none", ErrBadConfig, c.Retain)
	case c.OnError > InOrder:
		return fmt.Errorf("%w: OnError is FailFast or InOrder, not %d", ErrBadConfig, c.OnError)
	}
	if err := wire.CheckIdleTimeout(c.IdleTimeout); err != nil {
		return fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	return nil
}

// validateReader is validate for what several readers have.
func (c *Config) validateReader() error {
	switch {
	case c.Lag < 0 || c.Lag > math.MaxInt32:
		return fmt.Errorf("a lag of %d batches", c.Lag)
	case c.OnLag > LagWait:
		return fmt.Errorf("OnLag is LagDetach or LagWait, not %d", c.OnLag)
	case c.Reader == "" && (c.Lag > 0 || c.OnLag != LagDetach):
		return errors.New("Lag and OnLag are of several readers: each has a name, Config.Reader")
	case c.Reader == "":
		return nil
	case strings.HasSuffix(c.Name, "_") || strings.HasPrefix(c.Reader, "_"):
		return fmt.Errorf("reader %q of batcher %q: no '_' where the two names meet", c.Reader, c.Name)
	case c.World != nil:
		return errors.New("one of several readers is a process of its own, and no World")
	}
	if err := wire.CheckOwnName("reader", c.Reader); err != nil {
		return err
	}
	return wire.CheckName("batcher", wire.BesideName(c.Name, c.Reader))
}

// place is the process as coordinators know it: a rank, one of several readers, or alone.
func (c *Config) place() wire.Rank {
	if c.Reader != "" {
		return wire.Rank{Name: c.Reader}
	}
	return c.World.place()
}

// traceOf is the trace context of a call.
func (c *Config) traceOf(ctx context.Context) string {
	if c.Trace == nil {
		return ""
	}
	return wire.Traceparent(c.Trace(ctx))
}

// checkState refuses what no coordinator needs to be asked about.
func (c *Config) checkState(s schema.State) error {
	if s.Dataset != "" && s.Dataset != c.Dataset {
		return fmt.Errorf("batcher %s: %w: it is one of %q, this batcher iterates %q", c.Name, ErrWrongState, s.Dataset,
			c.Dataset)
	}
	if len(s.Data) > schema.MaxState {
		return fmt.Errorf("batcher %s: %w: %d bytes, at most %d", c.Name, ErrStateTooLarge, len(s.Data), schema.MaxState)
	}
	return nil
}

func (c *Config) spec() wire.Spec {
	return wire.Spec{Dataset: c.Dataset, Params: c.params}
}

func (c *Config) settings() wire.Settings {
	return wire.Settings{Window: c.Window, WindowBytes: c.WindowBytes, Retain: c.Retain, IdleTimeout: c.IdleTimeout,
		Patience: c.World.patience(), Lag: c.Lag, LagWait: c.OnLag == LagWait}
}
