package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	recordTimeout = time.Second      // for one read of a record
	silence       = 10 * time.Second // after which a lane that nobody announces is checked
	maxChecks     = 64               // records read at a time; lanes are announced again every second
)

// lane is one generation of one batcher whose jobs this worker runs.
type lane struct {
	batcher, gen string
	next         string // subject of requests for jobs
	store        string // stream of results
	ctx          context.Context
	cancel       context.CancelCauseFunc
	data         opened

	mu        sync.Mutex
	sub       *nats.Subscription // nil after close
	closed    bool
	broken    atomic.Bool  // the consumer answered with an error: ask again at the next tick
	heard     atomic.Int64 // when the consumer last said anything
	announced atomic.Int64 // when the owner last did
	avoid     atomic.Int64 // until when payloads are stored, because the reader cannot fetch them
}

func (l *lane) subscription() *nats.Subscription {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sub
}

// subscribe listens on a new inbox and forgets the old one, which ends the requests made from it.
func (l *lane) subscribe(nc *nats.Conn, deliver nats.MsgHandler) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	sub, err := nc.Subscribe(nc.NewInbox(), deliver)
	if err != nil {
		return err
	}
	// What can be in flight is bounded by what was asked for.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	if l.sub != nil {
		// Jobs that are under way to the old inbox are taken still, or they would be nobody's until AckWait.
		_ = l.sub.Drain() // fails only when it is unsubscribed already
	}
	l.sub = sub
	return nil
}

func (l *lane) close(cause error) {
	l.mu.Lock()
	l.closed = true
	if l.sub != nil {
		_ = l.sub.Unsubscribe() // fails only when it is unsubscribed already
	}
	l.mu.Unlock()
	l.cancel(cause)
	l.data.close()
}

// leave says once of each kind that there are jobs of it on another wire version. They are for other workers.
func (w *Worker) leave(hint wire.Lane) {
	for own := range w.kinds {
		if !wire.SameButWire(own, hint.Kind) {
			continue
		}
		w.mu.Lock()
		said := w.left[own]
		w.left[own] = true
		w.mu.Unlock()
		if !said {
			w.log.Warn("jobs of another wire version are left to other workers: use programs of one release",
				"batcher", hint.Batcher, "kind", hint.Kind, "served", own)
		}
	}
}

// onLane hears that a batcher has jobs.
func (w *Worker) onLane(msg *nats.Msg) {
	var hint wire.Lane
	if json.Unmarshal(msg.Data, &hint) != nil || wire.CheckName("batcher", hint.Batcher) != nil {
		return // from another version
	}
	if w.kinds[hint.Kind] == nil {
		w.leave(hint)
		return
	}
	w.mu.Lock()
	l := w.lanes[hint.Batcher]
	known := l != nil && l.gen == hint.Gen
	w.mu.Unlock()
	if known {
		now := w.now()
		l.announced.Store(now)
		if l.broken.Swap(false) { // the record was read before there was a consumer, and now there is one
			w.renew(l, now)
			w.mu.Lock()
			asks := w.sched.Asks(now)
			w.mu.Unlock()
			w.ask(asks)
		}
		w.keepAfter(l, hint.Floor)
		return
	}
	w.check(hint.Batcher, hint.Gen)
}

// check is a look at a batcher's record that is under way.
type check struct {
	gen    string // that was announced; empty when it was none that asked
	again  bool   // asked for meanwhile
	cancel context.CancelFunc
}

// check reads a batcher's record in the background and opens and closes lanes accordingly. gen is the generation that was
// announced, if one was: whoever waits for a record or a store of before it need not wait any longer.
func (w *Worker) check(batcher, gen string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.checking[batcher]; c != nil {
		c.again = true
		if gen != "" && gen != c.gen {
			c.gen = gen
			c.cancel()
		}
		return
	}
	if len(w.checking) >= maxChecks || w.draining {
		return
	}
	ctx, cancel := context.WithCancel(w.hard)
	c := &check{gen: gen, cancel: cancel}
	w.checking[batcher] = c
	w.tasks.Go(func() {
		for again := true; again; {
			err := w.follow(ctx, batcher)
			overtaken := ctx.Err() != nil
			cancel()
			w.mu.Lock()
			again = c.again && w.hard.Err() == nil
			if again {
				ctx, cancel = context.WithCancel(w.hard)
				c.again, c.cancel = false, cancel
			} else {
				delete(w.checking, batcher)
			}
			w.mu.Unlock()
			if err != nil && !overtaken {
				w.log.Warn("lane not checked; it will be at the next announcement", "batcher", batcher, "error", err)
			}
		}
	})
}

// follow makes the lane of a batcher what its record says.
func (w *Worker) follow(ctx context.Context, batcher string) error {
	rec, err := w.record(ctx, batcher)
	if err != nil {
		return err
	}
	w.mu.Lock()
	old := w.lanes[batcher]
	w.mu.Unlock()
	if old != nil {
		if live(rec) && rec.Gen == old.gen {
			old.announced.Store(w.now())
			return nil
		}
		cause := errClosed
		if rec == nil || rec.Gen != old.gen {
			cause = errSuperseded
		}
		w.closeLane(old, cause)
	}
	if !live(rec) || !w.hasStore(ctx, batcher, rec.Gen) {
		return nil
	}
	k := w.kinds[wire.KindToken(rec.Spec.Dataset, rec.Spec.Version)]
	if k == nil {
		return nil
	}
	return w.openLane(rec, k)
}

