package owner

import (
	"fmt"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// regrow is after how long a window that a full store has halved is doubled again.
const regrow = 10 * time.Second

// jobOverhead is more than a job's message has besides its byte slices.
const jobOverhead = 72

// resize sets the window to what workers and batch size allow, and feeds what that opens.
func (o *Owner) resize(now time.Time) {
	g := o.gen
	if g == nil {
		return
	}
	limit := windowLimit(o.rec.Settings, o.slots, o.batchBytes())
	if g.shrunk > 0 {
		if now.Sub(g.roomed) > regrow { // there may be room again; if not, the store says so again
			g.shrunk, g.roomed = 2*g.shrunk, now
		}
		if g.shrunk >= limit {
			g.shrunk = 0
		} else {
			limit = g.shrunk
		}
	}
	g.SetLimit(limit)
	o.payOwed()
	o.demand(now)
}

// payOwed publishes the jobs that were held back and that the window has room for by now.
func (o *Owner) payOwed() {
	g := o.gen
	for g.cancels == 0 && len(g.owed) > 0 && g.owed[0] <= g.Taken()+uint64(g.Limit()) {
		seq := g.owed[0]
		g.owed = g.owed[1:]
		if e, ok := g.Entry(seq); ok && seq > g.Taken() {
			o.emit(Publish{First: seq, N: 1, Data: e.Job, Again: true, Trace: o.trace})
		}
	}
}

// owe publishes jobs again that the trainer still needs.
func (o *Owner) owe(seqs ...uint64) {
	g := o.gen
	g.owed = append(g.owed, seqs...)
	slices.Sort(g.owed)
	g.owed = slices.Compact(g.owed)
	o.payOwed()
}

// demand asks the iterator for what the window has room for. It stops when the trainer is too far ahead of the record,
// which is saved four times as often: what cannot be recorded as taken cannot be dropped either.
func (o *Owner) demand(now time.Time) {
	g := o.gen
	if g == nil || g.busy || g.Taken() > g.saved+o.unrecorded() {
		return
	}
	if n := g.Want(); n > 0 {
		g.busy, g.owing, g.watched = true, 0, now
		o.emit(Demand{g.StateAfter(g.Fed()), n, g.Room()})
	}
}

// watchIterator ends the run when Next has not come back for longer than Stall. Time in which the process was paused is
// no time of Next's: two beats count at most from one look to the other.
func (o *Owner) watchIterator(now time.Time) {
	g := o.gen
	if !g.busy || g.ended {
		return
	}
	g.owing += min(now.Sub(g.watched), 2*Beat)
	g.watched = now
	if g.owing > o.cfg.Stall {
		o.verdict(&schema.Fault{Code: schema.CodeIteratorStalled, Message: "Next has not returned for " + g.owing.Round(time.Second).String()})
	}
}

// produced feeds what the iterator made.
func (o *Owner) produced(now time.Time, p Produced) {
	g := o.gen
	if g == nil || p.Gen != o.rec.Gen {
		return
	}
	g.busy, g.owing, g.watched = !p.Last, 0, now
	if g.ended {
		return // of a Next that came back too late, or of what followed a job that is too large
	}
	g.settled = g.settled || p.Last
	length, limit := o.runs.length(g.Limit(), o.slots), o.cfg.MaxPayload()
	if limit < 2*runBytes {
		length = 1
	}
	var together run
	for _, it := range p.Items {
		seq := g.Fed() + 1
		if v := o.rec.Verdict; v != nil && v.Seq == seq {
			o.send(&together)
			o.verdict(v.Fault) // given by the owner before, and final
			return
		}
		prev := g.StateAfter(seq - 1)
		job := wire.AppendJob(make([]byte, 0, len(prev)+len(it.Next)+len(it.Job)+jobOverhead), &wire.Job{
			Seq: seq, Prev: prev, Next: it.Next, Body: it.Job, Iterate: it.Took, Spec: g.spec,
		})
		if int64(len(job)) > limit {
			o.send(&together)
			o.verdict(&schema.Fault{Code: schema.CodeJobTooLarge, Message: fmt.Sprintf(
				"job: %d bytes encoded; the server takes messages of at most %d", len(job), limit)})
			return
		}
		g.Feed(window.Entry{Next: it.Next, Job: job})
		if seq > g.Taken() && !g.done[seq] {
			if !together.add(seq, job, length) {
				o.send(&together)
				together.add(seq, job, length)
			}
			o.count.Fed++
		}
	}
	o.send(&together)
	if p.Ended {
		o.verdict(p.Fault)
		return
	}
	if o.last.Gen == o.rec.Gen && o.last.Seat == o.rec.Seat { // an owner that took over may have heard it before it came here
		o.advance(now, o.last.Taken)
	}
	o.demand(now)
}

// Apart returns the jobs of seqs that the trainer still needs, each by itself, for the worker that has them in a run. It
// reports false when the owner cannot answer for them: their generation is over or not in memory, it has not fed them
// (an owner that was deposed has not), or jobs are being cancelled, theirs perhaps.
func (o *Owner) Apart(gen string, seqs []uint64) (jobs []Publish, ok bool) {
	g := o.gen
	if o.over || g == nil || gen != o.rec.Gen || g.cancels > 0 {
		return nil, false
	}
	for _, seq := range seqs {
		e, held := g.Entry(seq)
		switch {
		case seq > g.Fed():
			return nil, false
		case held && seq > g.Taken() && !g.done[seq]:
			jobs = append(jobs, Publish{First: seq, N: 1, Data: e.Job, Trace: o.trace})
		}
	}
	return jobs, true
}

// send publishes a run and begins the next.
func (o *Owner) send(r *run) {
	if r.n > 0 {
		o.emit(Publish{First: r.first, N: r.n, Data: r.data, Trace: o.trace})
	}
	*r = run{}
}

// verdict ends the sequence behind what is fed: with a fault, or nil for the end of the data. The record says so first,
// then a result at its place; readers believe only what both say.
func (o *Owner) verdict(fault *schema.Fault) {
	g := o.gen
	g.End()
	g.ended, g.settled = true, true
	seq := g.Fed() + 1
	if fault != nil {
		said := *fault
		said.Seq, said.Gen, said.Worker, said.Attempts = seq, o.rec.Gen, o.cfg.Name, 1
		fault = &said
	}
	given := o.rec.Verdict != nil && o.rec.Verdict.Seq == seq // so the result at its place is its own
	if seq <= g.Taken() || g.done[seq] && !given {
		// The owner before came further from the same state, so there is no place for the verdict in the sequence.
		if fault == nil {
			fault = &schema.Fault{Code: schema.CodeIterator, Seq: seq, Gen: o.rec.Gen, Worker: o.cfg.Name, Attempts: 1, Message: fmt.Sprintf(
				"the data ended before batch %d, which was there when the same states were iterated before: Next must be a pure function", seq)}
		}
		o.fail(fault)
		return
	}
	g.unsaid = &wire.Verdict{Seq: seq, Fault: fault}
	o.conclude()
}

// conclude stores the verdict as a result once the record has it; what fails is tried again every beat.
func (o *Owner) conclude() {
	g := o.gen
	if g == nil || g.unsaid == nil || o.rec.Verdict == nil || o.rec.Verdict.Seq != g.unsaid.Seq {
		return
	}
	o.storeVerdict()
}

// storeVerdict stores the record's verdict as a result.
func (o *Owner) storeVerdict() {
	g, v := o.gen, o.rec.Verdict
	if g.telling {
		return
	}
	g.telling = true
	res := &wire.Result{Seq: v.Seq, Kind: wire.KindEnd, Prev: g.StateAfter(v.Seq - 1), Worker: o.cfg.Name, Fault: v.Fault, Deliveries: 1,
		Spec: g.spec}
	if v.Fault != nil {
		res.Kind = wire.KindError
	}
	o.emit(StoreVerdict{o.rec.Gen, res})
}

func (o *Owner) verdictStored(e VerdictStored) {
	g := o.gen
	if g == nil || e.Gen != o.rec.Gen {
		return
	}
	g.telling = false
	if e.Reason != "" {
		o.warn("end of the sequence not published yet", "seq", e.Seq, "error", e.Reason)
		return
	}
	if g.unsaid != nil && g.unsaid.Seq == e.Seq {
		g.unsaid = nil
	}
}
