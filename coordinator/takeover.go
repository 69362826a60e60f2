package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/nats-io/nats.go/jetstream"
)

// claims are the batchers that this coordinator is about to own, from the change of the record until the actor is
// there. Without a claim, a record that names this coordinator and has no actor would count as let go of.
type claims struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the claim ends
}

// lock waits for another claim on the batcher to end; ok is false when ctx ended first.
func (c *claims) lock(ctx context.Context, name string) (unlock func(), ok bool) {
	for {
		c.mu.Lock()
		other := c.held[name]
		if other == nil {
			if c.held == nil {
				c.held = make(map[string]chan struct{})
			}
			mine := make(chan struct{})
			c.held[name] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.held, name)
				close(mine)
			}, true
		}
		c.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// successor takes over the batchers of coordinators that died.
type successor struct {
	*site
	actors    *actors
	members   *membership
	directory *directory
	claims    *claims
	handover  *handover
	strays    *strays

	listed time.Time // the records, by reads
}

// reads reads records until ctx ends, at a pace that their number and size do not change, and takes over the batchers
// of dead coordinators. It waits for JetStream, which the goroutines of leases must not do here.
func (s *successor) reads(ctx context.Context) {
	for ctx.Err() == nil {
		looked := s.members.leases.next()
		s.pulse.reads.Store(time.Now().UnixNano())
		if err := s.scan(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("records not read", "error", err)
		}
		wait := time.NewTimer(2 * beat)
		select {
		case <-ctx.Done():
		case <-looked: // an owner may be found dead
		case <-wait.C:
		}
		wait.Stop()
	}
}

// scan lists the records, which takes longer the more there are, and reads those that are due.
func (s *successor) scan(ctx context.Context) error {
	if now := time.Now(); now.Sub(s.listed) >= time.Duration(s.directory.len())*listPerName {
		s.listed = now
		listing, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		names, err := s.records.names(listing, topology.BatcherKey(""))
		if err != nil {
			return err
		}
		s.directory.list(names)
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for _, name := range s.directory.due(time.Now(), s.lost) {
		group.Go(func() error {
			s.pulse.reads.Store(time.Now().UnixNano())
			err := s.look(within, name)
			if err != nil && !unanswered(err) {
				s.log.Warn("record not looked at", "batcher", name, "error", err)
				return nil // it is one record's fault; the others are read
			}
			return err // the server does not answer: the rest of this round would wait as long
		})
	}
	return errors.Join(group.Wait(), s.bury(ctx))
}

// lost reports whether an owner that a record named at a moment has no batchers any more.
func (s *successor) lost(owner string, named time.Time) bool {
	return owner != s.cfg.Name && s.members.leases.over(owner, named)
}

// look reads one record: its batcher is taken over when its owner is dead, and an actor whose record names another
// owner ends.
func (s *successor) look(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b := s.actors.owner(name)
	rec, rev, size, err := s.records.readSized(ctx, name)
	var damaged *damagedError
	switch {
	case errors.Is(err, errNoRecord):
		s.directory.forget(name)
		return s.records.sweep(ctx, topology.BatcherKey(name))
	case errors.As(err, &damaged):
		return s.lookDamaged(ctx, b, size, damaged)
	case err != nil:
		return err
	}
	s.directory.note(name, seen{rev, size, rec.Owner}, false, time.Now())
	if b != nil {
		s.directory.found(name)
		if rec.Owner != s.cfg.Name {
			// Read after the actor began, so another coordinator thought this one dead: without credits to save, the
			// actor would never find out.
			b.hint(func() { b.depose(rec.Owner) })
		}
		return nil
	}
	switch s.members.leaseOf(ctx, rec.Owner) {
	case leaseLive:
		s.directory.found(name)
	case leaseDead:
		if s.handover.passOn(ctx, rec, rev) != "" {
			return nil
		}
		if why := s.strays.unfit(&rec); why != "" {
			return s.strays.look(ctx, rec, rev, why)
		}
		if _, fault := s.takeOver(ctx, rec, rev); fault != nil {
			return fault
		}
		s.directory.found(name)
	}
	return nil
}

// lookDamaged has the owner write a damaged record anew. Without an owner it is a stray, until a request begins a new
// record in its place.
func (s *successor) lookDamaged(ctx context.Context, b *batcher, size int, d *damagedError) error {
	now := time.Now()
	since, owner := s.directory.note(d.batcher, seen{rev: d.revision, size: size}, true, now)
	if b != nil {
		s.directory.found(d.batcher)
		b.hint(b.mend)
		return nil
	}
	if since.Equal(now) {
		s.log.Warn("damaged record", "batcher", d.batcher, "error", d.cause)
	}
	if s.damagedOwner(ctx, owner, since) != leaseDead {
		return nil
	}
	status := schema.Status{Batcher: d.batcher, Phase: schema.PhaseStopped, Owner: owner}
	if s.directory.stray(d.batcher, d.Error(), status, DefaultIdleTimeout, now) {
		return s.strays.remove(ctx, d.batcher, d.revision)
	}
	return nil
}

// damagedOwner is the state of the owner of a record that has been damaged since a moment. A living owner writes the
// record anew before long, so a record that stays damaged has no owner, even if the coordinator last known for it
// lives.
func (s *successor) damagedOwner(ctx context.Context, owner string, since time.Time) leaseState {
	stood, patience := time.Since(since), s.damagedPatience()
	if owner != "" {
		if state := s.members.leaseOf(ctx, owner); state != leaseLive || stood <= 10*patience {
			return state
		}
	}
	if stood > patience {
		return leaseDead
	}
	return leaseUnknown
}

// damagedPatience is how long an owner whose name is not known has for its damaged record: it finds the damage within
// two seconds and writes the record anew.
func (s *successor) damagedPatience() time.Duration { return 3 * s.cfg.Lease }

// takeOver makes this coordinator the owner. Both results nil: another coordinator was faster.
func (s *successor) takeOver(ctx context.Context, rec wire.Record, rev uint64) (*batcher, *schema.Fault) {
	unlock, ok := s.claims.lock(ctx, rec.Batcher)
	if !ok {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, ctx.Err())
	}
	defer unlock()
	if b := s.actors.owner(rec.Batcher); b != nil {
		return b, nil
	}
	dead, handed := rec.Owner, rec.Handed
	rec.Owner, rec.Handed = s.cfg.Name, false
	if handed {
		rec.Unfed = byClock(rec.Unfed, time.Now())
	}
	died := !handed && (dead == s.cfg.Name || s.members.leases.state(dead) == leaseDead) // or it resigned
	poisoned := countTakeover(&rec, died, time.Now())
	rev, err := s.records.update(ctx, rec, rev)
	if errors.Is(err, errConflict) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, err)
	}
	s.process.takeovers.Add(1)
	s.directory.note(rec.Batcher, seen{rev: rev, owner: rec.Owner}, false, time.Now())
	s.log.Info("batcher taken over", "batcher", rec.Batcher, "gen", rec.Gen, "from", dead, "phase", rec.Phase)
	b := s.actors.adopt(rec, rev)
	why := "which left"
	if died {
		why = "which died"
	}
	s.tellBatcher(wire.Event{
		Name: rec.Batcher, Gen: rec.Gen, What: "taken over", Bad: died,
		Why: fmt.Sprintf("by coordinator %s, from coordinator %s, %s", s.cfg.Name, dead, why),
	})
	if poisoned {
		s.tellBatcher(wire.Event{
			Name: rec.Batcher, Gen: rec.Gen, What: "failed", Why: failureText(rec.Error), Bad: true,
		})
		s.log.Warn("batcher fails: its owners die", "batcher", rec.Batcher, "error", rec.Error.Message)
		s.actors.spawn(func() { s.discard(rec.Batcher, rec.Gen) })
	}
	return b, nil
}

