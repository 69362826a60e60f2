package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// An opened data set is the author's code, so that opening one may take for ever. The owner asks for it, answers the
// requests that wait for it with how long it has been under way, and goes on with everything else.

// data is a data set that is open, or under way.
type data struct {
	serial uint64
	key    wire.Digest // of its Spec
	since  time.Time   // when the opening began
	open   bool
	fault  *schema.Fault // why it could not be opened; it is forgotten once it is told

	origin     string // of its parameters and data; empty for unknown
	verifiable bool
	renewal    *data // the same, opened anew to see whether the data changed; nil for none

	comparing   string // the origin that it is, or was, compared with; empty for none
	differences []string

	beginning bool // its first state is asked for
	first     []byte
	noFirst   *schema.Fault
}

// dataOf returns the data set of a spec, and asks for it to be opened unless it knows it. Its open may be false
// yet.
func (o *Owner) dataOf(now time.Time, spec wire.Spec, key wire.Digest) *data {
	for _, d := range o.data {
		if d.key == key {
			return d
		}
	}
	o.serial++
	d := &data{serial: o.serial, key: key, since: now}
	o.data = append(o.data, d)
	o.emit(Open{d.serial, spec})
	return d
}

// openedData ends an Open.
func (o *Owner) openedData(now time.Time, e Opened) {
	for _, d := range o.data {
		if d.renewal != nil && d.renewal.serial == e.Serial {
			d = d.renewal
		}
		if d.serial == e.Serial {
			d.open, d.fault, d.origin, d.verifiable = e.Fault == nil, e.Fault, e.Origin, e.Verifiable
			o.retryAt = now
			return
		}
	}
	if e.Fault == nil {
		o.emit(Release{e.Serial}) // no request waits for it any more
	}
}

// forget lets go of the data sets that keep does not name.
func (o *Owner) forget(keep func(*data) bool) {
	kept := o.data[:0:0]
	for _, d := range o.data {
		if keep(d) {
			kept = append(kept, d)
			continue
		}
		for _, old := range []*data{d, d.renewal} {
			if old != nil && old.open { // else it is released when it has opened
				o.emit(Release{old.serial})
			}
		}
	}
	o.data = kept
}

// forgetOthers lets go of every data set but the record's.
func (o *Owner) forgetOthers() {
	o.forget(func(d *data) bool { return d.key == o.key })
}

// ownData is the data set of the record.
func (o *Owner) ownData(now time.Time) *data { return o.dataOf(now, o.rec.Spec, o.key) }

// failed returns why a data set could not be opened, and forgets it: the next request tries again. Nil: it is open, or
// under way.
func (o *Owner) failed(d *data) *schema.Fault {
	if d.fault == nil {
		return nil
	}
	o.forget(func(other *data) bool { return other != d })
	return d.fault
}

// opening says for how long a data set has been under way.
func (d *data) opening(now time.Time, spec wire.Spec) *schema.Fault {
	return unavailable("data set %s is being opened since %v", spec.Dataset, now.Sub(d.since).Round(100*time.Millisecond))
}

// begun takes the answer to a Begin.
func (o *Owner) begun(e Begun) {
	for _, d := range o.data {
		if d.serial == e.Serial {
			d.beginning, d.first, d.noFirst = false, e.State, e.Fault
		}
	}
}

// firstState returns the data set's first state. Both results nil: it is asked for.
func (o *Owner) firstState(d *data) ([]byte, *schema.Fault) {
	switch {
	case d.noFirst != nil:
		fault := d.noFirst
		d.noFirst = nil // the next request tries again
		return nil, fault
	case d.first != nil:
		return d.first, nil
	case !d.beginning:
		d.beginning = true
		o.emit(Begin{d.serial})
	}
	return nil, nil
}
