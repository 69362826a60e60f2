package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	announceInterval = time.Second // how often a worker says that it is alive
	cutGrace         = time.Second // for cancelled code to return
)

// Worker materializes jobs. Its methods are safe for concurrent use; Run may be called once.
//
// A Worker is the life of its parts: each part is a type with its own lock or without state, and knows only the parts
// that it was made with.
type Worker struct {
	*life
	cfg   Config
	kinds map[string]*kind.Kind // by kind token
	conns *conns
	bell  *bell
	tasks *tasks // goroutines besides slots
	tally *tally
	pub   *publisher
	gate  *gate
	slots *slots
	held  *held
	shelf *keeper
	lanes *lanes
	away  *suspended
	exec  *executor

	readers *readers
	uploads *uploads
	claim   *claim

	tick      time.Duration // between heartbeats
	lostAfter time.Duration // after the end of its context, a job's slot counts as lost
	ran       atomic.Bool
	serving   atomic.Bool // Run has subscribed
	clearing  atomic.Bool // what is kept for readers is being stored, since the worker leaves
}

// New returns a worker for the given data sets. nc is used for control messages and stays the caller's; Run
// opens a second connection like it for payloads.
func New(nc *nats.Conn, cfg Config, defs ...dataset.Definition) (*Worker, error) {
	chosen := cfg.Name != ""
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
	js, err := topology.JetStream(nc, cfg.Domain)
	if err != nil {
		return nil, fmt.Errorf("worker %s: %w", cfg.Name, err)
	}
	w := &Worker{
		life: &life{epoch: time.Now()}, cfg: cfg, kinds: kinds, conns: &conns{control: nc}, bell: newBell(),
		tasks: new(tasks), tally: newTally(kinds), gate: newGate(outstandingBytes(memoryLimit())),
		tick: topology.AckWait / 4, lostAfter: topology.AckWait,
	}
	w.rename(cfg.Name, cfg.Logger)
	w.assemble(nc, js)
	if !chosen {
		w.claim.patience = 0 // no other worker has such a name
	}
	return w, nil
}

// assemble makes the parts, each of those before it.
func (w *Worker) assemble(nc *nats.Conn, js jetstream.JetStream) {
	store := &store{life: w.life, conns: w.conns, domain: w.cfg.Domain}
	w.pub = newPublisher(w.now)
	w.shelf = newKeeper(w.cfg.KeepBytes, w.life)
	w.readers = &readers{life: w.life, listen: w.cfg.Direct, advertise: w.cfg.DirectAdvertise, shelf: w.shelf}
	w.uploads = &uploads{life: w.life, nc: nc, pub: w.pub, store: store, shelf: w.shelf, tasks: w.tasks}
	w.slots = newSlots(w.cfg.Slots, w.life, w.bell)
	w.held = &held{life: w.life, nc: nc, tasks: w.tasks, tally: w.tally, bell: w.bell}
	puller := &puller{life: w.life, nc: nc, slots: w.slots, held: w.held, tally: w.tally, bell: w.bell, kinds: w.kinds}
	w.lanes = newLanes(&lanes{
		life: w.life, kinds: w.kinds, records: &records{life: w.life, js: js, domain: w.cfg.Domain}, store: store, puller: puller, slots: w.slots,
		held: w.held, shelf: w.shelf, tasks: w.tasks,
	})
	marks := &marks{life: w.life, pub: w.pub, store: store, tally: w.tally}
	commits := &committer{
		life: w.life, pub: w.pub, gate: w.gate, held: w.held, shelf: w.shelf, uploads: w.uploads, store: store,
		lanes: w.lanes, puller: puller, marks: marks, tally: w.tally, tasks: w.tasks,
	}
	w.away = &suspended{
		life: w.life, puller: puller, slots: w.slots, held: w.held, tasks: w.tasks, bell: w.bell, sleep: sleep,
		lanes: make(map[*lane]error),
	}
	w.exec = &executor{
		life: w.life, timeout: w.cfg.JobTimeout, tries: w.cfg.Attempts, slots: w.slots, held: w.held, puller: puller,
		commits: commits, lanes: w.lanes, suspend: w.away, marks: marks, tally: w.tally, sleep: sleep,
	}
	w.claim = newClaim(nc, func() {
		w.tally.trouble("another worker is named " + w.worker() + " too, and both count as one: restart one of them")
		w.log.Error("another worker has this name too, and both count as one: restart one of them")
	}, func(err error) {
		w.tally.trouble(err.Error())
		w.log.Error("another answers in the place of workers", "error", err)
	})
}

