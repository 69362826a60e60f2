package coordinator

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// directory remembers the records: of each, the owner that it named when it was last read. A record of a dead owner is
// read at once, the others in rotation. A large one is read rarely, since most of it is the data set's parameters,
// which do not change.
type directory struct {
	mu      sync.Mutex
	entries map[string]*entry
}

// entry is one record as it was read last.
type entry struct {
	read    time.Time // zero: not yet, or to be read at once
	rev     uint64
	size    int
	owner   string // as last known: a damaged record names none
	damaged bool
	since   time.Time // when this revision was read first

	stray   string        // why no coordinator can take the batcher over; empty when one can
	strayed time.Time     // when it was found to be a stray
	idle    time.Time     // when its reader was last heard, or when it strayed
	lasts   time.Duration // until a stray without a reader is collected
	status  schema.Status // of a stray
}

// seen is the outcome of reading a record.
type seen struct {
	rev   uint64
	size  int
	owner string
}

// list takes the names of all records, and forgets the records that are gone.
func (d *directory) list(names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries := make(map[string]*entry, len(names))
	for _, name := range names {
		if e := d.entries[name]; e != nil {
			entries[name] = e
		} else {
			entries[name] = new(entry)
		}
	}
	d.entries = entries
}

// knows reports whether there was a record of that name lately.
func (d *directory) knows(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entries[name] != nil
}

// due lists the records to read now: all those of dead owners first, new ones next, and then the records that were read
// longest ago. count and bytes bound all but the first group.
func (d *directory) due(now time.Time, dead func(owner string, read time.Time) bool) (names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var orphans, others []string
	for name, e := range d.entries {
		switch {
		case !e.read.IsZero() && e.stray == "" && !e.damaged && dead(e.owner, e.read):
			orphans = append(orphans, name)
		case now.Sub(e.read) >= e.rest():
			others = append(others, name)
		}
	}
	slices.SortFunc(others, func(a, b string) int {
		return cmp.Or(d.entries[a].read.Compare(d.entries[b].read), cmp.Compare(a, b))
	})
	count, bytes := 0, 0
	for _, name := range others {
		if count++; count > readsPerBeat || bytes > bytesPerBeat {
			break
		}
		bytes += d.entries[name].size
		orphans = append(orphans, name)
	}
	return orphans
}

// rest is how long a record is left alone after it was read.
func (e *entry) rest() time.Duration {
	if e.damaged {
		return beat * 9 / 10 // its size says nothing of parameters
	}
	return beat*9/10 + time.Duration(e.size)*time.Second/bytesPerRecord
}

// note takes a record as it was read, and returns when this revision was read first.
func (d *directory) note(name string, s seen, damaged bool, now time.Time) (since time.Time, owner string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil {
		if d.entries == nil {
			d.entries = make(map[string]*entry)
		}
		e = new(entry)
		d.entries[name] = e
	}
	if e.rev != s.rev || e.since.IsZero() {
		e.since = now
	}
	e.read, e.rev, e.size, e.damaged = now, s.rev, s.size, damaged
	if !damaged {
		e.owner = s.owner
	}
	return e.since, e.owner
}

// stray notes that no coordinator known here can take the batcher over, and reports whether it has been without a
// reader for its idle timeout.
func (d *directory) stray(name, why string, status schema.Status, lasts time.Duration, now time.Time) (over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil {
		return false
	}
	if e.stray == "" {
		e.strayed, e.idle = now, now
	}
	e.stray, e.status, e.lasts = why, status, lasts
	return now.Sub(e.idle) >= lasts
}

// found notes that a record is no stray.
func (d *directory) found(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.entries[name]; e != nil {
		e.stray = ""
	}
}

// heard notes that a reader lives. It counts for a stray, which has no owner to hear it.
func (d *directory) heard(name, reader string, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.entries[name]; e != nil && e.stray != "" && e.status.Reader == reader {
		e.idle = now
	}
}

// strays returns the status of the batchers that no coordinator can take over. A stray is shown after a few beats,
// within which any coordinator that can would have taken it over.
func (d *directory) strays(now time.Time, patience time.Duration) []schema.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	var strays []schema.Status
	for _, e := range d.entries {
		if e.stray != "" && now.Sub(e.strayed) > patience && len(strays) < maxStrays {
			strays = append(strays, e.shown(now))
		}
	}
	return strays
}

// shown is the status of a stray, for people. d.mu is held.
func (e *entry) shown(now time.Time) schema.Status {
	s := e.status
	s.Waiting, s.IdleFor = e.stray, now.Sub(e.idle)
	return s
}

// strayOf returns the status of a stray, and false for any other batcher.
func (d *directory) strayOf(name string, now time.Time) (status schema.Status, left time.Duration, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil || e.stray == "" {
		return status, 0, false
	}
	return e.shown(now), max(e.lasts-now.Sub(e.idle), 0), true
}

// isStray reports whether no coordinator can take a batcher over.
func (d *directory) isStray(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	return e != nil && e.stray != ""
}

// forget drops a record that is gone.
func (d *directory) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.entries, name)
}

// doubt has the records of these batchers read at once: another coordinator may have taken them.
func (d *directory) doubt(all []*batcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range all {
		if e := d.entries[b.name]; e != nil {
			e.read = time.Time{}
		}
	}
}

// names reports whether a record names an owner and can be taken over.
func (d *directory) names(owner string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.entries {
		if e.owner == owner && e.stray == "" {
			return true
		}
	}
	return false
}

// len is how many records there are.
func (d *directory) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.entries)
}
