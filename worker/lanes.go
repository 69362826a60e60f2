package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

const (
	maxLooks = 64              // records read at a time; lanes are announced again every second
	restTime = 2 * time.Second // for which a generation that has no jobs is not looked at again
)

// lanes are the generations that this worker serves. Announcements are hints: a lane is closed by what the batcher's
// record says alone, and opened by that or by a hint that says as much, of which only the jobs are run that have the
// digest of its specification. Its lock guards the tables and is not held while a record is read.
type lanes struct {
	*life
	kinds   map[string]*kind.Kind // by kind token
	records *records
	store   *store
	puller  *puller
	slots   *slots
	held    *held
	shelf   *keeper
	tasks   *tasks

	mu        sync.Mutex
	open      map[string]*lane   // by batcher
	looks     map[string]*look   // by batcher, whose record is being read
	storeless map[string]string  // by batcher, the generation whose store was not there
	resting   map[string]resting // by batcher, the generation that was found to have no jobs
	done      map[string]*lane   // by batcher, the closed lane of a run that is done: its payloads stay for look-ups
	foreign   map[string]bool    // by kind token, whether jobs of it on another wire version were heard of
	asking    bool               // records of silent lanes are being read
	askAt     int64              // and not before
	askPause  time.Duration      // after the last that could not be read; 0 when it could
	elsewhere bool               // it was said that records are in another JetStream
	draining  bool
}

// leaveToOthers says once of each kind that there are jobs of it on another wire version.
func (s *lanes) leaveToOthers(hint wire.Lane) {
	for own := range s.kinds {
		if !wire.SameButWire(own, hint.Kind) {
			continue
		}
		s.mu.Lock()
		said := s.foreign[own]
		s.foreign[own] = true
		s.mu.Unlock()
		if !said {
			s.log.Warn("jobs of another wire version are left to other workers: use programs of one release",
				"batcher", hint.Batcher, "kind", hint.Kind, "served", own)
		}
	}
}

// look is a read of a batcher's record that is under way.
type look struct {
	gen    string // that was announced; empty when no announcement asked for it
	again  bool   // asked for meanwhile
	cancel context.CancelFunc
}

// resting is a generation that is announced and has no jobs.
type resting struct {
	gen   string
	until int64
}

// newLanes makes the tables of s, which knows its parts.
func newLanes(s *lanes) *lanes {
	s.foreign = make(map[string]bool)
	s.open, s.looks, s.done = make(map[string]*lane), make(map[string]*look), make(map[string]*lane)
	s.storeless, s.resting = make(map[string]string), make(map[string]resting)
	return s
}

// onHint hears that a batcher has jobs, or that a generation is over.
func (s *lanes) onHint(msg *nats.Msg) {
	var hint wire.Lane
	if json.Unmarshal(msg.Data, &hint) == nil { // else from another version
		s.hear(hint, !hint.Few, spoken(msg))
	}
}

// spoken reports whether a message was published where it is heard, and not by the server, which answers wherever a
// request says: such an answer may have any content.
func spoken(msg *nats.Msg) bool { return msg.Reply == "" && len(msg.Header) == 0 }

// onFollow hears which lanes with few followers are this worker's. One of the same coordinator that is not among them
// is left to others.
func (s *lanes) onFollow(msg *nats.Msg) {
	var list wire.Follow
	if json.Unmarshal(msg.Data, &list) != nil || wire.CheckName("coordinator", list.Coordinator) != nil {
		return // from another version
	}
	listed := make(map[string]bool, len(list.Lanes))
	for _, hint := range list.Lanes {
		hint.Owner = list.Coordinator
		listed[hint.Batcher] = true
		s.hear(hint, true, spoken(msg))
	}
	now := s.now()
	for _, l := range s.all() {
		if !listed[l.batcher] && l.leaves(now, list.Coordinator) {
			l.pause(leftAlone)
			s.slots.rest(l)
			s.log.Debug("lane left to other workers", l.at()...)
		}
	}
}

// hear takes a hint; follow says whether this worker is to ask for the jobs, and spoken whether a coordinator said it.
func (s *lanes) hear(hint wire.Lane, follow, spoken bool) {
	if wire.CheckName("batcher", hint.Batcher) != nil {
		return
	}
	if s.kinds[hint.Kind] == nil && !hint.Over {
		s.leaveToOthers(hint)
		return
	}
	now := s.now()
	s.mu.Lock()
	l := s.open[hint.Batcher]
	known := l != nil && l.gen == hint.Gen
	done := s.done[hint.Batcher]
	looked := s.looks[hint.Batcher] != nil
	rest := s.resting[hint.Batcher]
	fresh := l == nil && !looked && done == nil && s.storeless[hint.Batcher] != hint.Gen
	s.mu.Unlock()
	if done != nil && done.gen == hint.Gen {
		done.announced(now, hint, judge.LookAfter)
		s.shelf.announced(done, &hint)
		known = known || hint.Over
	}
	switch {
	case hint.Over:
		if known || looked { // a lane may be about to be opened by what the record said before
			s.look(hint.Batcher, "")
		}
	case known:
		s.heard(l, hint, follow, now)
	case follow && (rest.gen != hint.Gen || now > rest.until):
		if rec, told := hint.Record(); told && fresh && spoken && s.begin(&rec, s.kinds[hint.Kind]) == nil {
			return
		}
		s.look(hint.Batcher, hint.Gen)
	}
}

