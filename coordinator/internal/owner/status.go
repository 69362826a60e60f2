package owner

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Status is how the batcher stands. What only the shell knows, jobs that the stream does not have yet, is not in it.
func (o *Owner) Status(now time.Time) schema.Status {
	rec := &o.ledger.rec
	s := schema.Status{
		Batcher: rec.Batcher, Phase: rec.Phase, Error: rec.Error, Dataset: rec.Spec.Dataset, Version: rec.Spec.Version,
		Gen: rec.Gen, Seat: rec.Seat, Reader: rec.Reader, Owner: o.cfg.Name, Taken: rec.Taken, Fed: rec.Taken,
		BatchBytes: o.reader.batchBytes(), Workers: o.fleet.Workers, Slots: o.fleet.Slots, Restarts: o.recovery.restarts, Backups: o.backups,
		Accepted: rec.Accepted, Total: totalOf(rec, o.feeder.taken()),
	}
	if !o.reader.live(now, o.cfg.ReaderLease) {
		s.IdleFor = now.Sub(o.reader.heard)
	}
	if o.reader.last.Timing != nil {
		s.Timing = *o.reader.last.Timing
	}
	if rec.Phase == schema.PhaseRunning && o.reader.live(now, o.cfg.ReaderLease) {
		least := o.ranks.least()
		s.Desired = least.workers(s.Workers, s.Slots, inFlight(rec.Settings, o.reader.batchBytes()))
	}
	if g := o.feeder.gen; g != nil {
		s.Taken, s.Fed, s.Window = g.Taken(), g.Fed(), g.Limit()
		s.Rate, s.ByteRate = o.reader.rate.value(now)
	}
	if rec.Size > 0 {
		s.Members, s.Slowest, s.Detached = o.ranks.members(now), o.ranks.slowest(), o.count.Detached
		s.Heard = o.ranks.heard(now, o.cfg.ReaderLease)
		s.Spread = o.ranks.furthest() - o.ranks.taken()
	}
	switch {
	case o.ranks.isWorld():
		s.World = rec.Reader
	case rec.Shared():
		s.Reader = o.readers.names()
	}
	s.Waiting = o.waiting(now, s)
	return s
}

// waiting names what holds the trainer up, nearest cause first; empty when nothing does.
func (o *Owner) waiting(now time.Time, s schema.Status) string {
	if slow := o.data.slow(now); slow > 0 {
		return fmt.Sprintf("data set %s is being opened since %v", s.Dataset, slow.Round(time.Second))
	}
	waiting := o.reader.last.Waiting
	if o.ledger.rec.Size > 0 {
		waiting = o.ranks.waiting(now)
	}
	switch blocked := o.feeder.blocked(); {
	case s.Phase != schema.PhaseRunning:
		return ""
	case blocked != "":
		return blocked
	case s.Workers == 0:
		return cmp.Or(o.feeder.suspended(), "no worker serves data set "+wire.KindName(o.KindToken()))
	case waiting == "" || o.feeder.gen == nil:
		return waiting
	case s.Fed == s.Taken:
		return fmt.Sprintf("the iterator has not returned job %d", s.Fed+1)
	}
	return waiting
}

// Demand is how many slots the run can use now: as many as there may be batches in flight, unless the trainer has long
// been seen to take fewer and does not wait.
func (o *Owner) Demand() int {
	g := o.feeder.gen
	if g == nil {
		return 0
	}
	needed := o.ranks.slots()
	if needed == 0 {
		return g.Limit()
	}
	return min(g.Limit(), int(math.Ceil(needed*needHeadroom)))
}

// Begins reports whether a run is fed that has not had its whole window yet, and whether no batch of it was seen.
func (o *Owner) Begins() (begins, unseen bool) {
	g := o.feeder.gen
	return g != nil && !g.whole, g != nil && o.reader.batchBytes() == 0
}

// Late is for how long the trainer has said that it waits.
func (o *Owner) Late(now time.Time) time.Duration {
	if !o.reader.live(now, o.cfg.ReaderLease) {
		return 0
	}
	return o.ranks.late(now)
}

// Counters returns the owner's counts.
func (o *Owner) Counters() Counters { return *o.count }

// Taken is the sequence number that the trainer has come to.
func (o *Owner) Taken() uint64 { return o.feeder.taken() }

// State is the state that the trainer has come to; nil where it is not in memory.
func (o *Owner) State() []byte {
	if o.feeder.gen == nil {
		return nil
	}
	return o.feeder.gen.StateAfter(o.feeder.gen.Taken())
}

// Job returns a job that is fed and not taken.
func (o *Owner) Job(seq uint64) ([]byte, bool) {
	if o.feeder.gen == nil || seq <= o.feeder.gen.Taken() {
		return nil, false
	}
	e, ok := o.feeder.gen.Entry(seq)
	return e.Job, ok
}

// Apart returns the jobs of seqs that the trainer still needs, each by itself, for the worker that has them in a run.
// It reports false when the owner cannot answer for them: their generation is over or not in memory, it has not fed
// them (an owner that was deposed has not), or jobs are being cancelled, theirs perhaps.
func (o *Owner) Apart(gen string, seqs []uint64) (single []Publish, ok bool) {
	g := o.feeder.of(gen)
	if o.over || g == nil {
		return nil, false
	}
	return g.apart(seqs)
}
