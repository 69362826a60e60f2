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
		s.refuse(schema.CodeSuperseded, "batcher %s is held by reader %s", rec.Batcher, rec.Reader)
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
		if s.feeder.gen != nil {
			r.Taken = s.feeder.gen.Taken()
		}
		if req.Leave {
			vacate(r)
			r.Seat++
			return
		}
		r.Phase, r.Gen, r.Verdict, r.FloorState = schema.PhaseClosed, "", nil, nil
	})
}

// stopped goes on when the stop is in the record.
func (s *seats) stopped(a *asking) {
	if !a.stop.Leave {
		s.feeder.discard(a.before)
		s.out.info("batcher stopped", "gen", a.before.gen)
	}
	s.feeder.notify()
	s.requests.end(ReplyStop{a.token, wire.StopReply{Error: a.failure}})
}