// maxTakeovers is how many owners in a row may die before the batcher that they fed counts as the cause; an owner that
// lived for forgiven does not count.
const (
	maxTakeovers = 5
	forgiven     = 10 * time.Minute
)

// countTakeover counts, in the record of a batcher that is being taken over, owners that died one after the other
// without progress of the trainer. It fails the run, and reports so, when there were too many: what the data set does
// to its coordinators it would do to the next.
func countTakeover(rec *wire.Record, died bool, now time.Time) (poisoned bool) {
	if rec.Phase != schema.PhaseRunning || !died {
		return false
	}
	n := wire.Takeovers{Gen: rec.Gen, Taken: rec.Taken, At: now}
	if before := rec.Takeovers; before != nil && !before.Progressed(rec) && now.Sub(before.At) < forgiven {
		n.Count = before.Count
	}
	if n.Count++; n.Count <= maxTakeovers {
		rec.Takeovers = &n
		return false
	}
	rec.Phase, rec.Since, rec.Takeovers = schema.PhaseFailed, now, nil
	rec.Error = &schema.Fault{Code: schema.CodePoison, Gen: rec.Gen, Attempts: n.Count, Message: fmt.Sprintf(
		"%d coordinators in a row died while they fed batcher %s (data set %s), and the trainer came no further than %d",
		n.Count, rec.Batcher, rec.Spec.Dataset, rec.Taken)}
	return true
}

// bury removes the leases of dead coordinators, unless a record that this coordinator can take over still names one.
func (s *successor) bury(ctx context.Context) error {
	var failed error
	for id, rev := range s.members.leases.dead() {
		if id == s.cfg.Name || s.directory.names(id) {
			continue
		}
		err := s.records.kv.Purge(ctx, topology.CoordinatorKey(id), jetstream.LastRevision(rev))
		switch {
		case err == nil:
			s.tellCoordinator(id, "died", fmt.Sprintf("its lease stood still for over %v", s.cfg.Lease), true)
		case !topology.IsConflict(err):
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
