package worker

import (
	"errors"

	"github.com/nats-io/nats.go"
)

var (
	// ErrNoDefinitions is returned by New when it is given no data set, or the same kind twice.
	ErrNoDefinitions = errors.New("a worker needs data sets, each once")

	// ErrConfig is returned by New for a Config that makes no sense; the text names the field.
	ErrConfig = errors.New("bad worker configuration")

	// ErrDrainTimeout is returned by Run when jobs were still running at the end of Config.DrainTimeout. They
	// were cancelled and handed back; code that ignores its context may still be running.
	ErrDrainTimeout = errors.New("jobs were cut off when the drain timed out")

	// ErrConnectionClosed is returned by Run when a connection was closed for good.
	ErrConnectionClosed = nats.ErrConnectionClosed

	// ErrRunning is returned by Run when it was called before: a Worker runs once.
	ErrRunning = errors.New("the worker was run already")

	// ErrNotRunning is returned by Ready and Live when the worker takes no jobs: not yet, not now, or no more.
	ErrNotRunning = errors.New("the worker takes no jobs")

	// ErrNoSlots is returned by Live and Ready when every slot is lost.
	ErrNoSlots = errors.New("no slot is left")
)

// Causes of a cancelled job, for context.Cause in the data set's Materialize.
var (
	errDraining  = errors.New("the worker is shutting down")
	errOver      = errors.New("the generation is over")
	errDone      = errors.New("the run is done")
	errNotServed = errors.New("the batcher is not running")
	errLeft      = errors.New("other workers serve the batcher")
)
