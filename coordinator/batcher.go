package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// batcher owns one batcher: its record, its window and its generation. Everything below the inbox is
// touched by the actor goroutine, run, alone.
type batcher struct {
	c     *Coordinator
	name  string
	kind  *kind.Kind
	inbox chan func()
	gone  chan struct{} // closed when the actor ended

	log *slog.Logger
	rec wire.Record
	rev uint64

	gen      *generation // nil unless the phase is running or done and the generation is set up
	inst     kind.Instance
	release  func()
	heard    time.Time // last word of the reader
	last     wire.Credit
	rate     rate
	silent   time.Time // since when the store has not answered; zero when it has
	forsaken string    // the generation whose store was silent for too long
	unsaved  time.Time // when the record could not be changed last; zero when it could
	trouble  string    // why
	unchosen int       // rounds of choose in a row that failed
	hindered string    // why a lost generation could not be begun again
	restarts int       // generations begun because a store was lost
	reissued uint64    // jobs that were missing, in the generations before this one
	backups  uint64    // jobs given to a second worker
	over     bool      // deposed or collected: the actor ends

	count     counters
	need      need
	runs      runs
	lateSince time.Time // since when the reader has said that it waits; zero when it does not
	trace     string    // of the reader's last word
	unstored  unstored
	viewed    atomic.Pointer[view]
}

func newBatcher(c *Coordinator, rec wire.Record, rev uint64, k *kind.Kind) *batcher {
	return &batcher{
		c: c, name: rec.Batcher, kind: k, rec: rec, rev: rev, heard: time.Now(),
		inbox: make(chan func(), 64), gone: make(chan struct{}),
		log: c.log.With("batcher", rec.Batcher),
	}
}

// generation is the running generation of a batcher, in the memory of its owner.
type generation struct {
	*window.Window
	feed    *feed
	saved   uint64    // taken, as the record has it
	moved   time.Time // when the trainer came further last
	looked  time.Time // of the last repair
	pause   time.Duration
	done    map[uint64]bool // results that were there at the takeover
	settled bool            // everything that was fed before a takeover is in the window again
	ended   bool            // nothing more is fed, whatever a late Next returns
	unsaid  *wire.Verdict   // the verdict until record and store have it
	owed    []uint64        // beyond the window and without a job, ascending: to be published when it opens
	purged  uint64          // results up to here are dropped from the store
	slots   int             // of live workers, when last looked
	shrunk  int             // bound on the window after the store was full; 0 for none
	roomed  time.Time       // when it was shrunk last
	backup  uint64          // the sequence number whose job a second worker may have; 0 for none
	swept   time.Time       // when results that came after they were dropped were last looked for
}

// post hands f to the actor; it is dropped when the actor has ended.
func (b *batcher) post(f func()) {
	select {
	case b.inbox <- f:
	case <-b.gone:
	}
}

// hint is post for what will be said again: it is dropped while the actor is too busy to take it, so that one
// busy batcher holds up no other.
func (b *batcher) hint(f func()) {
	select {
	case b.inbox <- f:
	default:
	}
}

// errGone says that the actor ended before it could answer.
var errGone = &schema.Fault{Code: schema.CodeUnavailable, Message: "the batcher is changing hands"}

// call runs f in the actor and returns its result.
func call[R any](b *batcher, f func() R) (R, *schema.Fault) {
	done := make(chan R, 1)
	b.post(func() { done <- f() })
	select {
	case r := <-done:
		return r, nil
	case <-b.gone:
	}
	select {
	case r := <-done: // answered with its last breath
		return r, nil
	default:
		var none R
		return none, errGone
	}
}

