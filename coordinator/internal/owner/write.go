package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// write begins the next change of the record in the background, if one is due and none is under way. Requests come
// first, since a reader waits for them; a change in the background is decided anew from what is true by then.
func (o *Owner) write(now time.Time) {
	l, g, rec := o.ledger, o.feeder.gen, &o.ledger.rec
	if l.writing != nil || now.Before(l.writeAt) {
		return
	}
	if f := o.ending.failing; f != nil && (f.gen != rec.Gen || rec.Phase == schema.PhaseFailed) {
		o.ending.failing = nil // another generation has begun, or it is recorded
	}
	v := rec.Verdict
	switch {
	case l.unwanted && rec.Seat == 0:
		o.retire()
	case o.ending.failing != nil:
		fault := o.ending.failing.fault
		l.record(toFail, func(r *wire.Record) {
			takenIn(r, g)
			r.Phase, r.Error, r.Since = schema.PhaseFailed, fault, now
		})
	case o.ending.finished && v != nil && v.Fault == nil && rec.Phase == schema.PhaseRunning:
		l.record(toFinish, func(r *wire.Record) {
			takenIn(r, g)
			r.Phase, r.Since = schema.PhaseDone, now
		})
	case g != nil && g.unsaid != nil && (v == nil || v.Seq != g.unsaid.Seq):
		l.record(toConclude, func(r *wire.Record) { r.Verdict = g.unsaid })
	case o.readers.falls(now):
		l.record(toDetach, o.readers.detach)
	case l.damaged:
		l.record(toMend, func(*wire.Record) {})
	case g != nil && g.save && now.Sub(l.unsaved) >= savePause:
		l.record(toSave, g.progress())
	}
}

// recorded ends the change under way.
func (o *Owner) recorded(now time.Time, e Recorded) {
	before := o.ledger.trouble
	c := o.ledger.recorded(now, e)
	if c == nil {
		return
	}
	standing := func(at wire.Rank) wire.CreditReply { return o.feeder.standing(now, at) }
	switch e.Outcome {
	case Done:
		o.stored(now, c.aim)
		if !o.ending.due(&o.ledger.rec) {
			o.ending.answer(o.out, standing)
		}
		return
	case Conflict:
		o.depose(e.Owner)
	}
	o.ending.answer(o.out, standing)
	reason := unavailable("record of batcher %s: %s", o.ledger.rec.Batcher, e.Reason)
	switch c.aim {
	case toSit, toAdmit, toPlace, toYield, toSeek, toBegin, toStop:
		o.requests.refuse(reason)
	case toBeginNew:
		o.recovery.notRecorded(now, e.Outcome, reason.Message)
	default:
		if e.Reason != before { // it is tried every second
			o.out.retry("record not changed yet", "change", c.aim.String(), "error", e.Reason)
		}
	}
}

// stored goes on after a change of the record.
func (o *Owner) stored(now time.Time, aim aim) {
	a, rec := o.requests.asking, &o.ledger.rec
	switch aim {
	case toSit:
		o.seats.sat(now, a)
	case toAdmit:
		o.seats.admitted(now, a)
	case toPlace:
		o.seats.placed(now, a)
	case toYield:
		o.readers.changed(now)
		o.requests.refuse(a.failure)
	case toDetach:
		o.readers.detached(now)
	case toSeek:
		o.seats.sought(now, a)
	case toBegin:
		o.seats.begun(now, a)
	case toBeginNew:
		o.recovery.recorded(now)
	case toStop:
		o.stops.stopped(now, a)
	case toFail:
		o.feeder.discard(o.ledger.lane()) // only Start goes on from here, with a new generation: its jobs would only be in the way
		o.ending.failing = nil
		clear(o.ranks.asks)
		o.out.warn("run failed", "gen", rec.Gen, "seq", rec.Error.Seq, "worker", rec.Error.Worker, "error", rec.Error.Message)
		o.feeder.notify()
	case toFinish:
		o.out.info("run is done", "gen", rec.Gen, "seq", rec.Verdict.Seq-1)
	case toConclude:
		o.out.info("sequence ends", "gen", rec.Gen, "seq", rec.Verdict.Seq, "error", rec.Verdict.Fault)
		if g := o.feeder.gen; g != nil {
			g.conclude()
		}
	case toSave:
		if g := o.feeder.gen; g != nil {
			if g.progressed() && o.reader.fetches() {
				o.feeder.announce(false) // which lets workers drop the payloads, too
			}
			g.resize(now)
		}
	case toRetire, toMend:
	}
}

// retire deletes a batcher that had no reader for its idle timeout, or whose first Open was refused. What is under way
// ends first; it is looked at again.
func (o *Owner) retire() {
	if o.ledger.writing == nil && o.recovery.making == nil && o.requests.idle() && o.requests.answers.confirming == nil {
		o.ledger.retire()
	}
}

// retired ends a deletion of the record.
func (o *Owner) retired(now time.Time, e Retired) {
	if !o.ledger.retired() {
		return
	}
	switch e.Outcome {
	case Done:
		lane, idle := o.ledger.lane(), now.Sub(o.reader.heard)
		if a := o.requests.asking; a != nil { // an operator's
			o.requests.end(ReplyStop{a.token, wire.StopReply{}})
		} else {
			o.out.info("idle batcher collected", "gen", lane.gen, "idle", idle.Round(time.Second).String())
		}
		o.feeder.discard(lane)
		o.letGo()
	case Conflict:
		o.depose(e.Owner)
	case Silent, Failed:
		if o.requests.asking != nil {
			o.requests.refuse(unavailable("record of batcher %s: %s", o.ledger.rec.Batcher, e.Reason))
			return
		}
		o.out.retry("idle batcher not collected yet", "error", e.Reason)
	}
}