// heard takes a hint of an open lane.
func (s *lanes) heard(l *lane, hint wire.Lane, follow bool, now int64) {
	l.announced(now, hint, judge.LookAfter)
	l.failures.company(now, hint.Workers)
	if follow && l.pauses()&leftAlone != 0 && l.unpause(leftAlone) {
		s.resume(l)
	}
	if hint.Unasked && now-l.heard.Load() > int64(pullPatience) {
		l.broken.Store(true) // another server has the consumer now, and does not know of the requests
	}
	if l.broken.Load() { // so is it if the record was read before there was a consumer, and now there is one
		s.puller.renew(l)
		s.puller.more()
	}
	s.shelf.announced(l, &hint)
}

// resume asks for the jobs of a lane that was left to others.
func (s *lanes) resume(l *lane) {
	if s.puller.open(l) != nil {
		l.broken.Store(true) // at the next tick
	}
	s.slots.rest(l)
	s.puller.start(l)
}

// look reads a batcher's record in the background and opens and closes lanes accordingly. gen is the generation that
// was announced, if one was: a read that waits for the record or the store of an earlier one is given up.
func (s *lanes) look(batcher, gen string) {
	if looking := s.looker(batcher, gen); looking != nil {
		s.tasks.run(func() { looking() }) // or the worker ends
	}
}

// looker returns what look does, which reports whether the record could be read; nil while a read is under way, which
// is told, or while too many are.
func (s *lanes) looker(batcher, gen string) (looking func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.looks[batcher]; c != nil {
		c.again = true
		if gen != "" && gen != c.gen {
			c.gen = gen
			c.cancel()
		}
		return nil
	}
	if len(s.looks) >= maxLooks {
		return nil
	}
	ctx, cancel := context.WithCancel(s.hard)
	c := &look{gen: gen, cancel: cancel}
	s.looks[batcher] = c
	return func() bool { return s.looking(ctx, cancel, batcher, c) }
}

// looking reads a batcher's record until no further look was asked for meanwhile, and reports whether it could.
func (s *lanes) looking(ctx context.Context, cancel context.CancelFunc, batcher string, c *look) (read bool) {
	for again := true; again; {
		err := s.apply(ctx, batcher)
		overtaken := ctx.Err() != nil
		cancel()
		s.mu.Lock()
		again = c.again && s.hard.Err() == nil
		if again {
			ctx, cancel = context.WithCancel(s.hard)
			c.again, c.cancel = false, cancel
		} else {
			delete(s.looks, batcher)
		}
		s.mu.Unlock()
		if read = err == nil || overtaken; !read {
			s.unread(batcher, err)
		}
	}
	cancel()
	return read
}

// unread says why a record could not be read. That it is in another JetStream is said once, and in the status.
func (s *lanes) unread(batcher string, err error) {
	if !errors.Is(err, errElsewhere) {
		s.log.Warn("record not read; it will be at the next announcement", "batcher", batcher, "error", err)
		return
	}
	s.puller.tally.trouble(err.Error())
	s.mu.Lock()
	said := s.elsewhere
	s.elsewhere = true
	s.mu.Unlock()
	if !said {
		s.log.Error("jobs are announced whose records are not here", "batcher", batcher, "error", err)
	}
}

// apply makes the lane of a batcher what its record says.
func (s *lanes) apply(ctx context.Context, batcher string) error {
	rec, err := s.records.read(ctx, batcher)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old, done, draining := s.open[batcher], s.done[batcher], s.draining
	if done != nil && standing(rec, done.gen) == errOver {
		delete(s.done, batcher)
		defer s.shelf.dropAll(done)
	}
	s.mu.Unlock()
	if old != nil {
		cause := standing(rec, old.gen)
		if cause == nil && rec.SpecDigest() != old.spec {
			cause = errNotServed // one of the two records was forged; jobs say which
		}
		if cause == nil {
			s.shelf.dropTo(old, rec.Floor) // a lane that is left to others is not announced here
			return nil
		}
		s.close(old, cause)
	}
	if rec == nil || draining {
		return nil
	}
	k := s.kinds[wire.KindToken(rec.Spec.Dataset, rec.Spec.Version)]
	if k == nil || standing(rec, rec.Gen) != nil {
		s.mu.Lock()
		s.resting[batcher] = resting{rec.Gen, s.now() + int64(restTime)}
		s.mu.Unlock()
		return nil
	}
	if !s.hasStore(ctx, batcher, rec.Gen) {
		return nil
	}
	return s.begin(rec, k)
}

