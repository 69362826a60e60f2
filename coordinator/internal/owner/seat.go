package owner

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// asking is a request. Every step that may wait ends in an event, after which the request is decided anew: what was true
// before may not be true any more.
type asking struct {
	token    Token
	seat     *wire.SeatRequest // one of the two
	stop     *wire.StopRequest
	key      wire.Digest // of the Spec that seat asks for
	asked    time.Time
	patience time.Time // until when it waits for a data set to open; zero while it does not
	readying bool      // a Ready is under way
	ready    bool      // a generation can be made now
	making   bool      // the generation is in the record and its store is being made

	state    []byte // that the reader is seated at
	over     bool   // sit: the run before is over
	differs  bool   // sit: it is of another spec
	changed  string // sit: how its data differ from those that the data set has now
	before   string // the generation before
	position uint64 // seek: of the state that is held
	failure  *schema.Fault
}

// ask takes a request, which waits for those before it.
func (o *Owner) ask(a *asking) {
	if len(o.asked) >= maxQueued {
		o.answer(a, unavailable("%d requests for batcher %s wait already; ask again", len(o.asked), o.rec.Batcher))
		return
	}
	if a.stop != nil && a.stop.Last != nil && a.stop.Reader == o.rec.Reader {
		o.credit(a.asked, a.stop.Last)
	}
	o.asked = append(o.asked, a)
}

// carryOn carries requests out, one after another, as far as they go.
func (o *Owner) carryOn(now time.Time) {
	for !o.over && o.writing == nil && o.making == nil {
		if o.asking == nil {
			if len(o.asked) == 0 {
				return
			}
			next := o.asked[0]
			waits := o.resumes && o.needsRun(next)
			if waits && now.Sub(next.asked) < openPatience {
				return
			}
			o.asked = o.asked[1:]
			if waits {
				o.answer(next, o.resuming())
				continue
			}
			o.asking = next
		}
		a := o.asking
		if a.making {
			return
		}
		if a.stop != nil {
			o.carryStop(now, a)
		} else {
			o.carrySeat(now, a)
		}
		if o.asking == a {
			return // it waits for an event
		}
	}
}

// needsRun reports whether a request can only be answered when the record's generation is in memory: a look-up, or the
// repetition of a request that began it.
func (o *Owner) needsRun(a *asking) bool {
	req := a.seat
	return req != nil && req.Mode != wire.ModeOpen && req.Reader == o.rec.Reader && (req.Mode == wire.ModeSeek || req.Request == o.rec.Request)
}

// resuming says why the record's generation is not in memory yet.
func (o *Owner) resuming() *schema.Fault {
	if o.trouble != "" {
		return unavailable("%s", o.trouble)
	}
	return unavailable("the run was taken over and is not resumed yet: %s", cmp.Or(o.hindered, "its store is being looked at"))
}

// answer answers a request that failed, without a doubt.
func (o *Owner) answer(a *asking, fault *schema.Fault) {
	if a.stop != nil {
		o.emit(ReplyStop{a.token, wire.StopReply{Fault: fault}})
	} else {
		o.emit(ReplySeat{a.token, wire.SeatReply{Fault: fault}})
	}
}

// finish ends the request under way with a fault, which is confirmed first unless it only says to ask again.
func (o *Owner) finish(a *asking, fault *schema.Fault) {
	if o.asking == a {
		o.asking = nil
	}
	switch {
	case o.over: // it was answered
	case fault.Code == schema.CodeUnavailable:
		o.answer(a, fault)
	case a.stop != nil:
		o.confirm(ReplyStop{a.token, wire.StopReply{Fault: fault}})
	default:
		o.confirm(ReplySeat{a.token, wire.SeatReply{Fault: fault}})
	}
}

// give ends the request under way with a seat that is in the record.
func (o *Owner) give(now time.Time, a *asking, reply wire.SeatReply) {
	o.asking = nil
	o.heard = now
	o.last = wire.Credit{Gen: o.rec.Gen, Seat: o.rec.Seat, Reader: o.rec.Reader, BatchBytes: o.batchBytes()}
	o.emit(ReplySeat{a.token, reply})
	o.notify() // the one who asked hears it by the answer, and should not have to say that it did before
}

// repeat ends the request under way with an answer that it had before.
func (o *Owner) repeat(a *asking, reply wire.SeatReply) {
	o.asking = nil
	o.emit(ReplySeat{a.token, reply})
}

