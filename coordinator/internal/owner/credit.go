package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// credited takes a credit; as a request it is answered with how things stand.
func (o *Owner) credited(now time.Time, e Credited) {
	o.credit(now, e.Credit)
	_, seated := o.ledger.slot(e.Credit.Rank, e.Credit.Reader)
	switch reply := (ReplyCredit{e.Token, o.feeder.standing(now, e.Credit.Rank)}); {
	case e.Token == 0:
	case !seated: // only the record's owner may say that another reader has the seat
		o.requests.answers.confirm(reply)
	case o.ending.due(&o.ledger.rec):
		o.ending.told = append(o.ending.told, teller{e.Token, e.Credit.Rank}) // it is answered with how the run ended
	default:
		o.out.emit(reply)
	}
}

// credit moves the window on. One of another reader, seat or generation moves nothing: P5.
func (o *Owner) credit(now time.Time, c *wire.Credit) {
	rec := &o.ledger.rec
	rank, seated := o.ledger.slot(c.Rank, c.Reader)
	if !seated {
		return
	}
	g := o.feeder.gen
	// It waits for another rank, and not for a batch: no worker can help it.
	held := o.ranks.isWorld() && g != nil && c.Taken >= g.Fed() && c.Taken > g.Taken() || o.readers.waits(c.Taken)
	c.Late = c.Late && !held
	o.reader.hear(now, c)
	silent := o.ranks.each[rank].silent
	o.ranks.hear(now, rank, c, held)
	if rec.Shared() && !rec.Absent(rank) && c.Seat != o.ledger.seatOf(rank) {
		o.ranks.each[rank].silent = silent // it does not take where its place is kept
	}
	speaks := rank == o.ranks.speaker()
	if speaks {
		o.count.hear(c)
	}
	if c.Gen != rec.Gen || c.Seat != o.ledger.seatOf(rank) || g == nil || rec.Absent(rank) {
		return
	}
	if speaks {
		o.reader.paced(now, c)
	}
	if c.Failed != nil && rec.Phase != schema.PhaseFailed {
		met := o.ranks.failed
		if rec.Shared() {
			met = o.readers.failed
		}
		if fault := met(rank, c.Failed); fault != nil {
			o.feeder.failRun(fault)
			return
		}
	}
	o.ranks.credit(now, rank, c)
	if g.advance(now) {
		c.BatchBytes = max(c.BatchBytes, 1) // batches without a payload have a size, too
	}
	o.reader.note(c, speaks)
	if c.BatchBytes > rec.BatchBytes {
		g.save = true
		g.resize(now)
	}
	if v := rec.Verdict; v != nil && v.Fault == nil && o.ranks.taken() >= v.Seq {
		o.ending.finished = true
	}
	g.pay()
	g.demand(now)
	if g.recordDue() { // the demand went first, so no slot waits for this
		g.save = true
	}
	o.backUp(g, c)
	if !o.store.isSilent() { // else the reader says it again
		g.redo(c.Lost)
	}
	if c.Late {
		o.feeder.repair(now)
	}
}

// backUp gives the job of a head that straggles to a second worker, if there is one. Of several ranks the furthest has
// the only head that may not be made yet.
func (o *Owner) backUp(g *generation, c *wire.Credit) {
	g.cancelBackup()
	if c.Straggles && c.Taken >= g.Taken() && o.fleet.Workers > 1 && g.backUp(c.Taken+1) {
		o.backups++
		o.out.info("late job given to a second worker", "gen", g.gen, "seq", g.backup)
	}
}

// reported takes a worker's word about the store: that it is full, gone, or holds another result than its own.
func (o *Owner) reported(now time.Time, report *wire.Report) {
	if o.feeder.of(report.Gen) == nil {
		return
	}
	switch report.Fault.Code {
	case schema.CodeNondeterministic:
		o.feeder.failRun(report.Fault)
	case schema.CodeStoreFull:
		o.crowded(now)
	case schema.CodeStoreGone:
		if !o.store.isSilent() { // else it is looked for anyway
			o.feeder.lookForMissing()
		}
	}
}

// crowded makes room where the server refuses a job or a result for lack of it.
func (o *Owner) crowded(now time.Time) {
	if g := o.feeder.gen; g != nil && g.crowded(now) {
		o.store.look(ForRoom)
	}
}

// looked goes on when the store has been looked at.
func (o *Owner) looked(now time.Time, e Looked) {
	if e.Gen != o.ledger.rec.Gen {
		return
	}
	o.store.looked(now, e)
	if e.Store == StoreLost {
		o.recovery.remake(now, o.requests.asking != nil)
	}
	if e.Store != StoreThere {
		if g := o.feeder.gen; g != nil && e.For == ForRepair {
			g.late.atOnce() // a look that found nothing out does not make the next one rarer
		}
		return
	}
	switch g := o.feeder.gen; {
	case e.For == ForResume:
		o.recovery.resumeFrom(now, e.Done)
	case e.For == ForLast:
		o.recovery.retryAt = now
	case g == nil:
	case e.For == ForRepair:
		if g.reissue(e.Done, e.Queued) {
			o.feeder.announce(e.Unasked)
			if g.relook {
				o.feeder.lookForMissing()
			}
		}
	case e.For == ForRoom:
		if !o.readers.makeRoom() {
			g.makeRoom(e.Done)
		}
	case e.For == ForSweep:
		g.sweep(e.Done)
	}
}
