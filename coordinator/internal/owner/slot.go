package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// seatRank goes on with the request of a rank whose world has the seat. It reports false when the rank asks for a
// state, which is decided like the move of any reader.
func (s *seats) seatRank(now time.Time, a *asking) (done bool) {
	req, rec := a.seat, &s.ledger.rec
	if rec.Shared() {
		course := s.sharing.ask(now, a)
		if course == repeats {
			s.requests.end(ReplySeat{a.token, s.reply(a, rec.Position, false)})
		}
		return course != movesAll
	}
	m := &wire.Member{}
	if req.Size == rec.Size {
		m = s.roster.member(req)
	}
	switch {
	case req.Size != rec.Size:
		s.refuse(schema.CodeBadWorld, "world %s has %d ranks, not %d; give each launch a world of its own", req.World,
			rec.Size, req.Size)
	case m.Reader == req.Reader && m.Request == req.Request && !req.Repair && s.repeated(now, a):
	case req.Mode == wire.ModeOpen:
		s.admit(now, a)
	case m.Reader != "" && m.Reader != req.Reader:
		s.refuse(schema.CodeSuperseded, "rank %d of world %s is trainer %s", req.Rank.Rank, req.World, m.Reader)
	default:
		return false
	}
	return true
}

// admit gives a process the slot of its rank, where the one before left off.
func (s *seats) admit(now time.Time, a *asking) {
	req := a.seat
	if a.key != s.ledger.key {
		s.requests.refuse(anotherSpec(&s.ledger.rec))
		return
	}
	if fault := s.roster.admits(now, req); fault != nil {
		s.requests.refuse(fault)
		return
	}
	s.ledger.record(toAdmit, func(r *wire.Record) {
		r.Since = now
		m := r.Members[req.Rank.Rank]
		if m.Reader != req.Reader {
			r.Retire(m.Reader, m.Request)
		}
		r.Admit(req.Rank.Rank, wire.Member{Reader: req.Reader, Request: req.Request, Placed: m.Placed})
	})
}

// admitted goes on when the slot is in the record.
func (s *seats) admitted(now time.Time, a *asking) {
	rank := a.seat.Rank.Rank
	s.readers.sync(now)
	s.ranks.came(now, rank)
	if s.ledger.rec.Shared() {
		s.out.info("reader came", "name", a.seat.Name, "reader", a.seat.Reader)
	} else {
		s.out.info("rank came", "world", a.seat.World, "rank", rank, "reader", a.seat.Reader)
	}
	s.give(now, a, s.reply(a, s.ledger.rec.Position, false, s.sharing.warnings(a.seat)...))
}

// moves decides on a rank that asks for a state, and reports true when all ranks of the world are to move there.
func (s *seats) moves(now time.Time, a *asking, state []byte) bool {
	req := a.seat
	if s.ledger.rec.Shared() {
		return s.sharing.seat(now, a, state)
	}
	course, position, why := s.roster.course(now, req, state)
	switch course {
	case movesAll:
		return true
	case diverges:
		s.feeder.failRun(why)
		s.requests.refuse(why)
	case refused:
		s.requests.refuse(why)
	case seated:
		a.position = position
		s.ledger.record(toPlace, func(r *wire.Record) {
			takenIn(r, s.feeder.gen)
			kept := r.Taken - r.Holes
			r.Taken = min(r.Taken, position-1) // of one that had left, or that is past holes
			r.Holes = r.Taken - min(kept, r.Taken)
			r.Phase = schema.PhaseRunning // a rank that comes again meets the end once more
			r.Admit(req.Rank.Rank, wire.Member{
				Reader: req.Reader, Request: req.Request, Placed: true, Seated: true, Repaired: req.Repair,
			})
		})
	}
	return false
}

// placed goes on when the place of a rank is in the record.
func (s *seats) placed(now time.Time, a *asking) {
	s.ending.finished = false
	s.sharing.placed(now)
	rank, g := a.seat.Rank.Rank, s.feeder.gen
	s.ranks.came(now, rank)
	s.ranks.place(rank, a.position-1)
	back := a.position <= g.Taken()
	if back {
		g.seek(a.position, 0)
	}
	s.count.Held++
	s.out.info("rank seated", "world", a.seat.World, "rank", rank, "name", a.seat.Name, "gen", g.gen, "seq", a.position)
	s.give(now, a, s.reply(a, a.position, true, a.warnings(s.feeder.ownData(now))...))
	s.feeder.advance(now)
	if a.seat.Repair || back { // of a doubt, so that the store may be lost; or it wants what was not wanted any more
		s.feeder.repair(now)
	}
}
