package client

import (
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const timedEvery = 50 * time.Millisecond // how often, at most, credits between beats say where the time went

// credit says how far the trainer has come; a beat's says where the time went in any case.
func (l *line) credit(now time.Time, beat bool) wire.Credit {
	l.mu.Lock()
	defer l.mu.Unlock()
	fault, _, err := l.run.status()
	if fault != nil {
		f := *fault
		fault = &f
	}
	return wire.Credit{
		Gen: l.seat.gen, Seat: l.seat.number, Reader: l.id, Secret: l.secret, Rank: l.cfg.place(), Asking: l.asking,
		Taken: l.taken, Holes: l.stateless(),
		BatchBytes: l.tally.largestBatch, Stored: max(l.tally.largestStored, 1), Bytes: l.tally.bytes,
		Waiting: l.waiting, Late: l.overdue, Straggles: (err == nil || isEnd(err)) && l.late.straggles(&l.buf, now),
		Failed: fault, Timing: l.tally.timing(now, beat), Trace: l.trace, Lost: l.lost.list(l.buf.Head()),
	}
}

// straggles reports whether the owner is to be told that the head straggles. The credits after that tell it as well.
func (l *line) straggles(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.run.err() == nil && l.late.straggles(&l.buf, now)
}

// displaced reports whether an answer or a notice says that another reader has the seat. Its callers have seen that the
// seat's number in it is not below this reader's, as it is in an answer of a deposed owner. An answer or a notice about
// another rank of the same world, or another of several readers, says nothing of this reader's seat.
func (l *line) displaced(begun bool, said *wire.CreditReply) bool {
	if at := l.cfg.place(); at.World != "" && said.World == at.World {
		return said.Rank.Rank == at.Rank && said.Reader != "" && said.Reader != l.id
	}
	if name := l.cfg.Reader; name != "" && said.World == wire.Readers {
		return said.Name == name && said.Reader != "" && said.Reader != l.id
	}
	id := l.id
	// A seat without a reader was taken over by one that has left since: a lease that runs out leaves the seat ours.
	return said.Reader != id && (said.Reader != "" || begun)
}

// judge compares the answer to a credit with how things stand here, and returns a warning if there is one to log.
func (l *line) judge(sent *wire.Credit, said *wire.CreditReply, now time.Time) (warning string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seat.gen != sent.Gen || l.seat.number != sent.Seat {
		return "" // it answers a seat that was left since
	}
	l.owner.answered()
	_, begun, err := l.run.status()
	switch {
	case said.Seat < sent.Seat:
		// An owner that was deposed before this seat was taken and does not know it, or a record that was lost, or went
		// back. A request finds out which, and says where a rank is.
		l.stranded = true
		l.run.suspect(fmt.Sprintf("an owner speaks of seat %d, which is before ours", said.Seat), life.Moved)
		return ""
	case l.displaced(begun, said):
		l.run.end(l.run.errSuperseded(said.Reader))
		return ""
	case !begun:
		if err == nil {
			l.owner.set(said.Phase) // for a Start long after
		}
		return ""
	}
	warning = l.owner.hear(said, now)
	switch {
	case said.Phase == schema.PhaseClosed:
		l.run.end(l.run.errStopped())
	case said.Phase == schema.PhaseFailed && l.cfg.World != nil: // whatever generation the others were at by then
		l.failElsewhere(said.Error)
	case said.Seat != l.seat.number || said.Gen != l.seat.gen:
		l.stranded = said.Seat == l.seat.number
		l.run.suspect(fmt.Sprintf("the owner moved on to seat %d of generation %s", said.Seat, said.Gen), life.Moved)
		if l.cfg.Reader != "" && l.sess != nil {
			l.sess.cancel() // its trainer may stand still for long, and what the others go on to is not for it
		}
	case said.Phase == schema.PhaseFailed:
		l.failElsewhere(said.Error)
	case said.Phase == schema.PhaseStopped:
		l.run.suspect("the owner says that the batcher was never started", life.Moved)
	case said.Window > 0:
		l.window = said.Window
	}
	return warning
}

// failElsewhere takes over the owner's word that the run failed. With InOrder the batches before the
// failure come first, and the failure's own record after them. Called with mu held.
func (l *line) failElsewhere(f *schema.Fault) {
	if f == nil {
		f = &schema.Fault{Code: schema.CodeIterator, Gen: l.seat.gen}
	}
	// The owner says of a world that it failed when all ranks have met the error, or cannot.
	if l.cfg.World == nil && l.cfg.OnError == InOrder && f.Gen == l.seat.gen && f.Seq > l.taken {
		return
	}
	l.run.end(l.cfg.faultError(f))
}

// fence takes a notice: one that names another reader at a higher seat ends the run here and now, and what is buffered
// is not taken. A notice that was sent before this seat was taken names a lower one.
func (l *line) fence(said *wire.CreditReply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, begun, _ := l.run.status()
	if said.Seat > l.seat.number && l.displaced(begun, said) {
		l.run.end(l.run.errSuperseded(said.Reader))
	}
}