// Run serves until ctx ends. Then it drains: it announces that it leaves, hands back what has not started,
// finishes what runs within Config.DrainTimeout, and returns nil, or ErrDrainTimeout if something had to be
// cut off. It returns early with an error when it cannot start, when a connection was closed for good, and, with a
// *schema.PermissionError, when the server denies it a subject that it needs.
func (w *Worker) Run(ctx context.Context) (err error) {
	if w.ran.Swap(true) {
		return ErrRunning
	}
	w.life.begin(ctx)
	defer w.cutOff(errDraining)
	hints, end, err := w.begin(ctx)
	defer func() {
		if failed := end(); failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.worker(), err)
	}
	w.serving.Store(true)
	w.tasks.run(w.lanes.records.prepare)

	for range w.cfg.Slots {
		w.exec.running.Go(func() { w.exec.slot(nil, 0) })
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
	w.stop()
	for _, k := range w.kinds {
		k.CloseIdle()
	}
	w.log.Info("worker stopped", "done", w.Status().Done)
	if failure != nil {
		return fmt.Errorf("worker %s: %w", w.worker(), failure)
	}
	return nil
}

// begin connects, claims the worker's name and subscribes; end undoes what it did, also when it fails.
func (w *Worker) begin(ctx context.Context) (hints *nats.Subscription, end func() error, err error) {
	var undo []func() error
	end = func() (err error) {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
		return err
	}
	nc := w.conns.control
	if w.conns.data, err = topology.Dial(nc, "worker-data"); err != nil {
		return nil, end, err
	}
	undo = append(undo, func() error { w.conns.data.Close(); return nil })
	if err := w.pub.open(w.conns.data); err != nil {
		return nil, end, err
	}
	name, err := w.claim.obtain(ctx, w.cfg.Name)
	if err != nil {
		return nil, end, err
	}
	undo = append(undo, func() error { w.claim.close(); return nil })
	if name != w.cfg.Name {
		w.rename(name, w.cfg.Logger)
		w.log.Warn("another live worker has the configured name; this one goes by another", "configured", w.cfg.Name)
	}
	service, err := w.serve()
	if err != nil {
		return nil, end, err
	}
	undo = append(undo, service.Stop)
	asks, err := nc.Subscribe(wire.AskSubject, func(*nats.Msg) { w.announce() })
	if err != nil {
		return nil, end, err
	}
	undo = append(undo, func() error {
		_ = asks.Unsubscribe() // fails only when the connection is closed
		return nil
	})
	if w.cfg.Direct != DirectOff {
		uploads, err := nc.Subscribe(wire.UploadSubject(w.worker()), w.uploads.onRequest)
		if err != nil {
			return nil, end, err
		}
		undo = append(undo, func() error {
			_ = uploads.Unsubscribe() // fails only when the connection is closed
			return nil
		})
	}
	w.readers.start(w.conns.data)
	undo = append(undo, func() error { w.readers.close(); return nil })
	if w.cfg.Registerer != nil {
		m := newMeters(w.worker(), w.tally, w.snapshot)
		if err := w.cfg.Registerer.Register(m); err != nil {
			return nil, end, fmt.Errorf("metrics: %w", err)
		}
		undo = append(undo, func() error { w.cfg.Registerer.Unregister(m); return nil })
	}
	follow, err := nc.Subscribe(wire.FollowPrefix+"."+w.worker(), w.lanes.onFollow)
	if err != nil {
		return nil, end, err
	}
	undo = append(undo, func() error {
		_ = follow.Unsubscribe() // fails only when the connection is closed
		return nil
	})
	hints, err = nc.Subscribe(wire.LanePrefix+".*", w.lanes.onHint)
	return hints, end, err
}

