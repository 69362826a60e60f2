package owner

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// seek seats the reader at a state: where it is held, or in a new generation.
func (s *seats) seek(now time.Time, a *asking) {
	req, rec := a.seat, &s.ledger.rec
	if req.Mode == wire.ModeJoin && !s.readers.run() {
		s.ledger.unwanted = rec.Seat == 0 // the record was made for this request
		s.requests.refuse(elsewhereFault(rec, "no run is shared"))
		return
	}
	spec, settings, key := rec.Spec, rec.Settings, s.ledger.key
	if rec.Seat == 0 { // nobody was seated yet, so the record was made for the one who asks
		spec = wire.Spec{Dataset: req.Spec.Dataset, Version: s.cfg.Kinds[req.Spec.Dataset], Params: req.Spec.Params}
		settings, key = req.Settings, a.key
	}
	if version := s.cfg.Kinds[spec.Dataset]; version != spec.Version {
		if req.Mode != wire.ModeStart {
			s.requests.refuse(anotherVersion(rec, version))
			return
		}
		spec.Version, key = version, a.key // the run that is under way is over, and begun again as the data set is now
	}
	if a.key != key { // the record is not the one that this reader opened
		s.requests.refuse(anotherSpec(rec))
		return
	}
	d := s.openFor(now, a, spec, key)
	if d == nil {
		return
	}
	state, fault, waits := s.stateOf(now, a, spec, key)
	if waits {
		return
	}
	if fault != nil {
		s.requests.refuse(fault)
		return
	}
	if s.refusesOrigin(a, d) {
		return
	}
	if a.rebased != nil && !a.rebased.Unsaid {
		state = a.rebased.State
	}
	if rec.Size > 0 && anyPlaced(rec) && !s.moves(now, a, state) {
		return
	}
	if g := s.feeder.gen; g != nil && req.Mode == wire.ModeSeek {
		if unready := s.feeder.unready(); unready != nil {
			s.requests.refuse(unready)
			return
		}
		if position, ok := g.Find(state); ok {
			a.position = position
			s.ledger.record(toSeek, func(r *wire.Record) {
				s.seatIn(now, a, r)
				takenIn(r, g)
				r.Position, r.Taken, r.Holes, r.Phase = position, position-1, 0, schema.PhaseRunning
			})
			return
		}
	}
	if !a.ready {
		if !a.readying {
			a.readying = true
			s.out.emit(Ready{})
		}
		return
	}
	gen := s.cfg.NewGen()
	a.before = s.ledger.lane()
	s.ledger.recordSpec(toBegin, key, func(r *wire.Record) {
		r.Spec, r.Settings = spec, settings
		takenIn(r, s.feeder.gen)
		beginIn(now, r, gen, state, 0, 0)
		r.Origin, r.Accepted = d.origin, a.changed
		s.seatIn(now, a, r)
	})
}

// begun goes on when the generation that a request begins is in the record. The record comes first: a generation that
// it names and that has no store is found out and begun again, a store that it does not name is collected.
func (s *seats) begun(now time.Time, a *asking) {
	s.ranks.counted(now) // their credits come before there is a store
	s.ranks.moved(now, 0)
	s.readers.sync(now)
	s.feeder.discard(a.before)
	s.count.Generations++
	a.making = true
	s.out.emit(Make{Gens: []string{s.ledger.rec.Gen}})
}

// readied goes on when a generation can be made now, or says why it cannot.
func (s *seats) readied(reason string) {
	a := s.requests.asking
	if a == nil || !a.readying {
		return
	}
	a.readying, a.ready = false, reason == ""
	if reason != "" {
		s.requests.refuse(unavailable("generation of batcher %s: %s", s.ledger.rec.Batcher, reason))
	}
}

// made goes on when the generation has its store.
func (s *seats) made(now time.Time, reason string) {
	a, rec := s.requests.asking, &s.ledger.rec
	if a == nil || !a.making {
		return
	}
	a.making = false
	if reason != "" { // the record has it: resume finds that it has no store
		s.feeder.resumes = true
		s.recovery.later(now)
		s.requests.refuse(unavailable("generation of batcher %s: %s", rec.Batcher, reason))
		return
	}
	s.out.info("generation begun", "gen", rec.Gen, "seat", rec.Seat)
	if a.changed != "" {
		s.out.warn("begun from a state of other parameters or data, as the trainer accepts",
			"gen", rec.Gen, "changed", a.changed)
	}
	s.feeder.start(now, window.New(0, rec.FloorState, 0))
	s.feeder.gen.settled = true
	s.give(now, a, s.reply(a, rec.Position, false, a.warnings(s.feeder.ownData(now))...))
}

// seatIn gives the seat to the reader that asks, or to all ranks that do.
func (s *seats) seatIn(now time.Time, a *asking, r *wire.Record) {
	r.Since = now
	began := anyPlaced(r)
	sitIn(r, a.seat)
	for rank := range r.Members {
		m := &r.Members[rank]
		switch asked := s.ranks.asking(rank); {
		case rank == a.seat.Rank.Rank:
			m.Placed, m.Seated, m.Moved, m.Repaired = true, true, true, false
		case began && !m.Left && asked != nil:
			m.Reader = asked.reader // of a record that was made anew, the slot may be empty
			m.Request, m.Seat = asked.request, r.Seat
			m.Placed, m.Seated, m.Moved, m.Repaired = true, true, true, false
		default: // it left, or comes later: it begins where this one does
			m.Placed = false
		}
	}
	detachOthers(r, a.seat.Rank.Rank)
}

