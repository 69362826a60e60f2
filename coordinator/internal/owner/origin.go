package owner

import (
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A position counts in the parameters and the data that it was made on, its origin. A run has one origin from its
// beginning to its end: it is in the record, in the states that are handed out, and every machine that takes part has
// opened the same.

// reopen opens a data set anew that was opened before a moment, and puts it in the place of the old one if its data
// changed. All results nil: that is under way. A data set that cannot be opened any more stays as it is.
func (s *datasets) reopen(now, before time.Time, d *data, spec wire.Spec) (kept *data, fault *schema.Fault) {
	if !d.verifiable || !d.since.Before(before) {
		return d, nil
	}
	r := d.reopened
	switch {
	case r == nil:
		d.reopened = s.ask(now, spec, d.key)
		return nil, nil
	case r.fault != nil:
		d.reopened = nil
		return nil, r.fault
	case !r.open:
		return nil, nil
	}
	d.reopened = nil
	if r.origin == d.origin {
		d.since = r.since
		s.out.emit(Release{r.serial})
		return d, nil
	}
	s.all[slices.Index(s.all, d)] = r
	s.out.emit(Release{d.serial})
	return r, nil
}

// isOf reports whether positions of an origin count in an opened data set, as far as both are known.
func (d *data) isOf(origin string) bool { return origin == "" || d.origin == "" || origin == d.origin }

// differences names what another origin had otherwise; empty while it is being found out.
func (s *datasets) differences(d *data, origin string) []string {
	if d.comparing != origin {
		d.comparing, d.differences = origin, nil
		s.out.emit(Compare{d.serial, origin})
	}
	return d.differences
}

// compared takes the answer to a Compare, and reports whether it is wanted still.
func (s *datasets) compared(e Compared) bool {
	for _, d := range s.all {
		if d.serial == e.Serial && d.comparing == e.From {
			d.differences = e.Differences
			return true
		}
	}
	return false
}
