package owner

import (
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sweepEvery is how often results are looked for that came after they were dropped.
const sweepEvery = 30 * time.Second

// generation is the running generation of a batcher, which is the record's.
type generation struct {
	jobs
	cfg    *Config
	ledger *ledger
	ending *ending
	ranks  *ranks
	fleet  *Fleet
	count  *Counters

	iterator iterator
	late     lateness
	room     room
	tookUp   bool      // it was begun before this owner was
	whole    bool      // its window is bounded by no share any more: it was whole once
	swept    time.Time // when results that came after they were dropped were last looked for

	// Progress.
	saved  uint64 // taken, as the record has it
	purged uint64 // results up to here are dropped from the store
	save   bool   // progress is to be recorded
	saveTo uint64 // the floor that it is to have at least; 0 for none

	// The end of the sequence.
	settled bool          // everything that was fed before a takeover is in the window again
	reached bool          // and more than that, for a rank that was not heard
	ended   bool          // nothing more is fed, not even from a Next that returns late
	unsaid  *wire.Verdict // the verdict until record and store have it
	telling bool          // a StoreVerdict is under way
}

// resize sets the window to what workers and batch size allow, and feeds what that opens.
func (g *generation) resize(now time.Time) {
	bytes := g.reader.batchBytes()
	limit := windowLimit(g.ledger.rec.Settings, g.fleet.Slots, bytes)
	if g.whole = g.whole || g.tookUp || bytes > 0 && g.fleet.Share == 0; !g.whole && g.fleet.Share > 0 {
		limit = min(limit, shareLimit(g.fleet.Share))
	}
	g.SetLimit(g.room.within(now, limit))
	g.pay()
	g.demand(now)
}

// demand asks the iterator for what the window has room for. It stops when the trainer is too far ahead of the record,
// which is saved twice as often or more: what cannot be recorded as taken cannot be dropped either.
func (g *generation) demand(now time.Time) {
	if g.iterator.busy || g.Taken() > g.saved+g.unrecorded() {
		return
	}
	if n := g.Want(); n > 0 {
		g.iterator.asked(now)
		g.out.emit(Demand{g.StateAfter(g.Fed()), n, g.Room()})
	}
}

// produced feeds what the iterator made.
func (g *generation) produced(now time.Time, p Produced) {
	g.iterator.answered(now, p.Last)
	if g.ended {
		return // of a Next that came back too late, or of what followed a job that is too large
	}
	g.settled = g.settled || p.Last
	length, limit := g.reader.runs.length(g.Limit(), g.fleet.Slots), g.cfg.MaxPayload()
	if limit < 2*runBytes {
		length = 1
	}
	var together run
	for _, it := range p.Items {
		if v := g.ledger.rec.Verdict; v != nil && v.Seq == g.Fed()+1 {
			g.send(&together)
			g.verdict(v.Fault) // given by the owner before, and final
			return
		}
		tooLarge, published := g.feed(it, &together, length, limit)
		if tooLarge > 0 {
			g.send(&together)
			g.verdict(&schema.Fault{Code: schema.CodeJobTooLarge, Message: fmt.Sprintf(
				"job: %d bytes encoded; the server takes messages of at most %d", tooLarge, limit)})
			return
		}
		if published {
			g.count.Fed++
		}
	}
	g.send(&together)
	if p.Ended {
		g.verdict(p.Fault)
		return
	}
	// An owner that took over may have heard how far the trainer is before the iterator came there.
	g.advance(now)
	g.demand(now)
}

// reach has more iterated again, for a rank that is further than its world was known to be. It reports false when that
// was done before: this is no place of the run.
func (g *generation) reach(now time.Time) bool {
	if g.reached || g.ended {
		return false
	}
	g.reached = true
	g.FedBefore(max(g.Fed(), g.Taken()+2*max(g.unrecorded(), wire.BlockSize)))
	if g.Want() > 0 {
		g.settled = false
		g.demand(now)
	}
	return true
}

// watchIterator ends the run when Next has not come back for longer than Stall.
func (g *generation) watchIterator(now time.Time) {
	if g.ended {
		return
	}
	if owing := g.iterator.owes(now); owing > g.cfg.Stall {
		g.verdict(&schema.Fault{Code: schema.CodeIteratorStalled, Message: "Next has not returned for " + owing.Round(time.Second).String()})
	}
}

// verdict ends the sequence behind what is fed: with a fault, or nil for the end of the data. The record says so first,
// then a result at its place; readers believe only what both say.
func (g *generation) verdict(fault *schema.Fault) {
	g.End()
	g.ended, g.settled = true, true
	seq := g.Fed() + 1
	if fault != nil {
		said := *fault
		said.Seq, said.Gen, said.Worker, said.Attempts = seq, g.gen, g.cfg.Name, 1
		fault = &said
	}
	before := g.ledger.rec.Verdict
	given := before != nil && before.Seq == seq // so the result at its place is its own
	if seq <= g.Taken() || g.done[seq] && !given {
		// The owner before came further from the same state, so there is no place for the verdict in the sequence.
		if fault == nil {
			fault = &schema.Fault{Code: schema.CodeIterator, Seq: seq, Gen: g.gen, Worker: g.cfg.Name, Attempts: 1, Message: fmt.Sprintf(
				"the data ended before batch %d, which was there when the same states were iterated before: Next must be a pure function", seq)}
		}
		g.ending.fail(g.gen, fault)
		return
	}
	g.unsaid = &wire.Verdict{Seq: seq, Fault: fault}
	g.conclude()
}

// conclude stores the verdict as a result once the record has it; what fails is tried again every beat.
func (g *generation) conclude() {
	if v := g.ledger.rec.Verdict; g.unsaid != nil && v != nil && v.Seq == g.unsaid.Seq {
		g.storeVerdict()
	}
}

// storeVerdict stores the record's verdict as a result.
func (g *generation) storeVerdict() {
	if g.telling {
		return
	}
	g.telling = true
	v := g.ledger.rec.Verdict
	res := &wire.Result{Seq: v.Seq, Kind: wire.KindEnd, Prev: g.StateAfter(v.Seq - 1), Worker: g.cfg.Name, Fault: v.Fault, Deliveries: 1,
		Spec: g.spec}
	if v.Fault != nil {
		res.Kind = wire.KindError
	}
	g.out.emit(StoreVerdict{g.gen, res})
}

func (g *generation) verdictStored(e VerdictStored) {
	g.telling = false
	switch {
	case e.Reason != "":
		g.out.retry("end of the sequence not published yet", "seq", e.Seq, "error", e.Reason)
	case g.unsaid != nil && g.unsaid.Seq == e.Seq:
		g.unsaid = nil
	}
}

// reissue publishes again what is missing, the verdict among it. It reports false when that is to wait for a Cancel.
func (g *generation) reissue(done, queued map[uint64]bool) bool {
	if !g.jobs.reissue(done, queued) {
		return false
	}
	if v := g.ledger.rec.Verdict; v != nil && g.Want() == 0 && v.Seq == g.Fed()+1 && !done[v.Seq] {
		g.storeVerdict()
	}
	return true
}

// advance notes how far the trainer has come, all of its ranks, or the furthest of several readers, and reports whether
// that is news.
func (g *generation) advance(now time.Time) bool {
	before, head := g.Taken(), g.Head()
	if g.ledger.rec.Shared() {
		g.follow()
	}
	if !g.Credit(g.ranks.taken()) && g.Head() <= head {
		return false
	}
	g.count.Taken += g.Taken() - before
	g.late.advanced(now)
	return true
}

// follow has the window follow the furthest of several readers: nothing that is out then is more than lag and a window
// ahead of the slowest, or lag alone where the others wait for it.
func (g *generation) follow() {
	lag := g.lag()
	if g.ledger.rec.Settings.LagWait {
		lag -= uint64(g.Limit())
	}
	g.Lead(g.ranks.within(lag))
}

// lag is how many batches the slowest of several readers may be behind the furthest.
func (g *generation) lag() uint64 {
	return lagLimit(g.ledger.rec.Settings, g.Limit(), g.reader.batchBytes())
}

// unrecorded is how far the trainer may be ahead of the record: a window, and at least two blocks where batches are
// dropped by blocks.
func (g *generation) unrecorded() uint64 {
	n := g.Limit()
	if g.reader.small() {
		n = max(n, 2*wire.BlockSize)
	}
	return uint64(n)
}

// recordDue reports whether the trainer has come far enough for the record: a quarter of what it may be ahead, and a
// block where batches are dropped by blocks, since nothing could be dropped sooner.
func (g *generation) recordDue() bool {
	n := max(1, g.unrecorded()/4)
	if g.reader.small() {
		n = max(n, wire.BlockSize)
	}
	return g.Taken() >= g.saved+n
}

// holes is how many of what the trainer has come behind the last state that a rank may come again with.
func (g *generation) holes() uint64 {
	if g.ledger.rec.Shared() {
		return 0
	}
	kept := max(g.ranks.taken()-g.ranks.holes(), g.Floor())
	return min(g.Taken()-min(kept, g.Taken()), maxWindow)
}

// droppable is the floor that may be recorded.
func (g *generation) droppable() uint64 {
	floor := g.Droppable(retained(g.ledger.rec.Settings, g.Limit(), g.reader.batchBytes()) + int(g.holes()))
	if g.reader.small() {
		whole := (floor + 1) / wire.BlockSize * wire.BlockSize
		floor = max(g.Floor(), max(whole, 1)-1)
	}
	return floor
}

// progress is the change of the record that says how far the trainer is.
func (g *generation) progress() func(*wire.Record) {
	floor := max(g.droppable(), min(g.saveTo, g.Taken()))
	g.save, g.saveTo = false, 0
	return func(r *wire.Record) {
		takenIn(r, g)
		r.Floor, r.FloorState, r.Holes = floor, g.StateAfter(floor), min(r.Holes, r.Taken-floor)
		r.BatchBytes = g.reader.batchBytes()
	}
}

// takenIn notes in a record of a generation how far the trainer has come in it; nil for one that is not in memory.
func takenIn(r *wire.Record, g *generation) {
	if g != nil {
		r.Total, r.Taken, r.Holes = totalOf(r, g.Taken()), g.Taken(), min(g.holes(), g.Taken()-r.Floor)
	}
}

// totalOf is how many batches were taken in all generations when the trainer has come to taken in the record's.
func totalOf(r *wire.Record, taken uint64) uint64 { return r.Total + max(taken, r.Taken) - r.Taken }

// progressed goes on when progress is in the record: results below the new floor are dropped. The record comes first,
// because a successor must find everything above the floor that it reads. It reports whether anything was dropped.
func (g *generation) progressed() (dropped bool) {
	floor := g.ledger.rec.Floor
	g.saved = g.ledger.rec.Taken
	g.drop(floor)
	if dropped = g.purged < floor; dropped {
		g.out.emit(Purge{g.gen, g.purged, floor})
	}
	g.purged = floor
	return dropped
}

// seek makes a position that is held the head, when the record says so. Nothing that it skips over is waited for.
// What its reader has taken, which came to there, is not skipped.
func (g *generation) seek(position, came uint64) {
	g.saved = position - 1
	if g.saved > max(g.Taken(), came) {
		g.skipped = max(g.skipped, g.saved)
	}
	from, to := g.Seek(position)
	g.cancel(max(from, came+1), to)
	g.backup = 0
	g.late.atOnce()
}

// crowded begins to make room when the server refuses a job or a result for lack of it, and reports whether the store
// is to be looked at for that.
func (g *generation) crowded(now time.Time) bool {
	if !g.room.crowded(now) {
		return false
	}
	if floor := min(g.Taken(), g.Fed()); floor > g.Floor() {
		g.save, g.saveTo = true, floor
	}
	return true
}

// makeRoom drops the highest results and halves the window, unless the trainer makes room by taking: no bound may be
// held by other sequence numbers alone.
func (g *generation) makeRoom(done map[uint64]bool) {
	if done[g.Head()+1] {
		return
	}
	dropped := g.shrink(g.room.halve(g.Limit()), done)
	g.out.warn("the server's store is full; window halved", "window", g.Limit(), "dropped", dropped)
}

// sweepDue reports whether results are to be looked for that workers stored below the floor. No reader wants them, but
// a store that keeps them is not bounded.
func (g *generation) sweepDue(now time.Time) bool {
	if g.Floor() == 0 || now.Sub(g.swept) < sweepEvery {
		return false
	}
	g.swept = now
	return true
}

// waits reports whether the trainer has waited for a beat for something that is fed.
func (g *generation) waits(now time.Time) bool {
	return g.Fed() != g.Head() && now.Sub(g.late.moved) >= Beat
}

// resumed takes the results that were stored before a takeover.
func (g *generation) resumed(done map[uint64]bool) {
	g.done, g.tookUp = done, true
	for seq := range done {
		if seq <= g.Floor() { // dropped by the record, and not by the store
			g.purged = min(g.purged, seq-1)
		}
	}
}

// fedBefore is how far jobs were out before a takeover, as results show: the trainer may be anywhere up to there, since
// its progress is recorded now and then. A result far beyond the others shows nothing; workers can store what they
// like.
func fedBefore(taken uint64, done map[uint64]bool) uint64 {
	furthest := taken
	for seq := range done {
		if seq <= taken+uint64(2*len(done))+wire.BlockSize {
			furthest = max(furthest, seq)
		}
	}
	return furthest
}
