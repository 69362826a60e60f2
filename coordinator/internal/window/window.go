// Package window is the in-flight window of one generation: which sequence numbers are held, which jobs
// may still be fed, and which results may be dropped. It is a plain state machine: no clock, no NATS, no
// goroutine, and no error: an input that makes no sense is refused and changes nothing.
//
// Sequence numbers up to floor are dropped; (floor, fed] are held: (floor, taken] for look-ups, (taken, fed] are in
// flight. floor ≤ taken and floor ≤ fed always, and taken ≤ fed but for one time: after New, until the entries up to
// taken have been fed again. Then nothing is in flight, and taken stays where it is unless Seek moves it back.
//
// No more than limit are in flight, unless the limit was lowered, the head moved back, or it is not known any more how
// far it had come: what is out stays out.
//
// Where several readers share the window, taken is what all of them have, and the head, from which on the limit counts,
// is that of the furthest: taken ≤ head ≤ fed, once they are fed again.
//
// Jobs and states are bounded in bytes, too: MaxBytes are held, and one entry more at most. Those that are kept for
// look-ups have half of that. Of the entries up to taken that are fed again after New, the first ones go where there
// are more bytes of them, whatever New was told. When nothing is in flight one job may be fed whatever is held, so that
// the head can always make progress.
package window

import "bytes"

// Entry is one sequence number that is held.
type Entry struct {
	Next []byte // state after it
	Job  []byte // the encoded job, to publish again
}

// MaxBytes is how many bytes of jobs and states are held. A job is a message, 1 MiB by default: 64 of that size keep as
// many slots busy, and the largest window is full of jobs of 4 KiB, which are large ones, since a job says what to read
// and not what is in it.
const MaxBytes = 64 << 20

// entryBytes is what an entry costs besides its slices' bytes.
const entryBytes = 64

func (e Entry) size() int64 { return int64(len(e.Next)+len(e.Job)) + entryBytes }

// Window is not safe for concurrent use.
type Window struct {
	floor, taken uint64
	floorState   []byte
	entries      []Entry // floor+1 … fed
	bytes        int64   // of entries
	out          uint64  // jobs were out to here before New
	lead         uint64  // how far the furthest of several readers is; 0 where there is one
	limit        int
	ended        bool
}

// New returns the window of a generation of which everything up to floor is dropped, and state follows
// floor. The entries after floor are to be fed again; those up to taken are the trainer's already.
func New(floor uint64, state []byte, taken uint64) *Window {
	return &Window{floor: floor, taken: max(floor, taken), floorState: state, limit: 1}
}

// FedBefore says that jobs up to seq were out before New. They are fed again at any limit, since the trainer may have
// come further than is known here.
func (w *Window) FedBefore(seq uint64) { w.out = seq }

// Floor is the sequence number up to which results are dropped.
func (w *Window) Floor() uint64 { return w.floor }

// Taken is the sequence number that the trainer has come to.
func (w *Window) Taken() uint64 { return w.taken }

// Lead says how far the furthest of several readers is. It may go back, where that one is not there any more.
func (w *Window) Lead(seq uint64) { w.lead = seq }

// Head is the sequence number that the furthest of the readers has come to.
func (w *Window) Head() uint64 { return max(w.taken, min(w.lead, w.Fed())) }

// Fed is the sequence number that jobs are out to.
func (w *Window) Fed() uint64 { return w.floor + uint64(len(w.entries)) }

// Limit is how many sequence numbers may be in flight.
func (w *Window) Limit() int { return w.limit }

// SetLimit changes the limit; one below 1 counts as 1. Jobs that are out stay out.
func (w *Window) SetLimit(limit int) { w.limit = max(limit, 1) }

// End says that no job follows the last one fed.
func (w *Window) End() { w.ended = true }

// Want is how many jobs may be fed now.
func (w *Window) Want() int {
	if w.ended {
		return 0
	}
	bound, fed := max(w.Head()+uint64(w.limit), w.out), w.Fed()
	if fed >= bound || w.Room() == 0 {
		return 0
	}
	return int(bound - fed)
}

// Room is how many bytes may be fed now: the entry that exceeds them is the last for now.
func (w *Window) Room() int64 {
	room := max(MaxBytes-w.bytes, 0)
	if w.Fed() <= w.taken {
		room = max(room, 1)
	}
	return room
}