// run is the actor.
func (b *batcher) run() {
	defer b.c.drop(b)
	defer close(b.gone)
	defer b.end()
	b.resume()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	again := time.NewTimer(retryPause)
	defer again.Stop()
	for !b.over {
		var ready <-chan struct{}
		if b.gen != nil {
			ready = b.gen.feed.ready
		}
		select {
		case <-b.c.ctx.Done():
			return
		case f := <-b.inbox:
			f()
		case <-ready:
			b.take(b.gen.feed.collect())
		case <-tick.C:
			b.beat()
		case <-again.C:
			switch {
			case b.gen == nil && b.rec.Phase == schema.PhaseRunning:
				b.resume() // a takeover, or a new beginning, that could not be finished
			case b.gen != nil && b.forsaken == b.rec.Gen:
				b.look() // the record could not be changed
			}
			again.Reset(retryPause)
		}
	}
}

// end lets go of everything in memory. Nothing stored is touched.
func (b *batcher) end() {
	b.halt()
	b.closeDataset()
}

// halt stops feeding.
func (b *batcher) halt() {
	if b.gen != nil {
		b.gen.feed.stop()
		b.reissued += b.gen.feed.reissued()
		b.gen = nil
	}
}

func (b *batcher) closeDataset() {
	if b.release != nil {
		b.release()
		b.inst, b.release = nil, nil
	}
}

// retryPause is between two tries to begin or to resume.
const retryPause = 100 * time.Millisecond

// beat does what is due every second.
func (b *batcher) beat() {
	silent := time.Since(b.heard)
	if silent > b.idleTimeout() {
		b.retire()
		return
	}
	g := b.gen
	if g == nil {
		return
	}
	b.feel()
	if !b.silent.IsZero() {
		b.look()
		if g = b.gen; g == nil {
			return
		}
	}
	b.announce()
	if g.Taken() != g.saved {
		b.save()
	}
	g.feed.republish(g.Window)
	if g.feed.crowded() {
		b.makeRoom()
	}
	b.unstored.look(g.feed)
	b.sweep()
	if stalled, since := g.feed.stalled(b.c.cfg.Stall); stalled && !g.ended {
		b.verdict(&schema.Fault{Code: schema.CodeIteratorStalled, Message: "Next has not returned for " + since.Round(time.Second).String()})
	} else if g.unsaid != nil {
		b.conclude()
	}
	b.resize()
}

func (b *batcher) idleTimeout() time.Duration {
	if t := b.rec.Settings.IdleTimeout; t > 0 {
		return t
	}
	return DefaultIdleTimeout
}

// held reports whether a live reader holds the seat.
func (b *batcher) held() bool {
	return b.rec.Reader != "" && time.Since(b.heard) < b.c.cfg.ReaderLease
}

// savePause is how long progress is not recorded after a server did not answer, so that the actor answers others.
const savePause = 4 * time.Second

// errSilent is what little there is to say when a server does not answer. One whose disk is full says nothing else.
var errSilent = errors.New("the server does not answer: there is no leader, or no room on its disk")

// update changes the record by compare-and-set: change is applied to a copy, which becomes the record once
// it is stored. A conflict means that another coordinator owns the batcher now.
func (b *batcher) update(change func(*wire.Record)) error {
	next := b.rec
	change(&next)
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	ctx, cancel := b.c.call(recordTimeout)
	defer cancel()
	key := topology.BatcherKey(b.name)
	rev, err := b.c.kv.Update(ctx, key, data, b.rev)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrNoStreamResponse) { // the next change finds out what became of this one
		b.unsaved, b.trouble = time.Now(), errSilent.Error()
		return errSilent
	}
	if err != nil {
		// The outcome may be unknown, or an earlier unknown outcome was a success: only owners write, so a
		// record that still names this coordinator is our own.
		rev, err = b.reconcile(ctx, key, data, err)
	}
	if err != nil {
		return err
	}
	b.rec, b.rev = next, rev
	b.unsaved, b.trouble = time.Time{}, ""
	return nil
}

func (b *batcher) reconcile(ctx context.Context, key string, data []byte, cause error) (uint64, error) {
	stored, rev, err := b.c.read(ctx, b.name)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // the bucket was wiped
		return b.c.kv.Create(ctx, key, data)
	case err != nil:
		return 0, errors.Join(cause, err)
	case stored.Owner != b.c.cfg.Name:
		b.depose(stored.Owner)
		return 0, cause
	}
	b.rev = rev
	return b.c.kv.Update(ctx, key, data, rev)
}

