package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/topology"
)

// leaseState is what is known of another coordinator.
type leaseState int

const (
	leaseUnknown leaseState = iota // not watched for long enough
	leaseLive
	leaseDead
	leaseAbsent // there was none at the last look
)

// leases judges other coordinators by this process's monotonic clock alone: one is dead when its lease is gone, has
// stood at the same revision for the whole lease time, or when it lost its connection a while ago. While the bucket has
// no leader, leases can be neither renewed nor read, so that time does not count.
type leases struct {
	lease time.Duration

	mu     sync.Mutex
	at     time.Time            // of the last look
	listed time.Time            // when that look began: a lease that is older and not in it is gone
	seen   map[string]*sighting // nil until the first look
	gone   map[string]bool      // have no connection, by the last pings
	looked chan struct{}        // closed by the next look, and when another has gone
}

type sighting struct {
	revision uint64
	stood    time.Duration // for how long this revision has been seen
	moved    bool          // it has been seen to change, so it was alive then
}

func (l *leases) init(lease time.Duration) { l.lease, l.looked = lease, make(chan struct{}) }

func (l *leases) state(id string) leaseState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.seen[id]
	switch {
	case l.seen == nil:
		return leaseUnknown
	case !ok:
		return leaseAbsent
	case l.gone[id]:
		return leaseDead
	case s.stood+min(time.Since(l.at), 2*beat) > l.lease*11/12: // or the look that comes a moment early waits for the next
		return leaseDead
	case s.moved:
		return leaseLive
	}
	return leaseUnknown
}

// over reports whether an owner that a record named at a moment is dead now. An owner has its lease before its first
// batcher, so one whose lease was not listed after that moment has given it up.
func (l *leases) over(id string, named time.Time) bool {
	switch l.state(id) {
	case leaseDead:
		return true
	case leaseAbsent:
		l.mu.Lock()
		defer l.mu.Unlock()
		return named.Before(l.listed)
	}
	return false
}

// observe takes the leases that there are, as listed at a moment, and the revisions of those that were read. The time
// of a lease that was not read does not count.
func (l *leases) observe(listed time.Time, ids []string, revisions map[string]uint64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := min(now.Sub(l.at), 2*beat)
	seen := make(map[string]*sighting, len(ids))
	for _, id := range ids {
		before := l.seen[id]
		rev, read := revisions[id]
		switch {
		case !read && before != nil:
			seen[id] = before
		case before == nil || before.revision != rev:
			seen[id] = &sighting{revision: rev, moved: before != nil && before.revision != 0}
		default:
			seen[id] = &sighting{revision: rev, moved: before.moved, stood: before.stood + since}
		}
	}
	l.seen, l.at, l.listed = seen, now, listed
	l.wakeLocked()
}

// disconnected takes the coordinators that count as dead since they have no connection, until the next call, and
// returns those that did not before.
func (l *leases) disconnected(gone map[string]bool) (news []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range gone {
		if !l.gone[id] {
			news = append(news, id)
		}
	}
	l.gone = gone
	if news != nil {
		l.wakeLocked()
	}
	return news
}

func (l *leases) wakeLocked() {
	close(l.looked)
	l.looked = make(chan struct{})
}

// known lists the coordinators that have a lease, this one included.
func (l *leases) known() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.seen))
}

// next returns a channel that is closed by the next look, and when another coordinator has gone.
func (l *leases) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looked
}

// dead lists the leases that have stood long enough for every other coordinator to have seen it, too.
func (l *leases) dead() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	dead := make(map[string]uint64)
	for id, s := range l.seen {
		if s.stood > 2*l.lease {
			dead[id] = s.revision
		}
	}
	return dead
}

// leaseOf is the state of an owner's lease. This coordinator asks about itself only where it has no actor, so it has
// let go of the batcher. An owner that is not known may have begun since the last look.
func (c *Coordinator) leaseOf(ctx context.Context, owner string) leaseState {
	if owner == c.cfg.Name {
		return leaseDead
	}
	state := c.leases.state(owner)
	if state != leaseAbsent {
		return state
	}
	_, _, err := topology.Get(ctx, c.records.stream, topology.CoordinatorKey(owner))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return leaseDead
	}
	return leaseUnknown
}

// renews renews this coordinator's lease every second until ctx ends. Nothing else is done here: another coordinator
// takes the batchers of one that is late.
func (c *Coordinator) renews(ctx context.Context) {
	spell := spell{log: c.log, line: &c.line, begins: "lease not renewed", ends: "lease renewed again"}
	c.every(ctx, beat, &c.pulse.renews, func() {
		if err := c.renew(ctx); err == nil || ctx.Err() == nil {
			spell.note(err, time.Now())
		}
	})
}

