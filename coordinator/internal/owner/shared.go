package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sharing carries out requests while several readers have the seat, each at its own pace.
type sharing struct {
	ledger   *ledger
	ending   *ending
	ranks    *ranks
	feeder   *feeder
	readers  *readers
	requests *requests
}

// ask goes on with the request of a reader. movesAll means that it is decided like that of any reader: it asks for a
// state, or nobody else has the batcher. Any other course is carried out, but for repeats.
func (s *sharing) ask(now time.Time, a *asking) course {
	req, rec := a.seat, &s.ledger.rec
	slot, known := rec.Slot(req.Rank)
	m := &wire.Member{}
	if known {
		req.Rank.Rank, m = slot, &rec.Members[slot]
	}
	taken := m.Reader != "" && m.Reader != req.Reader && !m.Left // another process has the name
	switch {
	case req.Mode == wire.ModeOpen && m.Reader == req.Reader && m.Request == req.Request:
		return repeats
	case req.Mode == wire.ModeOpen:
		return s.admit(now, a, slot, taken)
	case taken:
		s.requests.refuse(faultf(schema.CodeSuperseded,
			"reader %s of batcher %s is trainer %s", req.Name, rec.Batcher, m.Reader))
		return refused
	}
	return movesAll
}

// admit gives a process the slot of its name, where the one before left off.
func (s *sharing) admit(now time.Time, a *asking, slot int, taken bool) course {
	req, rec := a.seat, &s.ledger.rec
	ended := taken && req.Ended != "" && wire.ReaderOf(req.Ended) == rec.Members[slot].Reader
	lives := taken && !ended && s.readers.hears(now, slot)
	var refusal *schema.Fault
	switch {
	case lives && !req.TakeOver:
		refusal = faultf(schema.CodeInUse,
			"reader %s of batcher %s is trainer %s, last heard %v ago; take over, or use another name",
			req.Name, rec.Batcher, rec.Members[slot].Reader, now.Sub(s.ranks.each[slot].heard).Round(time.Millisecond))
	case !lives && !s.readers.accompanied(now, slot):
		return movesAll
	case a.key != s.ledger.key:
		refusal = anotherSpec(rec)
	case rec.Full(req.Name):
		refusal = faultf(schema.CodeInUse, "batcher %s has %d readers, as many as it takes", rec.Batcher, len(rec.Members))
	}
	if refusal != nil {
		s.requests.refuse(refusal)
		return refused
	}
	s.ledger.record(toAdmit, func(r *wire.Record) {
		r.Since = now
		r.Seat++
		admitIn(r, req, false)
	})
	return seated
}

// warnings are what a reader that is admitted should know.
func (s *sharing) warnings(req *wire.SeatRequest) []string {
	if s.ledger.rec.Shared() && req.Settings != s.ledger.rec.Settings {
		return []string{"the settings of the batcher are those of its first reader, and not these"}
	}
	return nil
}

// seat decides on a reader that asks for a state, and reports true when a run may begin there.
func (s *sharing) seat(now time.Time, a *asking, state []byte) bool {
	req, rec := a.seat, &s.ledger.rec
	slot, known := rec.Slot(req.Rank) // not known to a record that was lost, and that another reader made anew
	course, position, why := s.readers.course(now, req, slot, state)
	switch {
	case course == movesAll:
		return true
	case course == seated:
		a.position = position
		s.ledger.record(toPlace, func(r *wire.Record) {
			takenIn(r, s.feeder.gen)
			r.Taken, r.Holes = min(r.Taken, position-1), 0 // of one that was not attached
			r.Phase = schema.PhaseRunning
			r.Seat++
			admitIn(r, req, true)
		})
	case course == elsewhere && known && !rec.Absent(slot):
		a.failure = why
		s.ledger.record(toYield, func(r *wire.Record) { detachIn(r, slot) })
	default:
		s.requests.refuse(why)
	}
	return false
}

// placed makes place for a reader whose position is in the record.
func (s *sharing) placed(now time.Time) {
	if s.ledger.rec.Shared() {
		s.readers.sync(now)
	}
}
