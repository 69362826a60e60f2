package coordinator

import (
	"maps"
	"slices"
	"sync"
	"time"
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

func newLeases(lease time.Duration) *leases {
	return &leases{lease: lease, looked: make(chan struct{})}
}

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
