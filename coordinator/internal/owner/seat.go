package owner

import (
	"bytes"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// seats carries requests out: it decides what becomes of the one at the head of the queue, from what is true by now.
type seats struct {
	cfg      *Config
	out      *effects
	ledger   *ledger
	ending   *ending
	data     *datasets
	reader   *reader
	ranks    *ranks
	feeder   *feeder
	recovery *recovery
	requests *requests
	stops    *stops
	roster   *roster
	readers  *readers
	sharing  *sharing
	count    *Counters
}

// carryOn carries requests out, one after another, as far as they go.
func (s *seats) carryOn(now time.Time) {
	q := s.requests
	for s.ledger.writing == nil && s.recovery.making == nil {
		if q.asking == nil {
			if len(q.queue) == 0 {
				return
			}
			next := q.queue[0]
			waits := s.feeder.resumes && s.needsRun(next)
			switch {
			case waits && now.Sub(next.asked) < openPatience:
				return
			case waits:
				q.answer(q.pop(), s.recovery.waits())
				continue
			}
			q.asking = q.pop()
		}
		a := q.asking
		switch {
		case a.making:
			return
		case a.end != nil:
			s.stops.end(now, a)
		case a.stop != nil:
			s.stops.stop(now, a)
		default:
			s.seat(now, a)
		}
		if q.asking == a {
			return // it waits for an event
		}
	}
}

// due is when a request that waits is to be looked at; zero for never, as while nothing can become of it before the end
// of a write or of a Make: to be woken for it meanwhile would be to be woken without end.
func (s *seats) due() time.Time {
	switch q := s.requests; {
	case s.ledger.writing != nil || s.recovery.making != nil:
	case q.asking != nil:
		return q.asking.patience
	case len(q.queue) > 0 && s.feeder.resumes:
		return q.queue[0].asked.Add(openPatience)
	}
	return time.Time{}
}

// needsRun reports whether a request can only be answered when the record's generation is in memory: a look-up, or the
// repetition of a request that began it.
func (s *seats) needsRun(a *asking) bool {
	req, rec := a.seat, &s.ledger.rec
	return req != nil && req.Mode != wire.ModeOpen && req.Holder(req.Reader) == rec.Reader &&
		(req.Mode == wire.ModeSeek || req.Mode == wire.ModeJoin || rec.Size == 0 && req.Request == rec.Request)
}

// give ends the request under way with a seat that is in the record. All others hear of it; the one who asked hears it
// by the answer, and should not have to say that it did before. A reader of its own that is seated at a held state has
// taken that seat from nobody: a notice would only have it say where it is while it asks for its first batch.
func (s *seats) give(now time.Time, a *asking, reply wire.SeatReply) {
	s.reader.seated(now)
	s.requests.end(ReplySeat{a.token, reply})
	if s.ledger.rec.Size > 0 || !reply.Held {
		s.feeder.notifyRank(now, a.seat.Rank)
	}
}

// refuse ends the request under way with a fault.
func (s *seats) refuse(code, format string, args ...any) {
	s.requests.refuse(faultf(code, format, args...))
}

// seat goes on with a request for the seat.
func (s *seats) seat(now time.Time, a *asking) {
	req, rec := a.seat, &s.ledger.rec
	holder := req.Holder(req.Reader)
	same := rec.Reader == holder || rec.Seat == 0
	switch {
	case s.ledger.overtaken(req.Rank, req.Reader, req.Request):
		s.refuse(schema.CodeSuperseded, "this request was overtaken by a later one")
		return
	case rec.Size > 0 && rec.Reader == holder:
		if done := s.seatRank(now, a); done {
			return
		}
	case same && req.Request == rec.Request:
		if done := s.repeated(now, a); done {
			return
		}
	case !same && req.Mode != wire.ModeOpen:
		s.refuse(schema.CodeSuperseded, "batcher %s is held by %s", rec.Batcher, holderText(rec))
		return
	}
	s.reader.follow(req.Trace)
	switch req.Mode {
	case wire.ModeOpen:
		s.sit(now, a)
	case wire.ModeStart, wire.ModeSeek, wire.ModeJoin:
		s.seek(now, a)
	default:
		s.refuse(schema.CodeBadRequest, "unknown mode %q", req.Mode)
	}
}

// repeated answers a request that was carried out before and whose answer was lost. It reports false when the request
// is to be carried out again: the generation that it began could not be set up, or was lost meanwhile and begun again
// at another state.
func (s *seats) repeated(now time.Time, a *asking) bool {
	req, rec := a.seat, &s.ledger.rec
	switch r := s.reply(a, rec.Position, false); {
	case req.Mode == wire.ModeOpen:
		s.requests.end(ReplySeat{a.token, r})
	case s.feeder.gen != nil && len(r.State.Data) == 0: // after a takeover, until the run has been iterated again so far
		s.requests.refuse(unavailable("the run was taken over and is being iterated again from %d", s.feeder.gen.Floor()))
	case s.feeder.gen != nil:
		state, fault, waits := s.stateOf(now, a, rec.Spec, s.ledger.key)
		if waits {
			return true
		}
		if fault == nil && !bytes.Equal(state, r.State.Data) {
			return false
		}
		s.requests.end(ReplySeat{a.token, r})
	case rec.Phase == schema.PhaseFailed:
		s.requests.refuse(rec.Error)
	case rec.Phase == schema.PhaseClosed:
		s.refuse(schema.CodeStopped, "batcher %s was stopped after this request", rec.Batcher)
	default:
		return false
	}
	return true
}

// openFor returns the opened data set of a spec. Nil: the request waits for it, or was answered.
func (s *seats) openFor(now time.Time, a *asking, spec wire.Spec, key wire.Digest) *data {
	d := s.data.of(now, spec, key)
	switch fault := s.data.failed(d); {
	case fault != nil:
		s.ledger.unwanted = s.ledger.rec.Seat == 0 // the record was made for this request, and for nothing else
		s.requests.refuse(fault)
		return nil
	case d.open:
		a.patience = time.Time{}
		return d
	case now.Sub(a.asked) >= openPatience:
		s.requests.refuse(d.opening(now, spec))
	default:
		a.patience = a.asked.Add(openPatience)
	}
	return nil
}

// anotherSpec is why a reader of another spec than the record's gets nothing.
func anotherSpec(rec *wire.Record) *schema.Fault {
	return faultf(schema.CodeSpecMismatch, "batcher %s runs data set %s with parameters %s; stop it, or use another name",
		rec.Batcher, rec.Spec.Dataset, rec.Spec.Params)
}

// sit gives the batcher to a reader without starting it.
func (s *seats) sit(now time.Time, a *asking) {
	req, rec := a.seat, &s.ledger.rec
	version, known := s.cfg.Kinds[req.Spec.Dataset]
	spec := wire.Spec{Dataset: req.Spec.Dataset, Version: version, Params: req.Spec.Params}
	a.differs = rec.Seat > 0 && a.key != s.ledger.key
	holder := req.Holder(req.Reader)
	ended := req.Ended != "" && wire.ReaderOf(req.Ended) == rec.Reader
	if s.reader.live(now, s.cfg.ReaderLease) && !ended && rec.Reader != holder && rec.Phase != schema.PhaseClosed {
		switch {
		case a.differs:
			s.requests.refuse(anotherSpec(rec))
			return
		case !req.TakeOver:
			s.refuse(schema.CodeInUse,
				"batcher %s is held by %s, last heard %v ago; take over, or use another name",
				rec.Batcher, holderText(rec), now.Sub(s.reader.heard).Round(time.Millisecond))
			return
		}
	}
	if !known {
		s.refuse(schema.CodeUnknownDataset, "coordinator %s has no data set %q", s.cfg.Name, req.Spec.Dataset)
		return
	}
	d := s.openFor(now, a, spec, a.key)
	if d == nil {
		return
	}
	// A run that ended badly, was stopped, or was of another spec or of other data is over; any other goes on.
	a.over = a.differs || rec.Phase == schema.PhaseFailed || rec.Phase == schema.PhaseClosed
	if (rec.Reader != holder || req.Name != "") && s.asksForData(now, a, d, spec) {
		return
	}
	a.before = s.ledger.lane()
	s.ledger.recordSpec(toSit, a.key, func(r *wire.Record) {
		if r.Reader != holder {
			r.Vacate(false)
		}
		r.Settings, r.Since = req.Settings, now
		if a.over || r.Seat == 0 { // nobody was seated yet, so the record was made for the one who asks
			r.Spec = spec
		}
		sitIn(r, req)
		if a.over {
			r.Gen, r.Phase, r.Error, r.Verdict, r.FloorState = "", schema.PhaseStopped, nil, nil, nil
			r.Origin, r.Accepted = "", ""
			if a.differs {
				r.BatchBytes = 0
			}
			detachOthers(r, -1)
		}
	})
}

// sat goes on when the seat is in the record.
func (s *seats) sat(now time.Time, a *asking) {
	var warnings []string
	if a.over {
		if a.differs && a.before.gen != "" {
			warnings = append(warnings, "the data set or its parameters changed since the batcher last ran")
		}
		if a.changed != "" {
			warnings = append(warnings, "the data changed since the batcher last ran: "+a.changed)
			s.out.warn("run is over: its data changed", "gen", a.before.gen, "changed", a.changed)
		}
		s.feeder.discard(a.before)
	}
	s.data.releaseOthers(s.ledger.key)
	s.ranks.reset(now, s.feeder.taken(), s.ranks.holes())
	s.feeder.resize(now)
	s.give(now, a, s.reply(a, s.ledger.rec.Position, false, warnings...))
}

// holderText names what has the seat, for people.
func holderText(rec *wire.Record) string {
	if rec.Shared() {
		return "several readers"
	}
	return "trainer " + rec.Reader
}

// asksForData finds out, for a reader that is new to the batcher, whether the data are still what the data set was
// opened on, and what the run was begun on. It reports true while the request waits for that, or when it was answered.
func (s *seats) asksForData(now time.Time, a *asking, d *data, spec wire.Spec) bool {
	kept, fault := s.data.reopen(now, a.asked, d, spec)
	switch {
	case fault != nil: // what was opened before is of no use to a trainer that begins now
		s.requests.refuse(fault)
		return true
	case kept == nil && now.Sub(a.asked) >= openPatience:
		s.requests.refuse(d.reopened.opening(now, spec))
		return true
	case kept == nil:
		a.patience = a.asked.Add(openPatience)
		return true
	}
	a.patience = time.Time{}
	rec := &s.ledger.rec
	if a.over || rec.Gen == "" || kept.isOf(rec.Origin) {
		return false
	}
	differences := s.data.differences(kept, rec.Origin)
	a.over, a.changed = true, strings.Join(differences, "; ")
	return len(differences) == 0
}