// depose ends the actor because the record names another owner.
func (b *batcher) depose(owner string) {
	if !b.over {
		b.log.Info("batcher is another's now", "owner", owner)
	}
	b.over = true
}

// retire deletes a batcher that nobody held for its idle timeout.
func (b *batcher) retire() {
	b.halt()
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	err := b.c.kv.Delete(ctx, topology.BatcherKey(b.name), jetstream.LastRevision(b.rev))
	if err != nil {
		// The revision is another after a change, or a deletion, whose outcome was unknown.
		stored, rev, readErr := b.c.read(ctx, b.name)
		switch {
		case errors.Is(readErr, jetstream.ErrKeyNotFound):
		case readErr == nil && stored.Owner != b.c.cfg.Name:
			b.depose(stored.Owner)
			return
		default:
			if readErr == nil {
				b.rev = rev
			}
			b.log.Warn("idle batcher not collected yet", "error", err)
			return
		}
	}
	b.over = true
	b.discard(b.rec.Gen)
	b.log.Info("idle batcher collected", "gen", b.rec.Gen, "idle", time.Since(b.heard).Round(time.Second))
}

// discard deletes a generation that the record no longer names. A failure is the collector's.
func (b *batcher) discard(gen string) {
	if gen == "" {
		return
	}
	b.c.running.Go(func() {
		ctx, cancel := b.c.call(callTimeout)
		defer cancel()
		if err := topology.DeleteGeneration(ctx, b.c.js, b.name, gen); err != nil && ctx.Err() == nil {
			b.log.Warn("generation not deleted yet", "gen", gen, "error", err)
		}
	})
}

// announce tells workers that there are jobs to pull.
func (b *batcher) announce() {
	if b.gen == nil {
		return
	}
	b.publish(wire.LanePrefix, wire.Lane{Batcher: b.name, Gen: b.rec.Gen, Kind: b.kindToken(), Floor: b.rec.Floor})
}

// notify tells the reader how things stand.
func (b *batcher) notify() { b.publish(wire.NoticePrefix, b.creditReply()) }

func (b *batcher) publish(prefix string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		err = b.c.nc.Publish(prefix+"."+b.name, data)
	}
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		b.log.Warn("not announced", "subject", prefix, "error", err)
	}
}

func (b *batcher) kindToken() string { return wire.KindToken(b.rec.Spec.Dataset, b.rec.Spec.Version) }

// resize sets the window to what workers and batch size allow, and feeds what that opens.
func (b *batcher) resize() {
	if b.gen == nil {
		return
	}
	_, slots := b.c.fleet.serving(b.kindToken())
	b.gen.slots = slots
	limit := windowLimit(b.rec.Settings, slots, b.rec.BatchBytes)
	if g := b.gen; g.shrunk > 0 {
		if time.Since(g.roomed) > regrow { // there may be room again; if not, the store says so again
			g.shrunk, g.roomed = 2*g.shrunk, time.Now()
		}
		if g.shrunk >= limit {
			g.shrunk = 0
		} else {
			limit = g.shrunk
		}
	}
	b.gen.SetLimit(limit)
	b.settle()
	b.demand()
}

// settle publishes the jobs that were held back and that the window has room for by now.
func (b *batcher) settle() {
	g := b.gen
	for len(g.owed) > 0 && g.owed[0] <= g.Taken()+uint64(g.Limit()) {
		seq := g.owed[0]
		g.owed = g.owed[1:]
		if e, ok := g.Entry(seq); ok && seq > g.Taken() {
			g.feed.publish(seq, e.Job, true)
		}
	}
}

// demand asks the iterator for what the window has room for. It stops when the trainer is too far ahead of the record,
// which is saved four times as often: what cannot be recorded as taken cannot be dropped either.
func (b *batcher) demand() {
	if g := b.gen; g != nil && g.Taken() <= g.saved+b.unrecorded() {
		g.feed.demand(g.StateAfter(g.Fed()), g.Want())
	}
}