// standing says by a batcher's record why a generation of it is not to be served: errOver where its jobs are of no use
// to anybody, errDone and errNotServed where they may be of use later, or to other workers. It is nil for a generation
// that is to be served.
func standing(rec *wire.Record, gen string) error {
	switch {
	case rec == nil || gen == "" || rec.Gen != gen:
		return errOver
	case rec.Wire != wire.Version:
		return errNotServed // for workers of that wire version
	case rec.Phase == schema.PhaseClosed || rec.Phase == schema.PhaseFailed:
		return errOver // only a new generation goes on from here
	case rec.Phase == schema.PhaseDone:
		return errDone // the trainer has all of it, and may go back
	case rec.Phase == schema.PhaseStopped:
		return errNotServed // it was never started
	}
	return nil
}

// begin opens the lane that a record names, or an owner's hint, unless one of the batcher is open by now. Of a
// generation that is over by the time that a hint comes, requests for jobs are refused, and then the record is read.
func (s *lanes) begin(rec *wire.Record, k *kind.Kind) error {
	l := newLane(s.hard, rec, k, s.store.domain)
	l.data.describe = s.records.origin
	l.announced(s.now(), wire.Lane{Owner: rec.Owner}, judge.LookAfter)
	if err := s.puller.open(l); err != nil {
		l.cancel(err)
		return fmt.Errorf("lane %s: %w", rec.Batcher, err)
	}
	s.mu.Lock()
	needless := s.draining || s.open[l.batcher] != nil
	if !needless {
		s.open[l.batcher] = l
		delete(s.storeless, l.batcher)
		delete(s.resting, l.batcher)
	}
	s.mu.Unlock()
	if needless {
		l.close(errDraining)
		return nil
	}
	s.log.Info("lane opened", l.at("dataset", rec.Spec.Dataset)...)
	s.puller.start(l)
	return nil
}

// close stops serving a generation: nothing more is pulled, what runs is cut off with cause, and payloads are dropped
// unless the run is done. The jobs of a generation that is over are acked.
func (s *lanes) close(l *lane, cause error) {
	s.mu.Lock()
	known := s.open[l.batcher] == l
	stays := cause == errDone && known
	if known {
		delete(s.open, l.batcher)
	}
	if stays {
		s.done[l.batcher] = l
	}
	s.mu.Unlock()
	waiting := s.slots.close(l)
	l.close(cause)
	waiting = append(waiting, s.slots.close(l)...) // that came, or began to be pulled, in between
	s.held.cutOff(l)
	if !stays {
		s.shelf.dropAll(l)
	}
	for _, j := range waiting {
		switch cause {
		case errOver:
			s.held.ack(j)
		case errNoStream:
			s.held.giveBack(j, passingDelay)
		default:
			s.held.giveBack(j, 0)
		}
	}
	if known {
		s.log.Info("lane closed", l.at("cause", cause)...)
	}
}

// storeGone stops serving a generation until its store is there again, since what its jobs make would be lost, and
// tells the owner. It reports whether the generation is over: the record says so.
func (s *lanes) storeGone(worker string, l *lane, seq uint64) (over bool) {
	s.mu.Lock()
	s.storeless[l.batcher] = l.gen
	s.mu.Unlock()
	s.close(l, errNoStream)
	s.store.report(l, &schema.Fault{
		Code: schema.CodeStoreGone, Message: errNoStream.Error(), Worker: worker, Gen: l.gen, Seq: seq,
	})
	rec, err := s.records.read(s.hard, l.batcher)
	over = err == nil && (rec == nil || rec.Gen != l.gen)
	s.log.Warn("store of results is gone", l.at("seq", seq, "over", over, "error", err)...)
	s.look(l.batcher, "")
	return over
}

// confirm reads the record of a lane that has a job which does not fit, and reports whether it is still as the lane has
// it. If not, the lane is closed and opened anew.
func (s *lanes) confirm(l *lane) bool {
	rec, err := s.records.read(s.hard, l.batcher)
	if err == nil && rec != nil && rec.Gen == l.gen && rec.SpecDigest() == l.spec {
		return true
	}
	s.log.Warn("the record is not what the lane was opened by", l.at("error", err)...)
	s.close(l, errNotServed)
	s.look(l.batcher, "")
	return false
}

// hasStore reports whether a generation's store, once missed, is there.
func (s *lanes) hasStore(ctx context.Context, batcher, gen string) bool {
	s.mu.Lock()
	missed := s.storeless[batcher] == gen
	s.mu.Unlock()
	return !missed || s.store.there(ctx, batcher, gen)
}

// all returns the lanes that are open.
func (s *lanes) all() []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.open))
}

// reconnected makes all requests anew: the server may have forgotten them.
func (s *lanes) reconnected() {
	for _, l := range s.all() {
		l.broken.Store(true)
	}
	s.tick()
	s.puller.more()
}

// drain opens no more lanes and ends the requests of those that are open. The server forgets the requests before it
// sees what is handed back afterwards, so it cannot send that here again.
func (s *lanes) drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	for _, l := range s.all() {
		if sub := l.subscription(); sub != nil {
			_ = sub.Drain() // fails only when the connection is closed
		}
	}
}

// end closes all lanes: the worker ends.
func (s *lanes) end() {
	s.mu.Lock()
	open := s.open
	s.open = make(map[string]*lane)
	s.mu.Unlock()
	for _, l := range open {
		l.close(errDraining)
	}
}
