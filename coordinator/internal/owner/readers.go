package owner

import (
	"fmt"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// readerPatience is how long what a silent reader has not taken is kept for it, while others go on.
const readerPatience = time.Minute

// readers decide which of several readers share a run, each at its own pace: those that are attached. What is stored is
// kept for the slowest of them, and what is fed follows the furthest. A reader that the others would have to wait for,
// or that asks for a state that is not held, goes on in a batcher of its own.
type readers struct {
	cfg    *Config
	out    *effects
	ledger *ledger
	ranks  *ranks
	feeder *feeder
	count  *Counters

	full    bool   // the store has no room for the next batch of the furthest
	falling int    // the slot of the one that is being detached
	why     string // it is
	gone    bool   // and its slot is free for others
}

// run reports whether there is a run that readers share.
func (r *readers) run() bool {
	rec := &r.ledger.rec
	return rec.Shared() && (rec.Phase == schema.PhaseRunning || rec.Phase == schema.PhaseDone)
}

// hears reports whether the process of a slot lives, as far as is known.
func (r *readers) hears(now time.Time, slot int) bool {
	return now.Sub(r.ranks.each[slot].heard) < r.cfg.ReaderLease
}

// needs reports whether a reader takes from the run, and is neither at its end nor at an error.
func (r *readers) needs(now time.Time, slot int) bool {
	v := r.ledger.rec.Verdict
	ended := v != nil && v.Fault == nil && r.ranks.cursors[slot].taken >= v.Seq
	return !r.ledger.rec.Absent(slot) && r.hears(now, slot) && !r.ranks.each[slot].failed && !ended
}

// goOn reports whether readers beside that of a slot need the run.
func (r *readers) goOn(now time.Time, slot int) bool {
	if !r.run() {
		return false
	}
	for i := range r.ranks.each {
		if i != slot && r.needs(now, i) {
			return true
		}
	}
	return false
}

// accompanied reports whether processes beside that of a slot have the batcher.
func (r *readers) accompanied(now time.Time, slot int) bool {
	for i, m := range r.ledger.rec.Members {
		if i != slot && !m.Left && r.hears(now, i) {
			return true
		}
	}
	return false
}

// course decides what becomes of a reader that asks for a state; slot is negative where the record does not know it.
// movesAll means that nobody else needs the run: another may begin in its place.
func (r *readers) course(
	now time.Time, req *wire.SeatRequest, slot int, state []byte,
) (course, uint64, *schema.Fault) {
	rec, g := &r.ledger.rec, r.feeder.gen
	others, unready := r.goOn(now, slot), r.feeder.unready()
	switch {
	case !r.run():
		return movesAll, 0, nil
	case unready != nil:
		return refused, 0, unready
	case req.Mode == wire.ModeStart && others: // of one that failed: it would find what it failed at
		return elsewhere, 0, elsewhereFault(rec, "others go on with the run that failed here")
	case req.Mode == wire.ModeStart:
		return movesAll, 0, nil
	}
	from := g.Taken()
	if slot >= 0 && !r.ledger.rec.Absent(slot) {
		from = r.ranks.cursors[slot].taken
	}
	position, held := g.FindFrom(from, state)
	if !held {
		position, held = g.Find(state)
	}
	switch {
	case held && (!others || r.near(req.Mode, slot, position)):
		return seated, position, nil
	case held:
		return elsewhere, 0, elsewhereFault(rec, "batch %d is too far behind the others", position)
	case others || req.Mode == wire.ModeJoin:
		return elsewhere, 0, elsewhereFault(rec, "the state is not held, and others go on with the run")
	}
	return movesAll, 0, nil
}

// near reports whether a position is less than Lag behind the furthest of the other readers. A reader that comes back
// is to be nearer still, or it would fall out again at once.
func (r *readers) near(mode wire.Mode, slot int, position uint64) bool {
	lag := r.feeder.gen.lag()
	if mode == wire.ModeJoin {
		lag /= 2
	}
	furthest := uint64(0)
	for i, k := range r.ranks.cursors {
		if i != slot && !k.left {
			furthest = max(furthest, k.taken)
		}
	}
	return position-1+lag > furthest
}

// elsewhereFault tells a reader to go on in a batcher of its own.
func elsewhereFault(rec *wire.Record, format string, args ...any) *schema.Fault {
	return faultf(schema.CodeElsewhere, "batcher %s: %s", rec.Batcher, fmt.Sprintf(format, args...))
}

// falls chooses a reader that is to be detached, and reports whether there is one: others need the run, and must not be
// held up by it.
func (r *readers) falls(now time.Time) bool {
	g := r.feeder.gen
	if g == nil || !r.run() {
		return false
	}
	r.gone = false
	for i := range r.ranks.each {
		k, m := &r.ranks.each[i], &r.ledger.rec.Members[i]
		failed, silent := m.Seated && k.failed, !m.Left && k.silent > readerPatience
		switch {
		case !failed && !silent || !r.goOn(now, i):
		case silent:
			r.gone = true
			return r.fall(i, fmt.Sprintf("it was not heard for %v", k.silent.Round(time.Second)))
		default:
			return r.fall(i, "it failed")
		}
	}
	slowest := r.ranks.slowest()
	behind := r.ranks.furthest() - r.ranks.taken()
	switch {
	case behind == 0 || r.ledger.rec.Settings.LagWait || r.ranks.each[slowest].told.IsZero() || !r.goOn(now, slowest):
		return false
	case behind >= g.lag():
		return r.fall(slowest, fmt.Sprintf("it is %d batches behind", behind))
	case r.full:
		return r.fall(slowest, "the store is full")
	case g.Room() == 0 && g.Fed() <= g.Head():
		return r.fall(slowest, "jobs and states have no room")
	}
	return false
}

func (r *readers) fall(slot int, why string) bool {
	r.falling, r.why = slot, why
	return true
}

// detach notes in the record that the reader that falls is attached no more.
func (r *readers) detach(rec *wire.Record) {
	detachIn(rec, r.falling)
	rec.Members[r.falling].Left = r.gone
}

// detached goes on when that is in the record: what was kept for the reader alone may be dropped now.
func (r *readers) detached(now time.Time) {
	r.full = false
	name := r.ledger.rec.Members[r.falling].Name
	r.out.warn("reader goes on alone", "name", name, "gen", r.ledger.rec.Gen, "why", r.why)
	r.changed(now)
	r.feeder.notifyRank(now, wire.Rank{Name: name})
}

// changed goes on when other readers are attached than before.
func (r *readers) changed(now time.Time) {
	before := r.ranks.present()
	r.sync(now)
	r.count.Detached += uint64(max(before-r.ranks.present(), 0))
	r.feeder.advance(now)
	if g := r.feeder.gen; g != nil {
		g.save = true
	}
}

// sync makes place for readers that the record has by now, and counts those that are attached.
func (r *readers) sync(now time.Time) {
	if !r.ledger.rec.Shared() {
		return
	}
	for len(r.ranks.each) < r.ledger.rec.Size {
		r.ranks.cursors, r.ranks.asks = append(r.ranks.cursors, cursor{}), append(r.ranks.asks, nil)
		r.ranks.each = append(r.ranks.each, rank{heard: now})
	}
	for i := range r.ranks.cursors {
		r.ranks.cursors[i].left = r.ledger.rec.Absent(i)
	}
}

// failed notes that a reader cannot go on, and returns its error once no reader that is attached can.
func (r *readers) failed(slot int, f *schema.Fault) *schema.Fault {
	r.ranks.each[slot].failed = true
	for _, i := range r.ranks.there() {
		if !r.ranks.each[i].failed {
			return nil
		}
	}
	return f
}

// waits reports whether a reader that has come so far waits for another one, and not for a batch.
func (r *readers) waits(taken uint64) bool {
	g := r.feeder.gen
	return r.run() && r.ledger.rec.Settings.LagWait && g != nil && taken >= g.Fed() && taken > g.Taken() && g.Want() == 0
}

// names lists the readers that have not left, for people.
func (r *readers) names() string {
	var names []string
	for _, m := range r.ledger.rec.Members {
		if !m.Left {
			names = append(names, m.Name)
		}
	}
	return strings.Join(names, ", ")
}

// makeRoom has the slowest reader detached when the store is full, and reports whether there is one that is behind:
// what it has not taken goes before any batch of the furthest does.
func (r *readers) makeRoom() bool {
	r.full = r.run() && !r.ledger.rec.Settings.LagWait && r.ranks.furthest() > r.ranks.taken()
	return r.full
}

// detachIn notes that a reader is not attached any more. Its seat is another then, so that it hears of it.
func detachIn(rec *wire.Record, slot int) {
	m := rec.Members[slot]
	m.Seated = false
	rec.Admit(slot, m)
}

// detachOthers notes that no reader but that of a slot is attached.
func detachOthers(rec *wire.Record, slot int) {
	if !rec.Shared() {
		return
	}
	for i := range rec.Members { // which are the record's alone by now
		rec.Members[i].Seated = rec.Members[i].Seated && i == slot
	}
}

// admitIn gives a reader that asks the slot of its name, which keeps its place; seated says that it is at one by now.
func admitIn(rec *wire.Record, req *wire.SeatRequest, seated bool) {
	rec.Reader, rec.Request = wire.Readers, req.Request
	slot := rec.AddSlot(req.Name)
	m := rec.Members[slot]
	if m.Reader != req.Reader {
		rec.Retire(m.Reader, m.Request)
	}
	req.Rank.Rank = slot
	rec.Members[slot] = wire.Member{
		Name: req.Name, Reader: req.Reader, Request: req.Request, Seat: rec.Seat, Placed: m.Placed || seated,
		Seated: seated || m.Seated && !m.Left,
	}
}
