package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// An opened data set is the author's code, so that opening one may take for ever. The owner asks for it, answers the
// requests that wait for it with how long it has been under way, and goes on with everything else.

// openPatience is how long a request waits for a data set that is being opened, until it is told so.
const openPatience = 2 * time.Second

// data is a data set that is open, or under way.
type data struct {
	serial uint64
	key    wire.Digest // of its Spec
	since  time.Time   // when the opening began
	open   bool
	fault  *schema.Fault // why it could not be opened; it is forgotten once it is told

	origin     string // of its parameters and data; empty for unknown
	verifiable bool
	reopened   *data // the same, opened anew to see whether the data changed; nil for none

	comparing   string // the origin that it is, or was, compared with; empty for none
	differences []string

	beginning bool // its first state is asked for
	first     []byte
	noFirst   *schema.Fault
}

// datasets are the data sets that are open, or under way: one for each spec.
type datasets struct {
	out    *effects
	all    []*data
	serial uint64 // of the last one
}

// of returns the data set of a spec, and asks for it to be opened unless it is known. Its open may be false yet.
func (s *datasets) of(now time.Time, spec wire.Spec, key wire.Digest) *data {
	for _, d := range s.all {
		if d.key == key {
			return d
		}
	}
	d := s.ask(now, spec, key)
	s.all = append(s.all, d)
	return d
}

// ask has a data set opened.
func (s *datasets) ask(now time.Time, spec wire.Spec, key wire.Digest) *data {
	s.serial++
	s.out.emit(Open{s.serial, spec})
	return &data{serial: s.serial, key: key, since: now}
}

// opened ends an Open, and reports whether the data set is wanted still.
func (s *datasets) opened(e Opened) bool {
	for _, d := range s.all {
		if d.reopened != nil && d.reopened.serial == e.Serial {
			d = d.reopened
		}
		if d.serial == e.Serial {
			d.open, d.fault, d.origin, d.verifiable = e.Fault == nil, e.Fault, e.Origin, e.Verifiable
			return true
		}
	}
	if e.Fault == nil {
		s.out.emit(Release{e.Serial})
	}
	return false
}

// retain releases the data sets that keep does not name.
func (s *datasets) retain(keep func(*data) bool) {
	kept := s.all[:0:0]
	for _, d := range s.all {
		if keep(d) {
			kept = append(kept, d)
			continue
		}
		for _, old := range []*data{d, d.reopened} {
			if old != nil && old.open { // else it is released when it has opened
				s.out.emit(Release{old.serial})
			}
		}
	}
	s.all = kept
}

// releaseOthers releases every data set but that of a key.
func (s *datasets) releaseOthers(key wire.Digest) {
	s.retain(func(d *data) bool { return d.key == key })
}

// release gives up one data set.
func (s *datasets) release(gone *data) {
	s.retain(func(d *data) bool { return d != gone })
}

// releaseAll gives up all.
func (s *datasets) releaseAll() {
	s.retain(func(*data) bool { return false })
}

// failed returns why a data set could not be opened, and forgets it: the next request tries again. Nil: it is open, or
// under way.
func (s *datasets) failed(d *data) *schema.Fault {
	if d.fault != nil {
		s.release(d)
	}
	return d.fault
}

// opening says for how long a data set has been under way.
func (d *data) opening(now time.Time, spec wire.Spec) *schema.Fault {
	return unavailable("data set %s is being opened since %v", spec.Dataset, now.Sub(d.since).Round(100*time.Millisecond))
}

// firstKnown takes the answer to a FirstState.
func (s *datasets) firstKnown(e FirstKnown) {
	for _, d := range s.all {
		if d.serial == e.Serial {
			d.beginning, d.first, d.noFirst = false, e.State, e.Fault
		}
	}
}

// first returns a data set's first state. Both results nil: it is asked for.
func (s *datasets) first(d *data) ([]byte, *schema.Fault) {
	switch {
	case d.noFirst != nil:
		fault := d.noFirst
		d.noFirst = nil // the next request tries again
		return nil, fault
	case d.first != nil:
		return d.first, nil
	case !d.beginning:
		d.beginning = true
		s.out.emit(FirstState{d.serial})
	}
	return nil, nil
}

// slow returns for how long a data set has been under way, if one has been for longer than a request waits.
func (s *datasets) slow(now time.Time) time.Duration {
	for _, d := range s.all {
		if since := now.Sub(d.since); !d.open && d.fault == nil && since > openPatience {
			return since
		}
	}
	return 0
}
