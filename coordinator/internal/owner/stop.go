package owner

import (
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// stops carries requests out that end a run, or leave it.
type stops struct {
	out      *effects
	ledger   *ledger
	ending   *ending
	ranks    *ranks
	feeder   *feeder
	readers  *readers
	requests *requests
}

// stop ends the run, or lets the reader leave it to another.
func (s *stops) stop(now time.Time, a *asking) {
	req, rec := a.stop, &s.ledger.rec
	rank, seated := s.ledger.slot(req.Rank, req.Reader)
	switch {
	case !seated && (rec.Phase == schema.PhaseClosed || rec.Reader == ""):
		s.requests.confirm(ReplyStop{a.token, wire.StopReply{Error: rec.Error}})
		return
	case !seated:
		s.requests.refuse(faultf(schema.CodeSuperseded, "batcher %s is held by %s", rec.Batcher, holderText(rec)))
		return
	case s.ledger.overtaken(req.Rank, req.Reader, req.Request):
		s.requests.refuse(faultf(schema.CodeSuperseded, "this request was overtaken by a later one"))
		return
	}
	a.before, a.failure = s.ledger.lane(), rec.Error
	if failure := s.ending.of(rec.Gen); failure != nil {
		a.failure = failure
	}
	req.Rank.Rank = rank
	a.closes = !req.Leave && !(rec.Shared() && s.readers.accompanied(now, rank))
	s.ledger.record(toStop, func(r *wire.Record) {
		r.Since = now
		if r.Size == 0 {
			r.Request = req.Request
		} else {
			m := r.Members[rank]
			m.Request, m.Left = req.Request, req.Leave
			m.Seated = m.Seated && !r.Shared()
			r.Members = slices.Clone(r.Members)
			r.Members[rank] = m
		}
		takenIn(r, s.feeder.gen)
		switch {
		case a.closes:
			closeIn(r)
		case req.Leave && (r.Size == 0 || allLeft(r)):
			r.Vacate(true)
			fallthrough
		default:
			r.Seat++
		}
	})
}

// allLeft reports whether a world is over: nobody is there, and none of its ranks is yet to come to where it began.
func allLeft(r *wire.Record) bool {
	for i := range r.Members {
		if r.Members[i].Reader == "" && anyPlaced(r) {
			return false
		}
	}
	return deserted(r)
}

// deserted reports whether nobody of a world is there: all that came have left.
func deserted(r *wire.Record) bool {
	for i := range r.Members {
		if r.Members[i].Reader != "" && !r.Members[i].Left {
			return false
		}
	}
	return r.Size > 0
}

func closeIn(r *wire.Record) {
	r.Phase, r.Gen, r.Verdict, r.FloorState = schema.PhaseClosed, "", nil, nil
}

// end ends the run on an operator's word, whoever is seated, and deletes the record where that is asked for. A run is
// stopped first, so that its reader hears of its end and does not make the record anew.
func (s *stops) end(now time.Time, a *asking) {
	rec := &s.ledger.rec
	running := rec.Phase == schema.PhaseRunning
	switch {
	case a.end.Remove && running && !a.end.Force:
		s.requests.refuse(faultf(schema.CodeInUse, "batcher %s runs", rec.Batcher))
	case a.end.Remove && !running:
		s.ledger.retire()
	case rec.Phase == schema.PhaseClosed || rec.Phase == schema.PhaseStopped:
		s.requests.confirm(ReplyStop{a.token, wire.StopReply{Error: rec.Error}})
	default:
		a.before, a.failure = s.ledger.lane(), rec.Error
		s.ledger.record(toStop, func(r *wire.Record) {
			r.Since = now
			takenIn(r, s.feeder.gen)
			closeIn(r)
		})
	}
}

// stopped goes on when the stop is in the record.
func (s *stops) stopped(now time.Time, a *asking) {
	switch {
	case a.stop == nil || a.closes:
		clear(s.ranks.asks)
		s.feeder.discard(a.before)
		s.out.info("batcher stopped", "gen", a.before.gen)
	case s.ledger.rec.Shared():
		s.out.info("reader left", "name", a.stop.Name)
		s.readers.changed(now)
	case s.ledger.rec.Size > 0:
		s.out.info("rank left", "rank", a.stop.Rank.Rank)
		s.ranks.leave(a.stop.Rank.Rank)
		s.feeder.advance(now)
	}
	s.feeder.notify()
	if a.end != nil && a.end.Remove {
		return // it is carried on: the record is deleted now
	}
	s.requests.end(ReplyStop{a.token, wire.StopReply{Error: a.failure}})
}
