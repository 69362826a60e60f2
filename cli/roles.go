package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker"
)

type coordinatorCmd struct {
	natsFlags
	observeFlags
	processFlags
	Name        string        `help:"Begin of the coordinator's name; something random is added, since every process needs a new one. Defaults to the host's name."`
	Replicas    int           `help:"Replicas of the shared streams, when they are made." default:"1"`
	Lease       time.Duration `help:"How long another coordinator must have stood still before its batchers are taken over; the same for all, 2s to 1h. Defaults to 3s." placeholder:"DURATION"`
	ReaderLease time.Duration `help:"How long a trainer may be silent before another may open its batcher, 2s to 1h. Defaults to 5s." placeholder:"DURATION"`
	Stall       time.Duration `help:"How long the iterator may take for one job before the run fails. Defaults to 10s." placeholder:"DURATION"`
}

// The bounds of leases: one that is shorter takes from those that live.
const (
	minLease = 2 * time.Second
	maxLease = time.Hour
)

// maxWorkers is how many workers one process may have: there is a connection for each.
const maxWorkers = 256

// Run runs a coordinator until ctx ends.
func (c *coordinatorCmd) Run(ctx context.Context, a *app) error {
	for flag, lease := range map[string]time.Duration{"lease": c.Lease, "reader-lease": c.ReaderLease} {
		if lease != 0 && (lease < minLease || lease > maxLease) {
			return fmt.Errorf("%w: --%s is from %v to %v: it is renewed every second", errUsage, flag, minLease, maxLease)
		}
	}
	if c.Name != "" {
		if err := wire.CheckName("coordinator", c.Name); err != nil {
			return err
		}
	}
	defs, closing, err := c.definitions(ctx, a, 1)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer closing()
	name := uniqueName(c.Name)
	return a.role(ctx, &c.natsFlags, &c.observeFlags, "jetbatch-coordinator-"+name, func(nc *nats.Conn, o *observer) (runner, error) {
		return coordinator.New(nc, c.config(name, a, o), defs...)
	})
}

func (c *coordinatorCmd) config(name string, a *app, o *observer) coordinator.Config {
	return coordinator.Config{
		Name: name, Replicas: c.Replicas, Lease: c.Lease, ReaderLease: c.ReaderLease, Stall: c.Stall, Domain: c.Domain, Logger: a.log,
		Registerer: o.registerer(),
	}
}

type workerCmd struct {
	natsFlags
	observeFlags
	processFlags
	Name         string        `help:"Name of this worker, unlike any other's. Defaults to the host's name and something random."`
	Slots        int           `help:"Batches materialized at a time, 16384 at most; 0, the default, is the number of CPUs."`
	JobTimeout   time.Duration `help:"How long one job may take, attempts included. Defaults to 10m." placeholder:"DURATION"`
	DrainTimeout time.Duration `help:"How long what runs may go on after a signal. Defaults to 30s." placeholder:"DURATION"`
	Direct       string        `help:"Where trainers fetch batches of 32 KiB or more straight from this worker; off sends them all through NATS. Defaults to a free port of the address from which NATS is reached." placeholder:"HOST:PORT"`
	Advertise    string        `name:"direct-advertise" env:"JETBATCH_DIRECT_ADVERTISE" help:"What trainers dial, where that is not what --direct says." placeholder:"HOST:PORT"`
	KeepBytes    int64         `help:"Bound on the batches in memory that trainers have not fetched; more go through NATS. Defaults to 512 MiB, or a quarter of the memory limit." placeholder:"BYTES"`
}

// Run runs a worker until ctx ends.
func (c *workerCmd) Run(ctx context.Context, a *app) error {
	name := cmp.Or(c.Name, uniqueName(""))
	if err := cmp.Or(checkSlots(c.Slots), wire.CheckName("worker", name)); err != nil {
		return err
	}
	defs, closing, err := c.definitions(ctx, a, c.Slots)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer closing()
	return a.role(ctx, &c.natsFlags, &c.observeFlags, "jetbatch-worker-"+name, func(nc *nats.Conn, o *observer) (runner, error) {
		return worker.New(nc, c.config(name, a, o), defs...)
	})
}

func (c *workerCmd) config(name string, a *app, o *observer) worker.Config {
	return worker.Config{
		Name: name, Slots: c.Slots, JobTimeout: c.JobTimeout, DrainTimeout: c.DrainTimeout, Logger: a.log,
		Registerer: o.registerer(), Direct: c.Direct, DirectAdvertise: c.Advertise, KeepBytes: c.KeepBytes, Domain: c.Domain,
	}
}

// checkSlots refuses slots before there is a connection.
func checkSlots(n int) error {
	if n < 0 || n > wire.MaxSlots {
		return fmt.Errorf("%w: --slots is at most %d, or 0 for as many as CPUs", errUsage, wire.MaxSlots)
	}
	return nil
}

