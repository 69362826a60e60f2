package owner

import (
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// savePause is how long progress is not recorded after a server did not answer.
const savePause = 4 * time.Second

// ledger is the record as it is stored, and the one change of it that is under way. A change is decided when no other
// is under way, stored by the shell, and believed once it is stored.
type ledger struct {
	out *effects
	rec wire.Record // as stored last
	key wire.Digest // of its Spec
	rev uint64

	writing  *change
	damaged  bool      // it is to be written anew as it was
	unwanted bool      // no reader was ever seated, and the first request was refused: it is to be deleted
	unsaved  time.Time // when a server last did not answer; zero when it has since
	trouble  string    // why the record could not be changed last; empty when it could
	writeAt  time.Time // until then nothing is recorded in the background
}

// change is what is being recorded.
type change struct {
	aim  aim
	next wire.Record
	key  wire.Digest
}

// aim is the purpose of a change.
type aim uint8

const (
	toRetire   aim = iota // the record is deleted
	toSit                 // a reader is given the seat
	toAdmit               // a process is given the slot of a rank
	toPlace               // a rank is seated where it is
	toYield               // a reader that asks for a state elsewhere is attached no more
	toSeek                // the seat moves to a state that is held
	toBegin               // a generation is begun for a request
	toBeginNew            // a generation is begun in the place of one that was lost
	toStop                // the run is stopped, or left
	toFail                // the run failed
	toFinish              // the trainer has everything
	toConclude            // the verdict
	toDetach              // a reader that keeps the others up is attached no more
	toSave                // progress
	toMend                // the same again, in the place of what was damaged
)

func (a aim) String() string {
	return [...]string{
		"collection", "seat", "slot", "place", "another place", "look-up", "new generation", "new generation", "stop", "failure",
		"end of the run", "end of the sequence", "detachment", "progress", "the same again",
	}[a]
}

// record begins a change. Nothing may be under way.
func (l *ledger) record(aim aim, apply func(*wire.Record)) { l.recordSpec(aim, l.key, apply) }

// recordSpec begins a change after which the record's Spec has a key.
func (l *ledger) recordSpec(aim aim, key wire.Digest, apply func(*wire.Record)) {
	next := l.rec
	apply(&next)
	l.writing = &change{aim, next, key}
	l.out.emit(Record{next, l.rev})
}

// retire begins to delete the record. Nothing may be under way.
func (l *ledger) retire() {
	l.unwanted = false
	l.writing = &change{toRetire, l.rec, l.key}
	l.out.emit(Retire{l.rev})
}

// recorded ends the change under way, and returns it; nil for none.
func (l *ledger) recorded(now time.Time, e Recorded) *change {
	c := l.writing
	l.writing = nil
	switch {
	case c == nil:
	case e.Outcome == Done:
		l.rec, l.key, l.rev, l.damaged = c.next, c.key, e.Revision, false
		l.unsaved, l.trouble = time.Time{}, ""
	default:
		if e.Outcome == Silent { // the next change finds out what became of this one
			l.unsaved = now
		}
		l.trouble = e.Reason
		l.writeAt = now.Add(Beat)
	}
	return c
}

// retired ends a deletion, and reports whether one was under way. The revision is another after a change, or a
// deletion, whose outcome was unknown.
func (l *ledger) retired() bool {
	if l.writing == nil || l.writing.aim != toRetire {
		return false
	}
	l.writing = nil
	return true
}

// lane is a generation, and the kind of job that its lane was opened with.
type lane struct{ gen, kind string }

// lane is that of the record.
func (l *ledger) lane() lane { return lane{l.rec.Gen, l.kindToken()} }

// kindToken is the subject token of the record's data set.
func (l *ledger) kindToken() string { return wire.KindToken(l.rec.Spec.Dataset, l.rec.Spec.Version) }

// slot is the rank of a reader that has the seat, or a slot of it; 0 for one that is alone.
func (l *ledger) slot(at wire.Rank, reader string) (rank int, ok bool) {
	switch r := &l.rec; {
	case reader == "" || r.Reader == "" || r.Reader != at.Holder(reader):
		return 0, false
	case r.Size == 0:
		return 0, at.World == ""
	}
	rank, ok = l.rec.Slot(at)
	return rank, ok && l.rec.Members[rank].Reader == reader
}

// seatOf is the seat that a rank was given last.
func (l *ledger) seatOf(rank int) uint64 {
	if l.rec.Size == 0 {
		return l.rec.Seat
	}
	return l.rec.Members[rank].Seat
}

// requestOf is the last request of a rank that was carried out.
func (l *ledger) requestOf(rank int) string {
	if l.rec.Size == 0 {
		return l.rec.Request
	}
	return l.rec.Members[rank].Request
}

// overtaken reports whether a request of a reader is older than the one that it was last answered, or than the loss of
// its seat: a duplicate that comes so late changes nothing. A world that lost its seat, and a process that lost its
// rank, never get it back.
func (l *ledger) overtaken(at wire.Rank, reader, request string) bool {
	if rank, ok := l.slot(at, reader); ok {
		return request < l.requestOf(rank)
	}
	return slices.ContainsFunc(l.rec.Former, func(f wire.Former) bool {
		return f.Reader == reader && (at.World != "" || request <= f.Request) || at.World != "" && f.Reader == at.World
	})
}