// carrySeat goes on with a request for the seat.
func (o *Owner) carrySeat(now time.Time, a *asking) {
	req := a.seat
	if o.rec.Seat == 0 { // nobody was seated yet, so the record was made for the one who asks
		o.rec.Spec = wire.Spec{Dataset: req.Spec.Dataset, Version: o.cfg.Kinds[req.Spec.Dataset], Params: req.Spec.Params}
		o.rec.Settings, o.key = req.Settings, a.key
	}
	same := o.rec.Reader == req.Reader || o.rec.Seat == 0
	switch {
	case o.overtaken(req.Reader, req.Request):
		o.finish(a, &schema.Fault{Code: schema.CodeSuperseded, Message: "this request was overtaken by a later one"})
		return
	case same && req.Request == o.rec.Request:
		if done := o.repeated(now, a); done {
			return
		}
	case !same && req.Mode != wire.ModeOpen:
		o.finish(a, &schema.Fault{Code: schema.CodeSuperseded, Message: fmt.Sprintf("batcher %s is held by reader %s", o.rec.Batcher, o.rec.Reader)})
		return
	}
	o.follow(req.Trace)
	switch req.Mode {
	case wire.ModeOpen:
		o.sit(now, a)
	case wire.ModeStart, wire.ModeSeek:
		o.seek(now, a)
	default:
		o.finish(a, &schema.Fault{Code: schema.CodeBadRequest, Message: fmt.Sprintf("unknown mode %q", req.Mode)})
	}
}

// overtaken reports whether a request of a reader is older than the one that it was last answered, or than the loss of its
// seat: a duplicate that comes so late changes nothing.
func (o *Owner) overtaken(reader, request string) bool {
	if reader == o.rec.Reader {
		return request < o.rec.Request
	}
	return slices.ContainsFunc(o.rec.Former, func(f wire.Former) bool { return f.Reader == reader && request <= f.Request })
}

// repeated answers a request that was carried out before and whose answer was lost. It reports false when the request is
// to be carried out again: the generation that it began could not be set up, or was lost meanwhile and begun again at
// another state.
func (o *Owner) repeated(now time.Time, a *asking) bool {
	req := a.seat
	switch r := o.seatReply(false); {
	case req.Mode == wire.ModeOpen:
		o.repeat(a, r)
	case o.gen != nil && len(r.State.Data) == 0: // after a takeover, until the run has been iterated again so far
		o.finish(a, unavailable("the run was taken over and is being iterated again from %d", o.gen.Floor()))
	case o.gen != nil:
		state, fault, waits := o.stateOf(now, a)
		if waits {
			return true
		}
		if fault == nil && !bytes.Equal(state, r.State.Data) {
			return false
		}
		o.repeat(a, r)
	case o.rec.Phase == schema.PhaseFailed:
		o.finish(a, o.rec.Error)
	case o.rec.Phase == schema.PhaseClosed:
		o.finish(a, &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf("batcher %s was stopped after this request", o.rec.Batcher)})
	default:
		return false
	}
	return true
}

// openFor returns the opened data set of a spec. Nil: the request waits for it, or was answered.
func (o *Owner) openFor(now time.Time, a *asking, spec wire.Spec, key wire.Digest) *data {
	d := o.dataOf(now, spec, key)
	switch fault := o.failed(d); {
	case fault != nil:
		o.unwanted = o.rec.Seat == 0 // the record was made for this request, and for nothing else
		o.finish(a, fault)
		return nil
	case d.open:
		a.patience = time.Time{}
		return d
	case now.Sub(a.asked) >= openPatience:
		o.finish(a, d.opening(now, spec))
	default:
		a.patience = a.asked.Add(openPatience)
	}
	return nil
}

