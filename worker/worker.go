package worker

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker/internal/schedule"
)

// Config configures a Worker. The zero value works.
type Config struct {
	// Name tells workers apart: 1 to 64 letters, digits, '-' and '_', used by no other live worker.
	// Defaults to the host's name, the process id and four random letters.
	Name string
	// Slots is how many jobs run at once. Defaults to GOMAXPROCS.
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
	// this and Slots batches. Defaults to 512 MiB.
	KeepBytes int64
	// Logger is told what changes. Defaults to slog.Default().
	Logger *slog.Logger
	// Registerer is given the worker's metrics while Run runs: docs/METRICS.md has their names. Defaults to none.
	Registerer prometheus.Registerer
}

func (c *Config) resolve() error {
	c.Name = cmp.Or(c.Name, defaultName())
	c.Slots = cmp.Or(c.Slots, runtime.GOMAXPROCS(0))
	c.JobTimeout = cmp.Or(c.JobTimeout, 10*time.Minute)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 30*time.Second)
	c.Attempts = cmp.Or(c.Attempts, 5)
	c.KeepBytes = cmp.Or(c.KeepBytes, defaultKeepBytes)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c.validate()
}

func (c *Config) validate() error {
	if err := wire.CheckName("worker", c.Name); err != nil {
		return err
	}
	switch {
	case c.Slots < 0:
		return fmt.Errorf("%w: %d slots", ErrConfig, c.Slots)
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

// Worker materializes jobs. Its methods are safe for concurrent use; Run may be called once.
type Worker struct {
	cfg    Config
	log    *slog.Logger
	kinds  map[string]*kind.Kind // by kind token
	nc     *nats.Conn            // control: pulls, acks, beats
	js     jetstream.JetStream
	data   *nats.Conn // payloads: records and chunks
	pub    *publisher
	keeper atomic.Pointer[keeper] // nil while readers cannot fetch from here
	began  time.Time              // the instant 0 of the scheduler and of deadlines
	ran    atomic.Bool

	counts map[string]*counters // by data set; what is in it is safe for concurrent use
	meters *meters

	sleep     func(ctx context.Context, d time.Duration) error // between attempts; replaced by tests
	tick      time.Duration                                    // between heartbeats
	lostAfter time.Duration                                    // past its deadline, a job's slot counts as lost
	soft      context.Context                                  // ends when Run's context does: nothing new begins
	hard      context.Context                                  // ends when the drain is over: what runs is cut off
	cutOff    context.CancelCauseFunc
	tasks     sync.WaitGroup // goroutines besides slots
	changed   chan struct{}  // asks the loop to send a beat at once

	mu             sync.Mutex
	ready          sync.Cond // a job may be started, or the worker stops
	room           sync.Cond // a commit was settled, or the worker stops
	sched          *schedule.Scheduler[*lane, *job]
	lanes          map[string]*lane  // by batcher
	checking       map[string]*check // by batcher, whose record is being read
	storeless      map[string]string // by batcher, the generation whose store was not there
	left           map[string]bool   // by kind, whether jobs of another wire version were heard of
	held           []*job            // delivered and neither acked nor handed back
	separating     int               // jobs being taken out of runs
	unsettled      int               // commits published and not answered
	unsettledBytes int
	uploads        int  // requests of readers to store a payload that are being carried out
	clearing       bool // what is kept for readers is being stored, since the worker leaves
	serving        bool // Run has subscribed
	draining       bool
	stopped        bool // slots end
	lost           int  // slots whose job ignores the end of its context
	done           uint64
	failed         uint64
	retried        uint64
	lastError      string
	bucket         jetstream.KeyValue // nil until the first record was read
}

// New returns a worker for the given data sets. nc is used for control messages and stays the caller's; Run
// opens a second connection like it for payloads.
func New(nc *nats.Conn, cfg Config, defs ...dataset.Definition) (*Worker, error) {
	if err := cfg.resolve(); err != nil {
		return nil, err
	}
	if len(defs) == 0 {
		return nil, ErrNoDefinitions
	}
	kinds := make(map[string]*kind.Kind, len(defs))
	for _, def := range defs {
		if err := def.Validate(); err != nil {
			return nil, err
		}
		token := wire.KindToken(def.Name(), def.Version())
		if kinds[token] != nil {
			return nil, fmt.Errorf("%w: %s is given twice", ErrNoDefinitions, token)
		}
		kinds[token] = kind.Of(def)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", cfg.Name, err)
	}
	w := &Worker{
		cfg: cfg, log: cfg.Logger.With("worker", cfg.Name), kinds: kinds, nc: nc, js: js, began: time.Now(),
		sleep: sleep, tick: topology.AckWait / 4, lostAfter: topology.AckWait, changed: make(chan struct{}, 1),
		sched: schedule.New[*lane, *job](cfg.Slots), lanes: make(map[string]*lane), checking: make(map[string]*check), storeless: make(map[string]string), left: make(map[string]bool),
	}
	w.ready.L, w.room.L = &w.mu, &w.mu
	w.counts = w.newCounts()
	w.meters = w.newMeters()
	return w, nil
}

// now is the worker's monotonic clock in nanoseconds.
func (w *Worker) now() int64 { return int64(time.Since(w.began)) }

// Run serves until ctx ends. Then it drains: it announces that it leaves, hands back what has not started,
// finishes what runs within Config.DrainTimeout, and returns nil, or ErrDrainTimeout if something had to be
// cut off. It returns early with an error when it cannot start, when a connection was closed for good, and, with a
// *schema.PermissionError, when the server denies it a subject that it needs.
func (w *Worker) Run(ctx context.Context) (err error) {
	if w.ran.Swap(true) {
		return ErrRunning
	}
	w.data, err = topology.Dial(w.nc, "worker-data")
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
	}
	defer w.data.Close()
	w.soft = ctx
	w.hard, w.cutOff = context.WithCancelCause(context.WithoutCancel(ctx))
	defer w.cutOff(errDraining)
	if w.pub, err = newPublisher(w.data, w.now); err != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
	}
	service, err := w.serve()
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
	}
	defer func() { err = errors.Join(err, service.Stop()) }()
	if w.cfg.Direct != DirectOff {
		uploads, err := w.nc.Subscribe(wire.UploadSubject(w.cfg.Name), w.onUpload)
		if err != nil {
			return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
		}
		defer func() { _ = uploads.Unsubscribe() }() // fails only when the connection is closed
	}
	w.startKeeper()
	defer func() { w.keeper.Load().close() }()
	hints, err := w.nc.Subscribe(wire.LanePrefix+".*", w.onLane)
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
	}

	unregister, err := w.register()
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.Name, err)
	}
	defer unregister()
	w.mu.Lock()
	w.serving = true
	w.mu.Unlock()

	var slots sync.WaitGroup
	for range w.cfg.Slots {
		slots.Go(w.slot)
	}
	w.log.Info("worker started", "slots", w.cfg.Slots, "kinds", w.tokens())
	failure := w.loop(ctx, nil)

	w.drain(hints)
	drained, stop := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.DrainTimeout)
	defer stop()
	if failure == nil {
		failure = w.loop(drained, w.idle)
	}
	if !w.idle() {
		if cut := w.cut(); failure == nil {
			failure = fmt.Errorf("%w: %d after %v", ErrDrainTimeout, cut, w.cfg.DrainTimeout)
		}
	}
	w.stop(&slots)
	for _, k := range w.kinds {
		k.CloseIdle()
	}
	w.log.Info("worker stopped", "done", w.Status().Done)
	if failure != nil {
		return fmt.Errorf("worker %s: %w", w.cfg.Name, failure)
	}
	return nil
}

