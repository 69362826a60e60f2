package owner

import (
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A change of the record is decided when nothing else is being recorded, stored by the shell, and believed once it is
// stored. Requests come first, since a reader waits for them; a change in the background is decided anew from what is
// true by then.

// change is what is being recorded.
type change struct {
	aim  aim
	next wire.Record
	asks *asking // whose answer depends on it; nil for none
}

// aim is the purpose of a change.
type aim uint8

const (
	toRetire   aim = iota // the record is deleted
	toSit                 // a reader is given the seat
	toSeek                // the seat moves to a state that is held
	toBegin               // a generation is begun for a request
	toBeginNew            // a generation is begun in the place of one that was lost
	toStop                // the run is stopped, or left
	toFail                // the run failed
	toFinish              // the trainer has everything
	toConclude            // the verdict
	toSave                // progress
	toMend                // the same again, in the place of what was damaged
)

// failure is an error that ends a generation.
type failure struct {
	gen   string
	fault *schema.Fault
}

// record begins a change. Nothing may be under way.
func (o *Owner) record(aim aim, asks *asking, apply func(*wire.Record)) {
	next := o.rec
	apply(&next)
	o.writing = &change{aim: aim, next: next, asks: asks}
	o.emit(Record{next, o.rev})
}

// write begins the next change in the background, if one is due and none is under way.
func (o *Owner) write(now time.Time) {
	if o.over || o.writing != nil || now.Before(o.writeAt) {
		return
	}
	g := o.gen
	v := o.rec.Verdict
	switch {
	case o.unwanted && o.rec.Seat == 0:
		o.retire()
	case o.failing != nil && (o.failing.gen != o.rec.Gen || o.rec.Phase == schema.PhaseFailed):
		o.failing = nil // another generation has begun, or it is recorded
		o.write(now)
	case o.failing != nil:
		fault := o.failing.fault
		o.record(toFail, nil, func(r *wire.Record) { r.Phase, r.Error, r.Since = schema.PhaseFailed, fault, now })
	case o.finished && v != nil && v.Fault == nil && o.rec.Phase == schema.PhaseRunning:
		o.record(toFinish, nil, func(r *wire.Record) { r.Phase, r.Since = schema.PhaseDone, now })
	case g != nil && g.unsaid != nil && (v == nil || v.Seq != g.unsaid.Seq):
		o.record(toConclude, nil, func(r *wire.Record) { r.Verdict = g.unsaid })
	case o.damaged:
		o.record(toMend, nil, func(*wire.Record) {})
	case g != nil && o.save && now.Sub(o.unsaved) >= savePause:
		o.save = false
		floor := max(o.droppable(), min(o.saveTo, g.Taken()))
		o.saveTo = 0
		o.record(toSave, nil, func(r *wire.Record) {
			r.Taken, r.Floor, r.FloorState = g.Taken(), floor, g.StateAfter(floor)
			r.BatchBytes = o.batchBytes()
		})
	}
}

// recorded ends the change under way.
func (o *Owner) recorded(now time.Time, e Recorded) {
	c := o.writing
	if c == nil {
		return
	}
	o.writing = nil
	switch e.Outcome {
	case Done:
		o.rec, o.rev, o.damaged = c.next, e.Revision, false
		o.unsaved, o.trouble = time.Time{}, ""
		o.stored(now, c)
		if !o.ends() {
			o.tell()
		}
		return
	case Conflict:
		o.depose(e.Owner)
	case Silent: // the next change finds out what became of this one
		o.unsaved, o.trouble = now, e.Reason
	case Failed:
	}
	o.writeAt = now.Add(Beat)
	o.tell()
	switch c.aim {
	case toSit, toSeek, toBegin, toStop:
		o.finish(c.asks, unavailable("record of batcher %s: %s", o.rec.Batcher, e.Reason))
	case toBeginNew:
		if e.Outcome == Silent {
			o.making.chosen = false // the record may name it: it is not discarded, and the collector finds out
		}
		o.unmake(now, unavailable("record of batcher %s: %s", o.rec.Batcher, e.Reason).Message)
	default:
		o.warn("record not changed yet", "change", c.aim.String(), "error", e.Reason)
	}
}

// stored goes on after a change of the record.
func (o *Owner) stored(now time.Time, c *change) {
	switch c.aim {
	case toSit:
		o.sat(now, c.asks)
	case toSeek:
		o.sought(now, c.asks)
	case toBegin:
		o.beginRecorded(now, c.asks)
	case toBeginNew:
		o.newRecorded(now)
	case toStop:
		o.stopped(c.asks)
	case toFail:
		o.discard(o.rec.Gen) // only Start goes on from here, with a new generation: its jobs would only be in the way
		o.failing = nil
		o.warn("run failed", "gen", o.rec.Gen, "seq", o.rec.Error.Seq, "worker", o.rec.Error.Worker, "error", o.rec.Error.Message)
		o.notify()
	case toFinish:
		o.info("run is done", "gen", o.rec.Gen, "seq", o.rec.Verdict.Seq-1)
	case toConclude:
		o.info("sequence ends", "gen", o.rec.Gen, "seq", o.rec.Verdict.Seq, "error", o.rec.Verdict.Fault)
		o.conclude()
	case toSave:
		o.saved(now)
	case toRetire, toMend:
	}
}

func (a aim) String() string {
	return [...]string{"collection", "seat", "look-up", "new generation", "new generation", "stop", "failure", "end of the run", "end of the sequence", "progress", "the same again"}[a]
}

// retire deletes a batcher that had no reader for its idle timeout, or whose first Open was refused.
func (o *Owner) retire() {
	if o.writing != nil || o.making != nil || o.asking != nil || len(o.asked) > 0 || o.confirming != nil {
		return // it is looked at again
	}
	o.unwanted = false
	o.writing = &change{aim: toRetire, next: o.rec}
	o.emit(Retire{o.rev})
}

// retired ends a Retire. The revision is another after a change, or a deletion, whose outcome was unknown.
func (o *Owner) retired(now time.Time, e Retired) {
	if o.writing == nil || o.writing.aim != toRetire {
		return
	}
	asks := o.writing.asks
	o.writing = nil
	switch e.Outcome {
	case Done:
		if asks != nil {
			o.asking = nil
			o.emit(ReplyStop{asks.token, wire.StopReply{Error: o.rec.Error}})
		} else {
			o.info("idle batcher collected", "gen", o.rec.Gen, "idle", now.Sub(o.heard).Round(time.Second).String())
		}
		o.discard(o.rec.Gen)
		o.end()
	case Conflict:
		o.depose(e.Owner)
	case Silent, Failed:
		if asks != nil {
			o.finish(asks, unavailable("record of batcher %s: %s", o.rec.Batcher, e.Reason))
			return
		}
		o.warn("idle batcher not collected yet", "error", e.Reason)
	}
}

// confirm lets an answer go out once the record has been read and still names this coordinator: a refusal is only right
// if no other coordinator has given meanwhile what is refused here.
func (o *Owner) confirm(reply Effect) {
	o.doubtful = append(o.doubtful, reply)
	o.confirmNext()
}

func (o *Owner) confirmNext() {
	if o.confirming == nil && len(o.doubtful) > 0 {
		o.confirming, o.doubtful = o.doubtful, nil
		o.emit(Confirm{})
	}
}

// confirmed lets the answers go that waited for this word.
func (o *Owner) confirmed(e Confirmed) {
	replies := o.confirming
	o.confirming = nil
	switch {
	case e.Outcome == Done && (e.Owner == o.cfg.Name || e.Owner == ""): // without a record there is only what is known here
		o.out = append(o.out, replies...)
	case e.Outcome == Done:
		o.confirming = replies // depose answers them
		o.depose(e.Owner)
		return
	default:
		fault := unavailable("record of batcher %s: %s", o.rec.Batcher, e.Reason)
		for _, reply := range replies {
			switch r := reply.(type) {
			case ReplySeat:
				o.emit(ReplySeat{r.Token, wire.SeatReply{Fault: fault}})
			case ReplyStop:
				o.emit(ReplyStop{r.Token, wire.StopReply{Fault: fault}})
			}
		}
	}
	o.confirmNext()
}

// vacate notes in the record that its reader has the seat no more.
func vacate(r *wire.Record) {
	if r.Reader == "" {
		return
	}
	former := append(slices.Clone(r.Former), wire.Former{Reader: r.Reader, Request: r.Request})
	r.Former = former[max(0, len(former)-wire.MaxFormer):]
	r.Reader, r.Request = "", ""
}