// loop announces the worker, ticks, and follows the connections' states until ctx ends (nil), until finished, when
// given, says so (nil), until a connection is closed for good, or until the server denies the worker what it needs.
func (w *Worker) loop(ctx context.Context, finished func() bool) error {
	nc, data := w.conns.control, w.conns.data
	controlStatus := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	dataStatus := data.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(controlStatus)
	defer data.RemoveStatusListener(dataStatus)
	if finished == nil && (nc.IsClosed() || data.IsClosed()) { // before anybody listened
		return ErrConnectionClosed
	}
	heart := time.NewTicker(w.tick)
	defer heart.Stop()
	next := time.NewTimer(rand.N(announceInterval)) // many workers start at once
	defer next.Stop()
	w.announce()
	for finished == nil || !finished() {
		select {
		case <-ctx.Done():
			return nil
		case <-heart.C:
			w.heartbeat()
			if err := w.denied(); err != nil {
				return err
			}
		case <-next.C:
			next.Reset(announceInterval)
			w.announce()
			w.claim.repeat()
		case <-w.bell.ch:
			w.announce()
		case status := <-controlStatus:
			if status == nats.CLOSED {
				return ErrConnectionClosed
			}
			w.lanes.reconnected()
			w.announce()
		case status := <-dataStatus:
			if status == nats.CLOSED {
				return ErrConnectionClosed
			}
			w.readers.start(data)
			w.pub.resend(true)
		}
	}
	return nil
}

// heartbeat is the work of one tick: lanes that went silent, deadlines and heartbeats of held jobs, jobs that waited
// too long, publications that were not answered.
func (w *Worker) heartbeat() {
	w.lanes.tick()
	// Jobs whose results cannot be stored are released; so are all when the server is out of reach.
	reachable := w.conns.control.IsConnected() && w.pub.reachable(w.now(), int64(topology.AckWait))
	w.exec.tick(reachable, w.lostAfter, w.tasks)
	w.exec.puller.tick()
	w.pub.resend(false)
}

// denied returns the last refusal of a subject that the worker needs.
func (w *Worker) denied() error {
	if !topology.Refused(w.conns.control) && !topology.Refused(w.conns.data) {
		return nil // the subjects of all lanes would be put together at every tick
	}
	n := needs(w.worker(), w.lanes.all()).In(w.cfg.Domain)
	if err := topology.Denied(w.conns.control, n); err != nil {
		return err
	}
	return topology.Denied(w.conns.data, n)
}

// drain begins the end: nothing new is accepted or started, and what has not started is handed back.
func (w *Worker) drain(hints *nats.Subscription) {
	w.clearing.Store(true)
	w.bell.draining.Store(true)
	waiting := w.slots.drain()
	w.tasks.run(func() {
		w.uploads.clearAll()
		w.clearing.Store(false)
		w.bell.ended()
	})
	running, _, _ := w.slots.load()
	w.log.Info("worker drains", "running", running, "handed_back", len(waiting), "timeout", w.cfg.DrainTimeout)
	w.announce()
	_ = hints.Unsubscribe() // fails only when the connection is closed
	w.lanes.drain()
	for _, j := range waiting {
		w.held.giveBack(j, 0)
	}
}

// idle reports whether a draining worker has nothing left to finish.
func (w *Worker) idle() bool {
	held, separating := w.held.counts()
	running, _, lost := w.slots.load()
	return held == lost && running == 0 && separating == 0 && !w.clearing.Load()
}

// cut ends what the drain could not finish and returns how many jobs that were.
func (w *Worker) cut() int {
	w.cutOff(errDraining)
	w.gate.close()
	cut, _ := w.held.counts()
	grace, stop := context.WithTimeout(context.WithoutCancel(w.soft), cutGrace)
	defer stop()
	_ = w.loop(grace, w.idle) // a closed connection changes nothing now
	for _, j := range w.held.all() {
		w.held.giveBack(j, 0)
	}
	return cut
}

// stop ends the slots and everything else; slots whose code does not return are left behind.
func (w *Worker) stop() {
	w.cutOff(errDraining)
	w.gate.close()
	w.slots.stop()
	running, _, lost := w.slots.load()
	w.lanes.end()
	w.pub.close()
	w.tasks.end()
	if stuck := running + lost; stuck == 0 {
		w.exec.running.Wait()
	} else {
		w.log.Error("materialize code ignores the end of its context and is left running", "slots", stuck)
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(w.soft), cutGrace)
	defer cancel()
	if err := w.conns.control.FlushWithContext(flush); err != nil {
		w.log.Warn("what was handed back may not have reached the server", "error", err)
	}
}