// Feed appends the next entry and returns its sequence number; after End it does nothing and returns 0. It
// accepts more than Want: a limit may be lowered while Next runs.
func (w *Window) Feed(e Entry) uint64 {
	if w.ended {
		return 0
	}
	w.entries = append(w.entries, e)
	w.bytes += e.size()
	for w.bytes > MaxBytes && w.Fed() <= w.taken { // it is the trainer's already: what has no room is not kept
		w.floorState, w.bytes = w.entries[0].Next, w.bytes-w.entries[0].size()
		w.entries[0], w.entries = Entry{}, w.entries[1:]
		w.floor++
	}
	return w.Fed()
}

// StateAfter returns the state that follows seq, for floor ≤ seq ≤ fed; otherwise nil.
func (w *Window) StateAfter(seq uint64) []byte {
	switch {
	case seq == w.floor:
		return w.floorState
	case seq < w.floor || seq > w.Fed():
		return nil
	}
	return w.entries[seq-w.floor-1].Next
}

// Entry returns what is held of seq, for floor < seq ≤ fed.
func (w *Window) Entry(seq uint64) (Entry, bool) {
	if seq <= w.floor || seq > w.Fed() {
		return Entry{}, false
	}
	return w.entries[seq-w.floor-1], true
}

// Credit moves taken forward, to at most fed, and reports whether it moved.
func (w *Window) Credit(taken uint64) bool {
	taken = min(taken, w.Fed())
	if taken <= w.taken {
		return false
	}
	w.taken = taken
	return true
}

// Find returns the sequence number that follows state, if it is held or next in line: the head when it
// fits, else the nearest after the head, else the nearest before it.
func (w *Window) Find(state []byte) (position uint64, ok bool) {
	if position, ok := w.FindFrom(w.taken, state); ok {
		return position, true
	}
	for seq := min(w.taken, w.Fed()+1); seq > w.floor; seq-- {
		if bytes.Equal(w.StateAfter(seq-1), state) {
			return seq, true
		}
	}
	return 0, false
}

// FindFrom returns the sequence number that follows state, if it is held or next in line, after taken: the nearest.
func (w *Window) FindFrom(taken uint64, state []byte) (position uint64, ok bool) {
	for seq := max(taken, w.floor); seq <= w.Fed(); seq++ {
		if bytes.Equal(w.StateAfter(seq), state) {
			return seq + 1, true
		}
	}
	return 0, false
}

// Seek makes position the head and returns the range of jobs [from, to) that were skipped over, empty when
// the head moved back. position must be one that Find returned.
func (w *Window) Seek(position uint64) (from, to uint64) {
	if position <= w.floor || position > w.Fed()+1 {
		return 0, 0
	}
	from, to = w.taken+1, position
	w.taken = position - 1
	if from >= to {
		return 0, 0
	}
	return from, to
}

// Droppable is the floor that may be set so that retain taken entries stay held, or as many as have room.
func (w *Window) Droppable(retain int) uint64 {
	floor, keep := w.floor, uint64(max(retain, 0))
	if w.taken >= keep {
		floor = min(max(floor, w.taken-keep), w.Fed())
	}
	if w.bytes <= MaxBytes/2 {
		return floor
	}
	kept := int64(0)
	for seq := min(w.taken, w.Fed()); seq > floor; seq-- {
		if kept += w.entries[seq-w.floor-1].size(); kept > MaxBytes/2 {
			return seq
		}
	}
	return floor
}

// Drop forgets everything up to floor, which must not exceed taken.
func (w *Window) Drop(floor uint64) {
	if floor <= w.floor || floor > w.taken || floor > w.Fed() {
		return
	}
	w.floorState = w.StateAfter(floor)
	for _, e := range w.entries[:floor-w.floor] {
		w.bytes -= e.size()
	}
	n := copy(w.entries, w.entries[floor-w.floor:])
	clear(w.entries[n:])
	w.entries = w.entries[:n]
	w.floor = floor
}

// Missing returns the sequence numbers in (taken, fed] for which done is false, in order.
func (w *Window) Missing(done func(seq uint64) bool) []uint64 {
	var missing []uint64
	for seq := w.taken + 1; seq <= w.Fed(); seq++ {
		if !done(seq) {
			missing = append(missing, seq)
		}
	}
	return missing
}
