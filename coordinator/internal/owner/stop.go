package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// stop ends the run, or lets the reader leave it to another.
func (s *seats) stop(now time.Time, a *asking) {
	req, rec := a.stop, &s.ledger.rec
	switch seated := rec.Reader == req.Reader; {
	case !seated && (rec.Phase == schema.PhaseClosed || rec.Reader == ""):
		s.requests.confirm(ReplyStop{a.token, wire.StopReply{Error: rec.Error}})
		return
	case !seated:
		s.refuse(schema.CodeSuperseded, "batcher %s is held by trainer %s", rec.Batcher, rec.Reader)
		return
	case s.overtaken(req.Reader, req.Request):
		s.refuse(schema.CodeSuperseded, "this request was overtaken by a later one")
		return
	}
	a.before, a.failure = s.ledger.lane(), rec.Error
	if failure := s.ending.of(rec.Gen); failure != nil {
		a.failure = failure
	}
	s.ledger.record(toStop, func(r *wire.Record) {
		r.Since, r.Request = now, req.Request
		takenIn(r, s.feeder.gen)
		if req.Leave {
			vacate(r)
			r.Seat++
			return
		}
		closeIn(r)
	})
}

func closeIn(r *wire.Record) {
	r.Phase, r.Gen, r.Verdict, r.FloorState = schema.PhaseClosed, "", nil, nil
}

// end ends the run on an operator's word, whoever is seated, and deletes the record where that is asked for. A run is
// stopped first, so that its reader hears of its end and does not make the record anew.
func (s *seats) end(now time.Time, a *asking) {
	rec := &s.ledger.rec
	running := rec.Phase == schema.PhaseRunning
	switch {
	case a.end.Remove && running && !a.end.Force:
		s.refuse(schema.CodeInUse, "batcher %s runs", rec.Batcher)
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
func (s *seats) stopped(a *asking) {
	if a.stop == nil || !a.stop.Leave {
		s.feeder.discard(a.before)
		s.out.info("batcher stopped", "gen", a.before.gen)
	}
	s.feeder.notify()
	if a.end != nil && a.end.Remove {
		return // it is carried on: the record is deleted now
	}
	s.requests.end(ReplyStop{a.token, wire.StopReply{Error: a.failure}})
}