// loop sends beats and heartbeats and follows the connections' states until ctx ends (nil), until finished,
// when given, says so (nil), until a connection is closed for good, or
// until the server denies the worker what it needs.
func (w *Worker) loop(ctx context.Context, finished func() bool) error {
	control, data := w.nc.StatusChanged(nats.CONNECTED, nats.CLOSED), w.data.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer w.nc.RemoveStatusListener(control)
	defer w.data.RemoveStatusListener(data)
	if finished == nil && (w.nc.IsClosed() || w.data.IsClosed()) { // before anybody listened
		return ErrConnectionClosed
	}
	heart := time.NewTicker(w.tick)
	defer heart.Stop()
	beat := time.NewTimer(jitter(beatInterval)) // the first: many workers start at once
	defer beat.Stop()
	w.beat()
	for finished == nil || !finished() {
		select {
		case <-ctx.Done():
			return nil
		case <-heart.C:
			w.heartbeat()
			if err := w.denied(); err != nil {
				return err
			}
		case <-beat.C:
			beat.Reset(beatInterval)
			w.beat()
		case <-w.changed:
			w.beat()
		case status := <-control:
			if status == nats.CLOSED {
				return ErrConnectionClosed
			}
			w.reconnected()
			w.beat()
		case status := <-data:
			if status == nats.CLOSED {
				return ErrConnectionClosed
			}
			w.startKeeper()
			w.pub.resend(true)
		}
	}
	return nil
}