// live reports whether a record's generation may have jobs. One of another wire version is for other workers.
func live(rec *wire.Record) bool {
	return rec != nil && rec.Wire == wire.Version && rec.Gen != "" && rec.Phase != schema.PhaseStopped && rec.Phase != schema.PhaseClosed
}

func (w *Worker) openLane(rec *wire.Record, k *kind.Kind) error {
	consumer := topology.Consumer(rec.Batcher, rec.Gen)
	l := &lane{
		batcher: rec.Batcher, gen: rec.Gen,
		next:  "$JS.API.CONSUMER.MSG.NEXT." + topology.JobsStream + "." + consumer,
		store: topology.ResultsStream(rec.Batcher, rec.Gen),
		data:  opened{kind: k, params: rec.Spec.Params},
	}
	l.ctx, l.cancel = context.WithCancelCause(w.hard)
	l.heard.Store(w.now())
	l.announced.Store(w.now())
	if err := l.subscribe(w.nc, func(msg *nats.Msg) { w.onDelivery(l, msg) }); err != nil {
		l.cancel(err)
		return fmt.Errorf("lane %s: %w", rec.Batcher, err)
	}
	w.mu.Lock()
	if w.draining {
		w.mu.Unlock()
		l.close(errDraining)
		return nil
	}
	w.lanes[l.batcher] = l
	delete(w.storeless, l.batcher)
	w.sched.Open(l)
	asks := w.sched.Asks(w.now())
	w.mu.Unlock()
	w.log.Info("lane opened", "batcher", l.batcher, "gen", l.gen, "dataset", rec.Spec.Dataset)
	w.ask(asks)
	return nil
}

// closeLane stops serving a generation. Jobs of a superseded one are of no use to anybody and are acked.
func (w *Worker) closeLane(l *lane, cause error) {
	w.mu.Lock()
	known := w.lanes[l.batcher] == l
	if known {
		delete(w.lanes, l.batcher)
	}
	waiting := w.sched.Close(l)
	w.mu.Unlock()
	l.close(cause)
	w.keepAfter(l, math.MaxUint64)
	for _, j := range waiting {
		switch cause {
		case errSuperseded:
			w.ack(j)
		case errNoStream:
			w.handBack(j, passingDelay)
		default:
			w.handBack(j, 0)
		}
	}
	if known {
		w.log.Info("lane closed", "batcher", l.batcher, "gen", l.gen, "cause", cause)
	}
}

// record reads a batcher's record from the leader; nil without an error when there is none.
func (w *Worker) record(ctx context.Context, batcher string) (*wire.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	w.mu.Lock()
	bucket := w.bucket
	w.mu.Unlock()
	if bucket == nil {
		var err error
		bucket, err = topology.OpenBucket(ctx, w.js)
		if err != nil {
			return nil, fmt.Errorf("record of %s: %w", batcher, err)
		}
		w.mu.Lock()
		w.bucket = bucket
		w.mu.Unlock()
	}
	entry, err := bucket.Get(ctx, topology.BatcherKey(batcher))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", batcher, err)
	}
	rec := new(wire.Record)
	if err := json.Unmarshal(entry.Value(), rec); err != nil {
		return nil, fmt.Errorf("record of %s: %w", batcher, err)
	}
	return rec, nil
}

// opened is the data set of a lane: opened with the first job, kept until the lane is closed and its last
// job has ended.
type opened struct {
	kind   *kind.Kind
	params json.RawMessage

	mu      sync.Mutex
	inst    kind.Instance
	release func()
	users   int
	closed  bool
}

// acquire returns the instance; done must be called when err is nil.
func (o *opened) acquire(ctx context.Context) (kind.Instance, error) {
	o.mu.Lock()
	inst := o.inst
	if inst != nil {
		o.users++
	}
	o.mu.Unlock()
	if inst != nil {
		return inst, nil
	}
	inst, release, err := o.kind.Acquire(ctx, o.params)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	o.users++
	if o.inst == nil {
		o.inst, o.release, release = inst, release, func() {}
	}
	inst = o.inst
	o.mu.Unlock()
	release() // another job of this lane opened it at the same time; the kind shares one instance
	return inst, nil
}

func (o *opened) done() {
	o.mu.Lock()
	o.users--
	o.finish()
}

func (o *opened) close() {
	o.mu.Lock()
	o.closed = true
	o.finish()
}

// finish unlocks o.mu and gives up the instance when nobody needs it any more.
func (o *opened) finish() {
	release := func() {}
	if o.closed && o.users == 0 && o.release != nil {
		release, o.inst, o.release = o.release, nil, nil
	}
	o.mu.Unlock()
	release()
}