// sit gives the batcher to a reader without starting it.
func (o *Owner) sit(now time.Time, a *asking) {
	req := a.seat
	version, known := o.cfg.Kinds[req.Spec.Dataset]
	spec := wire.Spec{Dataset: req.Spec.Dataset, Version: version, Params: req.Spec.Params}
	a.differs = a.key != o.key
	if o.held(now) && o.rec.Reader != req.Reader && o.rec.Phase != schema.PhaseClosed {
		switch {
		case a.differs:
			o.finish(a, o.mismatch())
			return
		case !req.TakeOver:
			o.finish(a, &schema.Fault{Code: schema.CodeInUse, Message: fmt.Sprintf(
				"batcher %s is held by reader %s, last heard %v ago; take over, or use another name",
				o.rec.Batcher, o.rec.Reader, now.Sub(o.heard).Round(time.Millisecond))})
			return
		}
	}
	if !known {
		o.finish(a, &schema.Fault{Code: schema.CodeUnknownDataset, Message: fmt.Sprintf("coordinator %s has no data set %q", o.cfg.Name, req.Spec.Dataset)})
		return
	}
	d := o.openFor(now, a, spec, a.key)
	if d == nil {
		return
	}
	// A run that ended badly, was stopped, or was of another spec or of other data is over; any other goes on.
	a.over = a.differs || o.rec.Phase == schema.PhaseFailed || o.rec.Phase == schema.PhaseClosed
	if o.rec.Reader != req.Reader && o.asksForData(now, a, d, spec) {
		return
	}
	a.before = o.rec.Gen
	o.record(toSit, a, func(r *wire.Record) {
		if r.Reader != req.Reader {
			vacate(r)
		}
		r.Reader, r.Request, r.Settings, r.Since = req.Reader, req.Request, req.Settings, now
		r.Seat++
		if a.over {
			r.Spec, r.Gen, r.Phase, r.Error, r.Verdict, r.FloorState = spec, "", schema.PhaseStopped, nil, nil, nil
			r.Origin, r.Accepted = "", ""
			if a.differs {
				r.BatchBytes = 0
			}
		}
	})
}

// mismatch refuses a reader of another spec.
func (o *Owner) mismatch() *schema.Fault {
	return &schema.Fault{Code: schema.CodeSpecMismatch, Message: fmt.Sprintf(
		"batcher %s runs data set %s with parameters %s; stop it, or use another name", o.rec.Batcher, o.rec.Spec.Dataset, o.rec.Spec.Params)}
}

// sat goes on when the seat is in the record.
func (o *Owner) sat(now time.Time, a *asking) {
	var warnings []string
	if a.over {
		if a.differs && a.before != "" {
			warnings = append(warnings, "the data set or its parameters changed since the batcher last ran")
		}
		if a.changed != "" {
			warnings = append(warnings, "the data changed since the batcher last ran: "+a.changed)
			o.warn("run is over: its data changed", "gen", a.before, "changed", a.changed)
		}
		o.discard(a.before)
	}
	o.key = a.key
	o.forgetOthers()
	o.resize(now)
	o.give(now, a, o.seatReply(false, warnings...))
}

// seek seats the reader at a state: where it is held, or in a new generation.
func (o *Owner) seek(now time.Time, a *asking) {
	req := a.seat
	if version := o.cfg.Kinds[o.rec.Spec.Dataset]; version != o.rec.Spec.Version {
		if req.Mode != wire.ModeStart {
			o.finish(a, o.anotherVersion(version))
			return
		}
		o.rec.Spec.Version, o.key = version, a.key // the run that is under way is over, and begun again as the data set is now
	}
	if a.key != o.key { // the record was forged, or lost, and is not the one that this reader opened
		o.finish(a, o.mismatch())
		return
	}
	d := o.openFor(now, a, o.rec.Spec, o.key)
	if d == nil {
		return
	}
	state, fault, waits := o.stateOf(now, a)
	if waits {
		return
	}
	if fault != nil {
		o.finish(a, fault)
		return
	}
	if o.refusesOrigin(a, d) {
		return
	}
	a.state = state
	if g := o.gen; g != nil && req.Mode == wire.ModeSeek {
		switch {
		case !o.silent.IsZero():
			o.finish(a, unavailable("the store of results does not answer"))
			return
		case !g.settled:
			o.finish(a, unavailable("the run was taken over and is being iterated again from %d", g.Floor()))
			return
		}
		if position, ok := g.Find(state); ok {
			a.position = position
			o.record(toSeek, a, func(r *wire.Record) {
				o.seatIn(now, a, r)
				r.Position, r.Taken, r.Phase = position, position-1, schema.PhaseRunning
			})
			return
		}
	}
	if !a.ready {
		if !a.readying {
			a.readying = true
			o.emit(Ready{})
		}
		return
	}
	gen := o.cfg.NewGen()
	a.before = o.rec.Gen
	o.record(toBegin, a, func(r *wire.Record) {
		beginIn(now, r, gen, state, 0)
		r.Origin, r.Accepted = d.origin, a.changed
		o.seatIn(now, a, r)
	})
}