type runner interface {
	probe
	Run(ctx context.Context) error
}

var errClosed = errors.New("NATS closed the connection for good")

// role connects and runs until ctx ends, which is no error, or the connection is lost for good.
func (a *app) role(ctx context.Context, f *natsFlags, of *observeFlags, name string, build func(*nats.Conn, *observer) (runner, error)) (err error) {
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	o, err := of.observe(ctx, a.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	l := &links{log: a.log, away: make(map[*nats.Conn]bool)}
	nc, err := f.connect(ctx, a.log, name, forever,
		nats.DisconnectErrHandler(l.gone), nats.ReconnectHandler(l.back),
		nats.ClosedHandler(func(*nats.Conn) { fail(errClosed) }),
	)
	if err != nil {
		if ctx.Err() != nil {
			return nil // a signal, before there was anything to end
		}
		return err
	}
	defer nc.Close()
	r, err := build(nc, o)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	o.watch(r)
	err = r.Run(running)
	if ctx.Err() == nil && errors.Is(context.Cause(running), errClosed) {
		return errors.Join(errUnhealthy, errClosed, nc.LastError(), err)
	}
	return err
}

// links are the connections of a role, of which a worker has two. They are told of as one: NATS is gone when the first
// goes, and back when all are.
type links struct {
	log *slog.Logger

	mu   sync.Mutex
	away map[*nats.Conn]bool
}

func (l *links) gone(nc *nats.Conn, err error) {
	if err == nil { // this process itself disconnects
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away[nc] = true; len(l.away) == 1 {
		l.log.Warn("NATS is gone", "error", err)
	}
}

func (l *links) back(nc *nats.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.away, nc); len(l.away) == 0 {
		l.log.Info("NATS is back", "server", nc.ConnectedUrlRedacted())
	}
}

type upCmd struct {
	observeFlags
	processFlags
	Listen     string        `help:"Address to listen on; port 0 takes a free one." default:"127.0.0.1:4222" placeholder:"HOST:PORT"`
	Dir        string        `help:"Folder for records. Defaults to a temporary one, removed at the end." type:"path"`
	Workers    int           `help:"Workers in this process, 256 at most; 0 when other processes bring them." default:"2"`
	Slots      int           `help:"Batches that one worker materializes at a time, 16384 at most; 0, the default, shares the CPUs among them."`
	JobTimeout time.Duration `help:"How long one job may take, attempts included. Defaults to 10m." placeholder:"DURATION"`
	JSON       bool          `name:"json" env:"JETBATCH_JSON" help:"Print JSON."`
}

// Run runs an embedded service until ctx ends.
func (c *upCmd) Run(ctx context.Context, a *app) (err error) {
	if err := checkSlots(c.Slots); err != nil {
		return err
	}
	if err := free(c.Listen); err != nil {
		return fmt.Errorf("%w: --listen: %w", errUsage, err)
	}
	if c.Workers < 0 || c.Workers > maxWorkers {
		return fmt.Errorf("%w: --workers is at most %d, or 0 for none", errUsage, maxWorkers)
	}
	defs, closing, err := c.definitions(ctx, a, c.Slots)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer closing()
	o, err := c.observe(ctx, a.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if c.Slots == 0 {
		c.Slots = max(1, runtime.GOMAXPROCS(0)/max(1, c.Workers))
	}
	service, err := embedded.Start(context.WithoutCancel(ctx), embedded.Config{
		Listen: c.Listen, Dir: c.Dir, Workers: cmp.Or(c.Workers, -1), // -1 is its word for none
		Slots: c.Slots, JobTimeout: c.JobTimeout, Logger: a.log, Registerer: o.registerer(),
	}, defs...)
	if err != nil {
		return err
	}
	o.watch(always{})
	if c.JSON {
		err = printJSON(a.out, map[string]string{"url": service.URL()})
	} else {
		err = c.greet(a, defs, service.URL())
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, service.Close())
}

// free reports whether address can be listened on. The server itself would only be found not ready, after a long time
// and without a reason.
func free(address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return err // an empty address too, which net.Listen takes for any port
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

func (c *upCmd) greet(a *app, defs []dataset.Definition, url string) error {
	name := "NAME"
	if len(defs) > 0 {
		name = defs[len(defs)-1].Name()
	}
	_, err := fmt.Fprintf(a.out, `jetbatch is up at %s

in another terminal:
  jetbatch status --server %[1]s
  jetbatch worker --server %[1]s
  jetbatch take   --server %[1]s --name train --dataset %s --params '{…}' --batches 100

Ctrl-C ends it.
`, url, name)
	return err
}
