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
	"github.com/jetbatch/jetbatch/internal/wire"
)

// leaseState is what is known of another coordinator.
type leaseState int

const (
	leaseUnknown leaseState = iota // not watched for long enough
	leaseLive
	leaseDead
	leaseAbsent // there was none at the last scan
)

// leases judges other coordinators by this process's monotonic clock alone: one is dead when its lease is
// gone, or has stood at the same revision for the whole lease time. While the bucket has no leader nobody can
// renew a lease and nobody can look, so that time does not count.
type leases struct {
	lease time.Duration

	mu   sync.Mutex
	at   time.Time           // of the last scan
	seen map[string]sighting // nil until the first scan
}

type sighting struct {
	revision uint64
	stood    time.Duration // for how long this revision has been seen
	moved    bool          // it has been seen to change, so it was alive then
}

func (l *leases) init(lease time.Duration) { l.lease = lease }

func (l *leases) state(id string) leaseState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.seen[id]
	switch {
	case l.seen == nil:
		return leaseUnknown
	case !ok:
		return leaseAbsent
	case s.stood+min(time.Since(l.at), 2*beat) > l.lease*11/12: // or the scan that comes a moment early waits for the next
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
	since := min(now.Sub(l.at), 2*beat)
	seen := make(map[string]sighting, len(revisions))
	for id, rev := range revisions {
		s, ok := l.seen[id]
		s.stood += since
		if !ok || s.revision != rev {
			s = sighting{revision: rev, moved: ok}
		}
		seen[id] = s
	}
	l.seen, l.at = seen, now
}

// leaseOf is the state of an owner's lease. What this coordinator owns and has no actor for, it let go of. An owner
// that is not known may have begun since the last scan, and has its lease before its first batcher.
func (c *Coordinator) leaseOf(ctx context.Context, owner string) leaseState {
	if owner == c.cfg.Name {
		return leaseDead
	}
	state := c.leases.state(owner)
	if state != leaseAbsent {
		return state
	}
	if _, err := c.kv.Get(ctx, topology.CoordinatorKey(owner)); errors.Is(err, jetstream.ErrKeyNotFound) {
		return leaseDead
	}
	return leaseUnknown
}

// renew writes this coordinator's lease.
func (c *Coordinator) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	_, err := c.kv.Put(ctx, topology.CoordinatorKey(c.cfg.Name), strconv.AppendInt(nil, time.Now().UnixMilli(), 10))
	if err != nil {
		c.process.failures.Add(1)
		return err
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
	}
}

// scan looks at all leases and takes over the batchers of dead coordinators.
func (c *Coordinator) scan(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	batchers, coordinators, err := c.keys(ctx)
	if err != nil {
		if errors.Is(err, jetstream.ErrStreamNotFound) { // the store was wiped: make it again, readers do the rest
			return errors.Join(c.ensure(ctx), c.renew(ctx))
		}
		return err
	}
	revisions := make(map[string]uint64, len(coordinators))
	for _, id := range coordinators {
		entry, err := c.kv.Get(ctx, topology.CoordinatorKey(id))
		if errors.Is(err, jetstream.ErrKeyNotFound) { // gave up its lease
			if err := c.sweep(ctx, topology.CoordinatorKey(id)); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		revisions[id] = entry.Revision()
	}
	c.leases.observe(revisions, time.Now())
	for _, name := range batchers {
		b := c.owner(name)
		rec, rev, err := c.read(ctx, name)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			if err := c.sweep(ctx, topology.BatcherKey(name)); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case b != nil && rec.Owner != c.cfg.Name:
			// Read after the actor began, so somebody thought this coordinator dead: without credits to save, the actor
			// would never find out.
			b.hint(func() { b.depose(rec.Owner) })
		case b == nil && c.kinds[rec.Spec.Dataset] != nil && c.leaseOf(ctx, rec.Owner) == leaseDead:
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

// sweep removes the marker that a deletion leaves, which would be listed and read every second from then on. A value
// that was written meanwhile has a later sequence number and stays.
func (c *Coordinator) sweep(ctx context.Context, key string) error {
	subject := bucketPrefix + key
	m, err := c.records.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // another coordinator was faster
	}
	if err != nil {
		return err
	}
	if m.Header.Get("KV-Operation") == "" {
		return nil // it is there again
	}
	return c.records.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(m.Sequence+1))
}

// bucketPrefix is what the subjects of the bucket's stream begin with.
const bucketPrefix = "$KV." + topology.Bucket + "."

// keys lists the bucket's keys with one request, which reads no values and makes no consumer.
func (c *Coordinator) keys(ctx context.Context) (batchers, coordinators []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout) // while the bucket has no leader, leases must be tried again
	defer cancel()
	info, err := c.records.Info(ctx, jetstream.WithSubjectFilter(bucketPrefix+">"))
	if err != nil {
		return nil, nil, err
	}
	for subject := range info.State.Subjects {
		batcher, coordinator := topology.ParseKey(strings.TrimPrefix(subject, bucketPrefix))
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
	stored, err := c.generations(ctx)
	if err != nil {
		return err
	}
	for g := range stored {
		rec, _, err := c.read(ctx, g.batcher)
		if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
			return err
		}
		if err == nil && rec.Gen == g.gen {
			continue
		}
		if err := topology.DeleteGeneration(ctx, c.js, g.batcher, g.gen); err != nil {
			return fmt.Errorf("collect: %w", err)
		}
		c.log.Info("generation collected", "batcher", g.batcher, "gen", g.gen)
	}
	return nil
}

// storedGeneration names a generation that something is stored of.
type storedGeneration struct{ batcher, gen string }

// parseConsumer is the inverse of topology.Consumer; generations have no '-'.
func parseConsumer(name string) (batcher, gen string, ok bool) {
	prefix, _, _ := strings.Cut(topology.Consumer("", ""), "-")
	rest, ok := strings.CutPrefix(name, prefix+"-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 1 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// generations lists what has a store of results, or jobs: a store in memory may be gone, and a job of a deposed
// owner may have come, after the generation was deleted.
func (c *Coordinator) generations(ctx context.Context) (map[storedGeneration]bool, error) {
	stored := make(map[storedGeneration]bool)
	lister := c.js.StreamNames(ctx, jetstream.WithStreamListSubject(wire.ResultPrefix+".>"))
	for name := range lister.Name() {
		if batcher, gen, ok := topology.ParseResultsStream(name); ok {
			stored[storedGeneration{batcher, gen}] = true
		}
	}
	if err := lister.Err(); err != nil {
		return nil, err
	}
	jobs, err := c.js.Stream(ctx, topology.JobsStream)
	if err != nil {
		return nil, err
	}
	consumers := jobs.ConsumerNames(ctx)
	for name := range consumers.Name() {
		if batcher, gen, ok := parseConsumer(name); ok {
			stored[storedGeneration{batcher, gen}] = true
		}
	}
	if err := consumers.Err(); err != nil {
		return nil, err
	}
	info, err := jobs.Info(ctx, jetstream.WithSubjectFilter(wire.JobPrefix+".>"))
	if err != nil {
		return nil, err
	}
	for subject := range info.State.Subjects {
		if _, batcher, gen, _, _, err := wire.ParseJobSubject(subject); err == nil {
			stored[storedGeneration{batcher, gen}] = true
		}
	}
	return stored, nil
}
