package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// leaseState is what is known of another coordinator.
type leaseState int

const (
	leaseUnknown leaseState = iota // not watched for long enough
	leaseLive
	leaseDead
)

// leases judges other coordinators by this process's monotonic clock alone: one is dead when its lease is
// gone, or has stood at the same revision for the whole lease time.
type leases struct {
	lease time.Duration

	mu   sync.Mutex
	seen map[string]sighting // nil until the first scan
}

type sighting struct {
	revision uint64
	changed  time.Time // when this revision was first seen
	moved    bool      // it has been seen to change, so it was alive then
}

func (l *leases) init(lease time.Duration) { l.lease = lease }

func (l *leases) state(id string) leaseState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.seen[id]
	switch {
	case l.seen == nil:
		return leaseUnknown
	case !ok, time.Since(s.changed) > l.lease:
		return leaseDead
	case s.moved:
		return leaseLive
	}
	return leaseUnknown
}

// observe takes the revisions of all leases there are.
func (l *leases) observe(revisions map[string]uint64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := make(map[string]sighting, len(revisions))
	for id, rev := range revisions {
		s, ok := l.seen[id]
		if !ok || s.revision != rev {
			s = sighting{revision: rev, changed: now, moved: ok}
		}
		seen[id] = s
	}
	l.seen = seen
}

// leaseOf is the state of an owner's lease. What this coordinator owns and has no actor for, it let go of.
func (c *Coordinator) leaseOf(owner string) leaseState {
	if owner == c.cfg.Name {
		return leaseDead
	}
	return c.leases.state(owner)
}

// renew writes this coordinator's lease.
func (c *Coordinator) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.kv.Put(ctx, topology.CoordinatorKey(c.cfg.Name), strconv.AppendInt(nil, time.Now().UnixMilli(), 10))
	return err
}

// resign gives up the lease, so that another coordinator need not wait for it to run out.
func (c *Coordinator) resign() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), callTimeout)
	defer cancel()
	if err := c.kv.Purge(ctx, topology.CoordinatorKey(c.cfg.Name)); err != nil {
		c.log.Warn("lease not given up", "error", err)
	}
}

// scan looks at all leases and takes over the batchers of dead coordinators.
func (c *Coordinator) scan(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	batchers, coordinators, err := c.keys(ctx)
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) { // the store was wiped: make it again, readers do the rest
			return c.prepareOnce(ctx)
		}
		return err
	}
	revisions := make(map[string]uint64, len(coordinators))
	for _, id := range coordinators {
		entry, err := c.kv.Get(ctx, topology.CoordinatorKey(id))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // gave up its lease
		}
		if err != nil {
			return err
		}
		revisions[id] = entry.Revision()
	}
	c.leases.observe(revisions, time.Now())
	for _, name := range batchers {
		if c.owner(name) != nil {
			continue
		}
		rec, rev, err := c.read(ctx, name)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if c.leaseOf(rec.Owner) == leaseDead && c.kinds[rec.Spec.Dataset] != nil {
			if _, fault := c.takeOver(ctx, rec, rev); fault != nil {
				c.log.Warn("batcher not taken over", "batcher", name, "error", fault.Message)
			}
		}
	}
	for id := range revisions {
		if id != c.cfg.Name && c.leases.state(id) == leaseDead {
			if err := c.kv.Purge(ctx, topology.CoordinatorKey(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keys lists the bucket's keys with one request, which reads no values and makes no consumer.
func (c *Coordinator) keys(ctx context.Context) (batchers, coordinators []string, err error) {
	prefix := "$KV." + topology.Bucket + "."
	info, err := c.records.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, nil, err
	}
	for subject := range info.State.Subjects {
		batcher, coordinator := topology.ParseKey(strings.TrimPrefix(subject, prefix))
		switch {
		case batcher != "":
			batchers = append(batchers, batcher)
		case coordinator != "":
			coordinators = append(coordinators, coordinator)
		}
	}
	return batchers, coordinators, nil
}

// collect deletes generations that no record names. Streams are listed before records are read: a
// generation is in its record before its stream is made, so one that is listed and not named is over.
func (c *Coordinator) collect(ctx context.Context) error {
	lister := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(schema.ResultPrefix+".>"))
	var names []string
	for name := range lister.Name() {
		names = append(names, name)
	}
	if err := lister.Err(); err != nil {
		return err
	}
	for _, name := range names {
		batcher, gen, ok := topology.ParseResultsStream(name)
		if !ok {
			continue
		}
		rec, _, err := c.read(ctx, batcher)
		if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return err
		}
		if err == nil && rec.Gen == gen {
			continue
		}
		if err := topology.DeleteGeneration(ctx, c.js, batcher, gen); err != nil {
			return fmt.Errorf("collect: %w", err)
		}
		c.log.Info("generation collected", "batcher", batcher, "gen", gen)
	}
	return nil
}
