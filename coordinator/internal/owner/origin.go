package owner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A position counts in the parameters and the data that it was made on, its origin. A run has one origin from its
// beginning to its end: it is in the record, in the states that are handed out, and every machine that takes part has
// opened the same.

// renew opens a data set anew that was opened before a moment, and puts it in the place of the old one if its data
// changed. All results nil: that is under way. A data set that cannot be opened any more stays as it is.
func (o *Owner) renew(now, before time.Time, d *data, spec wire.Spec) (kept *data, fault *schema.Fault) {
	if !d.verifiable || !d.since.Before(before) {
		return d, nil
	}
	r := d.renewal
	switch {
	case r == nil:
		o.serial++
		d.renewal = &data{serial: o.serial, key: d.key, since: now}
		o.emit(Open{o.serial, spec})
		return nil, nil
	case r.fault != nil:
		d.renewal = nil
		return nil, r.fault
	case !r.open:
		return nil, nil
	}
	d.renewal = nil
	if r.origin == d.origin {
		d.since = r.since
		o.emit(Release{r.serial})
		return d, nil
	}
	o.data[slices.Index(o.data, d)] = r
	o.emit(Release{d.serial})
	return r, nil
}

// isOf reports whether positions of an origin count in an opened data set, as far as both are known.
func (d *data) isOf(origin string) bool { return origin == "" || d.origin == "" || origin == d.origin }

// differencesFrom names what another origin had otherwise; empty while it is being found out.
func (o *Owner) differencesFrom(d *data, origin string) []string {
	if d.comparing != origin {
		d.comparing, d.differences = origin, nil
		o.emit(Compare{d.serial, origin})
	}
	return d.differences
}

// compared takes the answer to a Compare.
func (o *Owner) compared(now time.Time, e Compared) {
	for _, d := range o.data {
		if d.serial == e.Serial && d.comparing == e.From {
			d.differences = e.Differences
			o.retryAt = now
		}
	}
}

// asksForData finds out, for a reader that is new to the batcher, whether the data are still what the data set was opened
// on, and what the run was begun on. It reports true while the request waits for that, or when it was answered.
func (o *Owner) asksForData(now time.Time, a *asking, d *data, spec wire.Spec) bool {
	kept, fault := o.renew(now, a.asked, d, spec)
	switch {
	case fault != nil: // what was opened before is of no use to a trainer that begins now
		o.finish(a, fault)
		return true
	case kept == nil && now.Sub(a.asked) >= openPatience:
		o.finish(a, d.renewal.opening(now, spec))
		return true
	case kept == nil:
		a.patience = a.asked.Add(openPatience)
		return true
	}
	a.patience = time.Time{}
	if a.over || o.rec.Gen == "" || kept.isOf(o.rec.Origin) {
		return false
	}
	differences := o.differencesFrom(kept, o.rec.Origin)
	a.over, a.changed = true, strings.Join(differences, "; ")
	return len(differences) == 0
}

// refusesOrigin holds the origin of the state that a request asks for against that of the data set. It reports true when
// the request was refused, or while it waits to know why.
func (o *Owner) refusesOrigin(a *asking, d *data) bool {
	s := a.seat.State
	if a.changed = ""; s.IsZero() || d.isOf(s.Origin) {
		return false
	}
	differences := o.differencesFrom(d, s.Origin)
	if len(differences) == 0 {
		return true
	}
	a.changed = strings.Join(differences, "; ")
	if a.seat.AcceptChange {
		return false
	}
	o.asking = nil
	o.confirm(ReplySeat{a.token, wire.SeatReply{Differences: differences, Fault: &schema.Fault{
		Code: schema.CodeWrongData, Message: fmt.Sprintf("the state is of other parameters or data: %s", a.changed),
	}}})
	return true
}

// warnings are what the reader should know of the state that it is seated at.
func (a *asking) warnings(d *data) []string {
	switch s := a.seat.State; {
	case a.changed != "":
		return []string{"the state is of other parameters or data, which was accepted: " + a.changed}
	case s.Dataset != "" && s.Origin == "" && d.origin != "":
		return []string{"the state does not say which parameters and data it is of, so that they were not checked"}
	}
	return nil
}

// standBack does not feed a run that was begun on other data than this machine has: a mixture of both would be of
// neither. The data set is opened again later.
func (o *Owner) standBack(now time.Time, d *data) {
	differences := o.differencesFrom(d, o.rec.Origin)
	if len(differences) == 0 {
		return // it is being found out
	}
	o.forget(func(other *data) bool { return other != d })
	o.notHere(now, fmt.Sprintf("coordinator %s has other data than the run: %s", o.cfg.Name, strings.Join(differences, "; ")))
}