// judges looks at the other coordinators' leases every second until ctx ends. The work is bounded by their number.
func (c *Coordinator) judges(ctx context.Context) {
	spell := spell{log: c.log, line: &c.line, begins: "leases not read", ends: "leases read again"}
	c.every(ctx, beat, &c.pulse.judges, func() {
		if err := c.judge(ctx); err == nil || ctx.Err() == nil {
			spell.note(err, time.Now())
		}
	})
}

// spell logs a failure that is tried again and again once, and its end. One goroutine uses it. It begins no sooner than
// the connection is there.
type spell struct {
	log          *slog.Logger
	line         *line
	begins, ends string
	since        time.Time // zero while all is well
}

// note takes how one attempt went.
func (s *spell) note(err error, now time.Time) {
	switch {
	case err != nil && s.since.IsZero() && !s.line.away(now):
		s.since = now
		s.log.Warn(s.begins, "error", err)
	case err == nil && !s.since.IsZero():
		s.log.Info(s.ends, "after", now.Sub(s.since).Round(time.Second))
		s.since = time.Time{}
	}
}

// renew writes this coordinator's lease. After a pause in which others may have thought it dead, its own records are
// read at once.
func (c *Coordinator) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := c.kv.Put(ctx, topology.CoordinatorKey(c.cfg.Name), strconv.AppendInt(nil, time.Now().UnixMilli(), 10))
	if err != nil {
		c.process.failures.Add(1)
		return err
	}
	if late := c.leaseAge(); late > 3*beat/2 && late > c.cfg.Lease*2/3 {
		c.directory.doubt(c.all())
	}
	c.process.renewed.Store(time.Now().UnixNano())
	return nil
}

// resign gives up the lease, so that another coordinator need not wait for it to run out.
func (c *Coordinator) resign() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), callTimeout)
	defer cancel()
	if err := c.kv.Purge(ctx, topology.CoordinatorKey(c.cfg.Name)); err != nil {
		c.log.Warn("lease not given up", "error", err)
		return
	}
	c.tellCoordinator(c.cfg.Name, "left", "", false)
}

// judge looks at all leases once.
func (c *Coordinator) judge(ctx context.Context) error {
	listing, cancel := context.WithTimeout(ctx, askTimeout) // without a leader the answer never comes
	defer cancel()
	listed := time.Now()
	ids, err := c.records.names(listing, topology.CoordinatorKey(""))
	if errors.Is(err, jetstream.ErrStreamNotFound) { // the store was wiped: make it again, readers do the rest
		return errors.Join(c.ensure(ctx), c.renew(ctx))
	}
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, 2*askTimeout)
	defer stop()
	slices.Sort(ids)
	var mu sync.Mutex
	revisions := make(map[string]uint64, len(ids))
	var given []string // up
	var group errgroup.Group
	group.SetLimit(parallelReads)
	for _, id := range c.some(ids) {
		group.Go(func() error {
			_, rev, err := topology.Get(ctx, c.records.stream, topology.CoordinatorKey(id))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, jetstream.ErrKeyNotFound):
				given = append(given, id)
			case err != nil && !errors.Is(err, topology.ErrForged):
				return err
			default: // a lease that was written over is not given up: its owner writes it again within a second
				revisions[id] = rev
			}
			return nil
		})
	}
	err = group.Wait()
	ids = slices.DeleteFunc(ids, func(id string) bool { return slices.Contains(given, id) })
	c.leases.observe(listed, ids, revisions, time.Now())
	for _, id := range given {
		err = errors.Join(err, c.records.sweep(ctx, topology.CoordinatorKey(id)))
	}
	return err
}

// some are the leases that are read in this round: all of them, or in turn as many as fit.
func (c *Coordinator) some(ids []string) []string {
	if len(ids) <= maxLeases {
		return ids
	}
	c.turn = (c.turn + maxLeases) % len(ids)
	return append(slices.Clone(ids[c.turn:]), ids[:c.turn]...)[:maxLeases]
}

// bury removes the leases of dead coordinators, unless a record that this coordinator can take over still names one.
func (c *Coordinator) bury(ctx context.Context) error {
	var failed error
	for id, rev := range c.leases.dead() {
		if id == c.cfg.Name || c.directory.names(id) {
			continue
		}
		err := c.kv.Purge(ctx, topology.CoordinatorKey(id), jetstream.LastRevision(rev))
		switch {
		case err == nil:
			c.tellCoordinator(id, "died", fmt.Sprintf("its lease stood still for over %v", c.cfg.Lease), true)
		case !topology.IsConflict(err):
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