// drain begins the end: nothing new is accepted or started, and what has not started is handed back.
func (w *Worker) drain(hints *nats.Subscription) {
	w.mu.Lock()
	w.draining, w.clearing = true, true
	w.tasks.Go(w.clearShelf)
	waiting := w.sched.Drain()
	lanes := make([]*lane, 0, len(w.lanes))
	for _, l := range w.lanes {
		lanes = append(lanes, l)
	}
	running := w.sched.Running()
	w.mu.Unlock()
	w.log.Info("worker drains", "running", running, "handed_back", len(waiting), "timeout", w.cfg.DrainTimeout)
	w.beat()
	_ = hints.Unsubscribe() // fails only when the connection is closed
	for _, l := range lanes {
		// The server forgets our requests before it sees what we hand back, so it cannot send it to us again.
		_ = l.subscription().Drain()
	}
	for _, j := range waiting {
		w.handBack(j, 0)
	}
}

// idle reports whether a draining worker has nothing left to finish.
func (w *Worker) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.held) == w.lost && w.sched.Running() == 0 && w.separating == 0 && !w.clearing
}

// cut ends what the drain could not finish and returns how many jobs that were.
func (w *Worker) cut() int {
	w.cutOff(errDraining)
	w.mu.Lock()
	cut := len(w.held)
	w.room.Broadcast()
	w.mu.Unlock()
	grace, stop := context.WithTimeout(context.WithoutCancel(w.soft), cutGrace)
	defer stop()
	_ = w.loop(grace, w.idle) // a closed connection changes nothing now
	w.mu.Lock()
	left := append([]*job(nil), w.held...)
	w.mu.Unlock()
	for _, j := range left {
		w.handBack(j, 0)
	}
	return cut
}

// stop ends the slots and everything else; slots whose code does not return are left behind.
func (w *Worker) stop(slots *sync.WaitGroup) {
	w.cutOff(errDraining)
	w.mu.Lock()
	w.stopped = true
	w.ready.Broadcast()
	w.room.Broadcast()
	lanes := w.lanes
	w.lanes = nil
	stuck := w.lost + w.sched.Running()
	w.mu.Unlock()
	for _, l := range lanes {
		l.close(errDraining)
	}
	w.pub.close()
	w.tasks.Wait()
	if stuck == 0 {
		slots.Wait()
	} else {
		w.log.Error("materialize code ignores the end of its context and is left running", "slots", stuck)
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(w.soft), cutGrace)
	defer cancel()
	if err := w.nc.FlushWithContext(flush); err != nil {
		w.log.Warn("what was handed back may not have reached the server", "error", err)
	}
}

// cutGrace is how long cancelled code may take to return.
const cutGrace = time.Second

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
