package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/topology"
)

// membership says which other coordinators live, and says to them that this one does.
type membership struct {
	*site
	leases  *leases
	callers *callers
	doubt   func() // the records of this coordinator are read again: others may have thought it dead
	turn    int    // of leases that do not fit one look, by judges
}

// leaseOf is the state of an owner's lease. This coordinator asks about itself only where it has no actor, so it has
// let go of the batcher. An owner that is not known may have begun since the last look.
func (m *membership) leaseOf(ctx context.Context, owner string) leaseState {
	if owner == m.cfg.Name {
		return leaseDead
	}
	state := m.leases.state(owner)
	if state != leaseAbsent {
		return state
	}
	_, _, err := topology.Get(ctx, m.records.stream, topology.CoordinatorKey(owner))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return leaseDead
	}
	return leaseUnknown
}

// renews renews this coordinator's lease every second until ctx ends. Nothing else is done here: another coordinator
// takes the batchers of one that is late.
func (m *membership) renews(ctx context.Context) {
	spell := spell{log: m.log, line: &m.line, begins: "lease not renewed", ends: "lease renewed again"}
	m.every(ctx, beat, &m.pulse.renews, func() {
		if err := m.renew(ctx); err == nil || ctx.Err() == nil {
			spell.note(err, time.Now())
		}
	})
}

// judges looks at the other coordinators' leases every second until ctx ends. The work is bounded by their number.
func (m *membership) judges(ctx context.Context) {
	spell := spell{log: m.log, line: &m.line, begins: "leases not read", ends: "leases read again"}
	m.every(ctx, beat, &m.pulse.judges, func() {
		if err := m.judge(ctx); err == nil || ctx.Err() == nil {
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

// leaseAge is how long ago this coordinator's lease was renewed.
func (m *membership) leaseAge() time.Duration {
	return max(time.Since(time.Unix(0, m.process.renewed.Load())), 0)
}

// renew writes this coordinator's lease. After a pause in which others may have thought it dead, its own records are
// read at once.
func (m *membership) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := m.records.kv.Put(ctx, topology.CoordinatorKey(m.cfg.Name), strconv.AppendInt(nil, time.Now().UnixMilli(), 10))
	if err != nil {
		m.process.failures.Add(1)
		return err
	}
	if late := m.leaseAge(); late > 3*beat/2 && late > m.cfg.Lease*2/3 {
		m.doubt()
	}
	m.process.renewed.Store(time.Now().UnixNano())
	return nil
}

// resign gives up the lease, so that another coordinator need not wait for it to run out.
func (m *membership) resign() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), callTimeout)
	defer cancel()
	if err := m.records.kv.Purge(ctx, topology.CoordinatorKey(m.cfg.Name)); err != nil {
		m.log.Warn("lease not given up", "error", err)
		return
	}
	m.tellCoordinator(m.cfg.Name, "left", "", false)
}

// judge looks at all leases once.
func (m *membership) judge(ctx context.Context) error {
	listing, cancel := context.WithTimeout(ctx, askTimeout) // without a leader the answer never comes
	defer cancel()
	listed := time.Now()
	ids, err := m.records.names(listing, topology.CoordinatorKey(""))
	if errors.Is(err, jetstream.ErrStreamNotFound) { // the store was wiped: make it again, readers do the rest
		return errors.Join(m.ensure(ctx), m.renew(ctx))
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
	for _, id := range m.some(ids) {
		group.Go(func() error {
			_, rev, err := topology.Get(ctx, m.records.stream, topology.CoordinatorKey(id))
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
	m.leases.observe(listed, ids, revisions, time.Now())
	for _, id := range given {
		err = errors.Join(err, m.records.sweep(ctx, topology.CoordinatorKey(id)))
	}
	return err
}

// some are the leases that are read in this round: all of them, or in turn as many as fit.
func (m *membership) some(ids []string) []string {
	if len(ids) <= maxLeases {
		return ids
	}
	m.turn = (m.turn + maxLeases) % len(ids)
	return append(slices.Clone(ids[m.turn:]), ids[:m.turn]...)[:maxLeases]
}