// sitIn gives the seat to the reader that asks, or to its world, and its slot.
func sitIn(r *wire.Record, req *wire.SeatRequest) {
	r.Seat++
	if req.Name != "" {
		admitIn(r, req, false)
		return
	}
	if req.World == "" {
		r.Reader, r.Request = req.Reader, req.Request
		return
	}
	if r.Reader != req.World || r.Size != req.Size {
		r.Reader, r.Size, r.Members = req.World, req.Size, make([]wire.Member, req.Size)
	}
	r.Request = req.Request
	r.Members = slices.Clone(r.Members)
	m := &r.Members[req.Rank.Rank]
	m.Reader, m.Request, m.Seat, m.Left = req.Reader, req.Request, r.Seat, false
}

// sought goes on when a look-up is in the record. Nothing that it skips over, and no look at the store, is waited for.
// The store is looked at because what was skipped over before may be wanted now, and because it may be lost, which a
// reader that asks for where it is may have found. Any other wants what is stored or on its way: the questions of a
// look would compete with its own for the first batch, so the look comes with the next beat.
func (s *seats) sought(now time.Time, a *asking) {
	rec := &s.ledger.rec
	g := s.feeder.gen
	s.ending.finished = false
	s.ranks.moved(now, a.position-1)
	came := uint64(0) // credits speak for several batches, and it may have taken more
	if rec.Size == 0 && a.seat.Seat+1 == rec.Seat {
		came = a.seat.Taken
	}
	g.seek(a.position, came)
	s.count.Held++
	s.out.info("seated at a held state", "gen", rec.Gen, "seat", rec.Seat, "seq", a.position)
	s.give(now, a, s.reply(a, a.position, true, a.warnings(s.feeder.ownData(now))...))
	if a.seat.Repair || a.position <= g.skipped {
		s.feeder.repair(now)
	} else {
		g.late.wanted = true
	}
	// Fewer jobs wait for the next credit, and do not compete with the batch that the reader asks for.
	if g.Want() >= wire.CreditEvery(g.Limit()) {
		g.demand(now)
	}
}

// stateOf returns the state that a request asks for, or the data set's first one. It reports true when the request
// waits for that, or was answered.
func (s *seats) stateOf(
	now time.Time, a *asking, spec wire.Spec, key wire.Digest,
) (state []byte, fault *schema.Fault, waits bool) {
	at := a.seat.State
	if at.IsZero() {
		d := s.openFor(now, a, spec, key)
		if d == nil {
			return nil, nil, true
		}
		state, fault := s.data.first(d)
		return state, fault, state == nil && fault == nil
	}
	if at.Dataset != "" && (at.Dataset != spec.Dataset || at.Version != spec.Version) {
		return nil, &schema.Fault{Code: schema.CodeWrongState, Message: fmt.Sprintf(
			"the state is of data set %s version %d, the batcher's is %s version %d", at.Dataset, at.Version, spec.Dataset, spec.Version)}, false
	}
	if len(at.Data) > schema.MaxState {
		return nil, &schema.Fault{Code: schema.CodeStateTooLarge, Message: fmt.Sprintf("state of %d bytes; at most %d", len(at.Data), schema.MaxState)}, false
	}
	return at.Data, nil, false
}

// reply is the answer to a reader, or rank, that is seated at a position.
func (s *seats) reply(a *asking, position uint64, held bool, warnings ...string) wire.SeatReply {
	rec := &s.ledger.rec
	r := wire.SeatReply{
		Gen: rec.Gen, Seat: s.ledger.seatOf(a.seat.Rank.Rank), Position: position, Phase: rec.Phase, Held: held,
		Warnings: warnings,
	}
	if s.feeder.gen != nil {
		r.Window, r.Spec = s.feeder.gen.Limit(), s.feeder.gen.spec
		spec := rec.Spec
		r.State = schema.State{
			Dataset: spec.Dataset, Version: spec.Version, Origin: rec.Origin, Data: s.feeder.gen.StateAfter(position - 1),
		}
	}
	return r
}

// refusesOrigin holds the origin of the state that a request asks for against that of the data set. It reports true
// when the request was refused, or while it waits to know why.
func (s *seats) refusesOrigin(a *asking, d *data) bool {
	at := a.seat.State
	if a.changed = ""; at.IsZero() || d.isOf(at.Origin) {
		return false
	}
	differences := s.data.differences(d, at.Origin)
	if len(differences) == 0 {
		return true
	}
	a.changed = strings.Join(differences, "; ")
	if a.seat.AcceptChange {
		switch {
		case a.rebased == nil && a.rebasing == 0:
			a.rebasing = d.serial
			s.out.emit(Rebase{d.serial, at.Origin, at.Data})
			return true
		case a.rebased == nil:
			return true
		case a.rebased.Refusal == "":
			return false
		}
		differences = append(slices.Clone(differences), "the state means nothing there: "+a.rebased.Refusal)
	}
	s.requests.confirm(ReplySeat{a.token, wire.SeatReply{Differences: differences, Fault: &schema.Fault{
		Code: schema.CodeWrongData, Message: "the state is of other parameters or data: " + strings.Join(differences, "; "),
	}}})
	return true
}

// warnings are what the reader should know of the state that it is seated at.
func (a *asking) warnings(d *data) []string {
	switch s := a.seat.State; {
	case a.changed != "":
		list := []string{"the state is of other parameters or data, which was accepted: " + a.changed}
		if a.rebased != nil && a.rebased.Unsaid {
			list = append(list, "the data set does not say what a position means on other data; it was taken as it is")
		}
		return list
	case s.Dataset != "" && s.Origin == "" && d.origin != "":
		return []string{"the state does not say which parameters and data it is of, so that they were not checked"}
	}
	return nil
}
