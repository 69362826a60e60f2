package owner

import (
	"cmp"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// maxWaiting is how many bytes are kept of the text that says what a trainer waits for.
const maxWaiting = 1 << 10

// credited takes a credit; as a request it is answered with how things stand.
func (o *Owner) credited(now time.Time, e Credited) {
	o.credit(now, e.Credit)
	switch {
	case e.Token == 0 || o.over:
	case e.Credit.Reader == o.rec.Reader && o.ends():
		o.told = append(o.told, e.Token) // it is answered with how the run ended
	case e.Credit.Reader != o.rec.Reader: // only the record's owner may say that another reader has the seat
		o.confirm(ReplyCredit{e.Token, o.creditReply()})
	default:
		o.emit(ReplyCredit{e.Token, o.creditReply()})
	}
}

// credit moves the window on. One of another reader, seat or generation moves nothing: P5.
func (o *Owner) credit(now time.Time, credit *wire.Credit) {
	if credit.Reader != o.rec.Reader || o.rec.Reader == "" {
		return
	}
	credit.Waiting = credit.Waiting[:min(len(credit.Waiting), maxWaiting)]
	credit.Lost = credit.Lost[:min(len(credit.Lost), wire.MaxLost)]
	o.heard = now
	o.measure(credit)
	g := o.gen
	if credit.Gen != o.rec.Gen || credit.Seat != o.rec.Seat || g == nil {
		return
	}
	o.rate.observe(now, credit.Taken, credit.Bytes)
	if credit.Timing != nil {
		o.runs.observe(credit.Taken, credit.Timing.Materialize)
	}
	if credit.Failed != nil && o.rec.Phase != schema.PhaseFailed {
		o.fail(credit.Failed)
		return
	}
	if o.advance(now, credit.Taken) {
		credit.BatchBytes = max(credit.BatchBytes, 1) // batches without a payload have a size, too
	}
	if credit.Timing == nil && o.last.Reader == credit.Reader {
		credit.Timing = o.last.Timing // it is not in every credit
	}
	o.last = *credit
	if credit.BatchBytes > o.rec.BatchBytes {
		o.save = true
		o.resize(now)
	}
	if v := o.rec.Verdict; v != nil && v.Fault == nil && credit.Taken >= v.Seq {
		o.finished = true
	}
	o.payOwed()
	o.demand(now)
	if g.Taken() >= g.saved+max(1, o.unrecorded()/4) { // the demand went first, so no slot waits for this
		o.save = true
	}
	o.backUp(credit)
	o.remake(credit.Lost)
	if credit.Late {
		o.repair(now)
	}
}

// ends reports whether the end of the run is to be recorded.
func (o *Owner) ends() bool {
	return o.failing != nil && o.failing.gen == o.rec.Gen || o.finished && o.rec.Phase == schema.PhaseRunning
}

// tell answers the credits that wait for the end of the run to be recorded, or for why it cannot be.
func (o *Owner) tell() {
	for _, token := range o.told {
		o.emit(ReplyCredit{token, o.creditReply()})
	}
	o.told = nil
}

// batchBytes is the largest payload seen; 0 while none was.
func (o *Owner) batchBytes() int64 {
	if o.last.Gen == o.rec.Gen {
		return max(o.rec.BatchBytes, o.last.BatchBytes)
	}
	return o.rec.BatchBytes
}

// advance notes how far the trainer has come, and reports whether that is news.
func (o *Owner) advance(now time.Time, taken uint64) bool {
	g := o.gen
	before := g.Taken()
	if !g.Credit(taken) {
		return false
	}
	o.count.Taken += g.Taken() - before
	g.moved, g.pause = now, 0
	return true
}

// fail ends the run with an error that its reader met or will be told of.
func (o *Owner) fail(fault *schema.Fault) {
	if o.failing == nil || o.failing.gen != o.rec.Gen {
		o.failing = &failure{o.rec.Gen, fault}
	}
}

// droppable is the floor that may be recorded.
func (o *Owner) droppable() uint64 {
	g := o.gen
	floor := g.Droppable(retained(o.rec.Settings, g.Limit(), o.batchBytes()))
	if !o.small() {
		return floor
	}
	if whole := (floor + 1) / wire.BlockSize * wire.BlockSize; whole > 0 {
		return max(g.Floor(), whole-1)
	}
	return g.Floor()
}

// saved goes on when progress is in the record: results below the new floor are dropped. The record comes first,
// because a successor must find everything above the floor that it reads.
func (o *Owner) saved(now time.Time) {
	g, floor := o.gen, o.rec.Floor
	if g == nil {
		return
	}
	g.saved = o.rec.Taken
	g.Drop(floor)
	for seq := range g.done {
		if seq <= floor {
			delete(g.done, seq)
		}
	}
	if g.purged < floor {
		o.emit(Purge{o.rec.Gen, g.purged, floor})
		if o.kept() {
			o.announce() // which lets workers drop the payloads, too
		}
	}
	g.purged = floor
	o.resize(now)
}

// kept reports whether the reader fetches payloads from workers.
func (o *Owner) kept() bool { return o.last.Stored > 0 && o.last.Stored < o.batchBytes() }

// small reports whether batches take so little room that they are dropped by whole blocks, one purge for many: a 64th
// of the window's bytes at most in the store, and an eighth in the memory of workers.
func (o *Owner) small() bool {
	bytes := o.batchBytes()
	if o.kept() {
		bytes = max(o.last.Stored, bytes/8)
	}
	return wire.BlockSize*bytes <= cmp.Or(o.rec.Settings.WindowBytes, DefaultWindowBytes)/64
}

// unrecorded is how far the trainer may be ahead of the record: a window, and at least a block where batches are
// dropped by blocks.
func (o *Owner) unrecorded() uint64 {
	n := o.gen.Limit()
	if o.small() {
		n = max(n, wire.BlockSize)
	}
	return uint64(n)
}

// backUp gives the job of a head that straggles to a second worker, once: the first result that is stored counts, and
// the other is refused. The second job waits its turn behind all that are out, so that it takes no slot from them; it
// is only the head's, and only when there is a second worker. When the head is taken, its second job goes.
func (o *Owner) backUp(credit *wire.Credit) {
	g := o.gen
	if g.backup > 0 && g.Taken() >= g.backup {
		o.cancel(g.backup, g.backup+1)
		g.backup = 0
	}
	seq := g.Taken() + 1
	e, fed := g.Entry(seq)
	if !credit.Straggles || credit.Taken != g.Taken() || !fed || g.backup == seq || o.workers < 2 {
		return
	}
	o.emit(Backup{seq, e.Job, o.trace})
	g.backup = seq
	o.backups++
	o.info("late job given to a second worker", "gen", o.rec.Gen, "seq", seq)
}

// cancel removes the queued jobs in [from, to).
func (o *Owner) cancel(from, to uint64) {
	if from < to {
		o.gen.cancels++
		o.emit(Cancel{o.rec.Gen, from, to})
	}
}

func (o *Owner) cancelled(now time.Time, e Cancelled) {
	g := o.gen
	if g == nil || e.Gen != o.rec.Gen {
		return
	}
	g.cancels--
	if g.cancels == 0 && (g.relook || len(g.owed) > 0) {
		g.relook = false
		o.look(now, ForRepair) // what was missing before may be there by now
	}
}

// measure takes what a credit says besides the position: sums of times, lateness, trace.
func (o *Owner) measure(c *wire.Credit) {
	o.count.hear(c)
	if c.Timing != nil {
		o.need.observe(o.heard, *c.Timing)
	}
	switch {
	case !c.Late:
		o.lateSince = time.Time{}
	case o.lateSince.IsZero():
		o.lateSince = o.heard
	}
	o.follow(c.Trace)
}

// hear adds the growth of a reader's sums since its last credit. What the reader did before its first credit here is
// not counted.
func (n *Counters) hear(c *wire.Credit) {
	if c.Timing == nil {
		return
	}
	if c.Reader == n.reader && c.Bytes >= n.totalSize && c.Timing.Wait >= n.total.Wait {
		grown := *c.Timing
		grown.Sub(n.total)
		n.Timing.Add(grown)
		n.Bytes += c.Bytes - n.totalSize
	}
	n.reader, n.total, n.totalSize = c.Reader, *c.Timing, c.Bytes
}

// follow notes the trace context of the reader's last word: what is fed from now on belongs to it.
func (o *Owner) follow(trace string) { o.trace = wire.Traceparent(trace) }