func (o *Owner) seatIn(now time.Time, a *asking, r *wire.Record) {
	r.Request, r.Reader, r.Since = a.seat.Request, a.seat.Reader, now
	r.Seat++
}

// sought goes on when a look-up is in the record. Nothing that it skips over, and no look at the store, is waited for.
func (o *Owner) sought(now time.Time, a *asking) {
	g := o.gen
	g.saved, o.finished = a.position-1, false
	from, to := g.Seek(a.position)
	o.cancel(from, to)
	g.backup = 0
	g.looked, g.pause = time.Time{}, 0
	o.count.Held++
	o.info("seated at a held state", "gen", o.rec.Gen, "seat", o.rec.Seat, "seq", a.position)
	o.give(now, a, o.seatReply(true, a.warnings(o.ownData(now))...))
	o.repair(now) // what was skipped over before may be wanted now, and the store may be lost
	o.demand(now)
}

// stateOf returns the state that a request asks for, or the data set's first one. It reports true when the request waits
// for that, or was answered.
func (o *Owner) stateOf(now time.Time, a *asking) (state []byte, fault *schema.Fault, waits bool) {
	s := a.seat.State
	if s.IsZero() {
		d := o.openFor(now, a, o.rec.Spec, o.key)
		if d == nil {
			return nil, nil, true
		}
		state, fault := o.firstState(d)
		return state, fault, state == nil && fault == nil
	}
	spec := o.rec.Spec
	if s.Dataset != "" && (s.Dataset != spec.Dataset || s.Version != spec.Version) {
		return nil, &schema.Fault{Code: schema.CodeWrongState, Message: fmt.Sprintf(
			"the state is of data set %s version %d, the batcher's is %s version %d", s.Dataset, s.Version, spec.Dataset, spec.Version)}, false
	}
	if len(s.Data) > schema.MaxState {
		return nil, &schema.Fault{Code: schema.CodeStateTooLarge, Message: fmt.Sprintf("state of %d bytes; at most %d", len(s.Data), schema.MaxState)}, false
	}
	return s.Data, nil, false
}

func (o *Owner) seatReply(held bool, warnings ...string) wire.SeatReply {
	r := wire.SeatReply{Gen: o.rec.Gen, Seat: o.rec.Seat, Position: o.rec.Position, Phase: o.rec.Phase, Held: held, Warnings: warnings}
	if o.gen != nil {
		r.Window, r.Spec = o.gen.Limit(), o.gen.spec
		spec := o.rec.Spec
		r.State = schema.State{
			Dataset: spec.Dataset, Version: spec.Version, Origin: o.rec.Origin, Data: o.gen.StateAfter(o.rec.Position - 1),
		}
	}
	return r
}

// carryStop ends the run, or lets the reader leave it to another.
func (o *Owner) carryStop(now time.Time, a *asking) {
	req := a.stop
	switch seated := o.rec.Reader == req.Reader; {
	case !seated && (o.rec.Phase == schema.PhaseClosed || o.rec.Reader == ""):
		o.asking = nil
		o.confirm(ReplyStop{a.token, wire.StopReply{Error: o.rec.Error}})
		return
	case !seated:
		o.finish(a, &schema.Fault{Code: schema.CodeSuperseded, Message: fmt.Sprintf("batcher %s is held by reader %s", o.rec.Batcher, o.rec.Reader)})
		return
	case o.overtaken(req.Reader, req.Request):
		o.finish(a, &schema.Fault{Code: schema.CodeSuperseded, Message: "this request was overtaken by a later one"})
		return
	}
	a.before, a.failure = o.rec.Gen, o.rec.Error
	if o.failing != nil && o.failing.gen == o.rec.Gen {
		a.failure = o.failing.fault
	}
	o.record(toStop, a, func(r *wire.Record) {
		r.Since, r.Request = now, req.Request
		if o.gen != nil {
			r.Taken = o.gen.Taken()
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
func (o *Owner) stopped(a *asking) {
	o.asking = nil
	if !a.stop.Leave {
		o.discard(a.before)
		o.info("batcher stopped", "gen", a.before)
	}
	o.notify()
	o.emit(ReplyStop{a.token, wire.StopReply{Error: a.failure}})
}
