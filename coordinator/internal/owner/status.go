package owner

import (
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// creditReply says how things stand.
func (o *Owner) creditReply() wire.CreditReply {
	r := wire.CreditReply{Gen: o.rec.Gen, Seat: o.rec.Seat, Reader: o.rec.Reader, Phase: o.rec.Phase, Workers: o.workers, Error: o.rec.Error, Trouble: o.trouble}
	if o.gen != nil {
		r.Window = o.gen.Limit()
	}
	return r
}

// notify tells the reader how things stand.
func (o *Owner) notify() { o.emit(Notify{o.creditReply()}) }

// Status is how the batcher stands. What only the shell knows, jobs that the stream does not have yet, is not in it.
func (o *Owner) Status(now time.Time) schema.Status {
	s := schema.Status{
		Batcher: o.rec.Batcher, Phase: o.rec.Phase, Error: o.rec.Error, Dataset: o.rec.Spec.Dataset, Version: o.rec.Spec.Version,
		Gen: o.rec.Gen, Seat: o.rec.Seat, Reader: o.rec.Reader, Owner: o.cfg.Name, Taken: o.rec.Taken, Fed: o.rec.Taken,
		BatchBytes: o.batchBytes(), Workers: o.workers, Slots: o.slots, Restarts: o.restarts, Backups: o.backups,
		Accepted: o.rec.Accepted,
	}
	if !o.held(now) {
		s.IdleFor = now.Sub(o.heard)
	}
	if o.last.Timing != nil {
		s.Timing = *o.last.Timing
	}
	if o.rec.Phase == schema.PhaseRunning && o.held(now) {
		s.Desired = o.need.workers(s.Workers, s.Slots, inFlight(o.rec.Settings, o.batchBytes()))
	}
	if g := o.gen; g != nil {
		s.Taken, s.Fed, s.Window = g.Taken(), g.Fed(), g.Limit()
		s.Rate, s.ByteRate = o.rate.value(now)
	}
	s.Waiting = o.waiting(now, s)
	return s
}

// waiting names what holds the trainer up, nearest cause first; empty when nothing does.
func (o *Owner) waiting(now time.Time, s schema.Status) string {
	for _, d := range o.data {
		if since := now.Sub(d.since); !d.open && d.fault == nil && since > openPatience {
			return fmt.Sprintf("data set %s is being opened since %v", s.Dataset, since.Round(time.Second))
		}
	}
	switch {
	case o.rec.Phase != schema.PhaseRunning:
		return ""
	case o.trouble != "":
		return o.trouble
	case s.Workers == 0:
		return "no worker serves data set " + o.KindToken()
	case o.last.Waiting == "" || o.gen == nil:
		return o.last.Waiting
	case s.Fed == s.Taken:
		return fmt.Sprintf("the iterator has not returned job %d", s.Fed+1)
	}
	return o.last.Waiting
}

// Late is for how long the trainer has said that it waits.
func (o *Owner) Late(now time.Time) time.Duration {
	if o.lateSince.IsZero() || !o.held(now) {
		return 0
	}
	return now.Sub(o.lateSince)
}

// Counters returns the owner's counts.
func (o *Owner) Counters() Counters { return o.count }

// Taken is the sequence number that the trainer has come to.
func (o *Owner) Taken() uint64 {
	if o.gen == nil {
		return o.rec.Taken
	}
	return o.gen.Taken()
}

// Job returns a job that is fed and not taken.
func (o *Owner) Job(seq uint64) ([]byte, bool) {
	if o.gen == nil || seq <= o.gen.Taken() {
		return nil, false
	}
	e, ok := o.gen.Entry(seq)
	return e.Job, ok
}

// rate is the trainer's pace over the last ten seconds or so.
type rate struct {
	at           time.Time
	taken        uint64
	bytes        int64
	batches, bps float64
}

// rateSpan is how long a pace is measured before it counts.
const rateSpan = 2 * time.Second

func (r *rate) observe(now time.Time, taken uint64, bytes int64) {
	if r.at.IsZero() || taken < r.taken || bytes < r.bytes {
		*r = rate{at: now, taken: taken, bytes: bytes}
		return
	}
	if d := now.Sub(r.at); d >= rateSpan {
		r.batches, r.bps = float64(taken-r.taken)/d.Seconds(), float64(bytes-r.bytes)/d.Seconds()
		r.at, r.taken, r.bytes = now, taken, bytes
	}
}

// value returns batches and bytes per second, zero when the trainer has fallen silent.
func (r *rate) value(now time.Time) (batches, bytes float64) {
	if now.Sub(r.at) > 5*rateSpan {
		return 0, 0
	}
	return r.batches, r.bps
}
