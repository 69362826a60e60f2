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

// reads reads records until ctx ends, at a pace that their number and size do not change, and takes over the batchers
// of dead coordinators. It waits for JetStream, which the goroutines of leases must not do here.
func (c *Coordinator) reads(ctx context.Context) {
	for ctx.Err() == nil {
		looked := c.leases.next()
		c.pulse.reads.Store(time.Now().UnixNano())
		if err := c.scan(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("records not read", "error", err)
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
func (c *Coordinator) scan(ctx context.Context) error {
	if now := time.Now(); now.Sub(c.listed) >= time.Duration(c.directory.len())*listPerName {
		c.listed = now
		listing, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		names, err := c.records.names(listing, topology.BatcherKey(""))
		if err != nil {
			return err
		}
		c.directory.list(names)
	}
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(parallelReads)
	for _, name := range c.directory.due(time.Now(), c.lost) {
		group.Go(func() error {
			c.pulse.reads.Store(time.Now().UnixNano())
			err := c.look(within, name)
			if err != nil && !unanswered(err) {
				c.log.Warn("record not looked at", "batcher", name, "error", err)
				return nil // it is one record's fault; the others are read
			}
			return err // the server does not answer: the rest of this round would wait as long
		})
	}
	return errors.Join(group.Wait(), c.bury(ctx))
}

// lost reports whether an owner that a record named at a moment has no batchers any more.
func (c *Coordinator) lost(owner string, named time.Time) bool {
	return owner != c.cfg.Name && c.leases.over(owner, named)
}

// look reads one record: its batcher is taken over when its owner is dead, and an actor whose record names another
// owner ends.
func (c *Coordinator) look(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	b := c.owner(name)
	rec, rev, size, err := c.records.readSized(ctx, name)
	var damaged *damagedError
	switch {
	case errors.Is(err, errNoRecord):
		c.directory.forget(name)
		return c.records.sweep(ctx, topology.BatcherKey(name))
	case errors.As(err, &damaged):
		return c.lookDamaged(ctx, b, size, damaged)
	case err != nil:
		return err
	}
	c.directory.note(name, seen{rev, size, rec.Owner}, false, time.Now())
	if b != nil {
		c.directory.found(name)
		if rec.Owner != c.cfg.Name {
			// Read after the actor began, so another coordinator thought this one dead: without credits to save, the
			// actor would never find out.
			b.hint(func() { b.depose(rec.Owner) })
		}
		return nil
	}
	switch c.leaseOf(ctx, rec.Owner) {
	case leaseLive:
		c.directory.found(name)
	case leaseDead:
		if c.passOn(ctx, rec, rev) != "" {
			return nil
		}
		if why := c.unfit(&rec); why != "" {
			return c.lookStray(ctx, rec, rev, why)
		}
		if _, fault := c.takeOver(ctx, rec, rev); fault != nil {
			return fault
		}
		c.directory.found(name)
	}
	return nil
}

// lookDamaged has the owner write a damaged record anew. Without an owner it is a stray, until a request begins a new
// record in its place.
func (c *Coordinator) lookDamaged(ctx context.Context, b *batcher, size int, d *damagedError) error {
	now := time.Now()
	since, owner := c.directory.note(d.batcher, seen{rev: d.revision, size: size}, true, now)
	if b != nil {
		c.directory.found(d.batcher)
		b.hint(b.mend)
		return nil
	}
	if since.Equal(now) {
		c.log.Warn("damaged record", "batcher", d.batcher, "error", d.cause)
	}
	if c.damagedOwner(ctx, owner, since) != leaseDead {
		return nil
	}
	status := schema.Status{Batcher: d.batcher, Phase: schema.PhaseStopped, Owner: owner}
	if c.directory.stray(d.batcher, d.Error(), status, DefaultIdleTimeout, now) {
		return c.removeStray(ctx, d.batcher, d.revision)
	}
	return nil
}

// damagedOwner is the state of the owner of a record that has been damaged since a moment. A living owner writes the
// record anew before long, so a record that stays damaged has no owner, even if the coordinator last known for it
// lives.
func (c *Coordinator) damagedOwner(ctx context.Context, owner string, since time.Time) leaseState {
	stood, patience := time.Since(since), c.damagedPatience()
	if owner != "" {
		if state := c.leaseOf(ctx, owner); state != leaseLive || stood <= 10*patience {
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
func (c *Coordinator) damagedPatience() time.Duration { return 3 * c.cfg.Lease }

// takeOver makes this coordinator the owner. Both results nil: another coordinator was faster.
func (c *Coordinator) takeOver(ctx context.Context, rec wire.Record, rev uint64) (*batcher, *schema.Fault) {
	unlock, ok := c.claims.lock(ctx, rec.Batcher)
	if !ok {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, ctx.Err())
	}
	defer unlock()
	if b := c.owner(rec.Batcher); b != nil {
		return b, nil
	}
	dead, handed := rec.Owner, rec.Handed
	rec.Owner, rec.Handed = c.cfg.Name, false
	if handed {
		rec.Unfed = byClock(rec.Unfed, time.Now())
	}
	died := !handed && (dead == c.cfg.Name || c.leases.state(dead) == leaseDead) // or it resigned
	poisoned := countTakeover(&rec, died, time.Now())
	rev, err := c.records.update(ctx, rec, rev)
	if errors.Is(err, errConflict) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, err)
	}
	c.process.takeovers.Add(1)
	c.directory.note(rec.Batcher, seen{rev: rev, owner: rec.Owner}, false, time.Now())
	c.log.Info("batcher taken over", "batcher", rec.Batcher, "gen", rec.Gen, "from", dead, "phase", rec.Phase)
	b := c.adopt(rec, rev)
	why := "which left"
	if died {
		why = "which died"
	}
	c.tellBatcher(wire.Event{
		Name: rec.Batcher, Gen: rec.Gen, What: "taken over", Bad: died,
		Why: fmt.Sprintf("by coordinator %s, from coordinator %s, %s", c.cfg.Name, dead, why),
	})
	if poisoned {
		c.tellBatcher(wire.Event{Name: rec.Batcher, Gen: rec.Gen, What: "failed", Why: failureText(rec.Error), Bad: true})
		c.log.Warn("batcher fails: its owners die", "batcher", rec.Batcher, "error", rec.Error.Message)
		c.spawn(func() { c.discard(rec.Batcher, rec.Gen) })
	}
	return b, nil
}

// discard deletes a generation that is over. A failure is the collector's.
func (c *Coordinator) discard(batcher, gen string) {
	ctx, cancel := c.call(callTimeout)
	defer cancel()
	if err := topology.DeleteGeneration(ctx, c.js, batcher, gen); err != nil && ctx.Err() == nil {
		c.log.Warn("generation not deleted yet", "batcher", batcher, "gen", gen, "error", err)
	}
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
