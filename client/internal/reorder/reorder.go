// Package reorder puts the results of one generation back into order. It is a plain state machine: no
// goroutine, no clock, no NATS. What arrives goes in by Add, in any order and any number of times; what
// comes out at the head is in order, and linked to what came before by its state.
package reorder

import (
	"bytes"
	"iter"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// Outcome is what the head of the line allows.
type Outcome uint8

// The outcomes.
const (
	Waiting  Outcome = iota // nothing has arrived for the head
	Fetching                // the head's record is here, its payload is not
	Batch                   // a batch, complete
	Hole                    // no batch at this position: Advance
	Failed                  // the run failed here
	End                     // the data ended before this position
	Broken                  // the record does not follow from the state before: something is wrong
)

func (o Outcome) String() string {
	return [...]string{"waiting", "fetching", "batch", "hole", "failed", "end", "broken"}[o]
}

// Entry is a commit record and what the caller keeps with it.
type Entry[T any] struct {
	Result *wire.Result
	Value  T
	Ready  bool // the payload is here

	claimed bool // somebody fetches the payload
}

// Buffer holds the records between the head of the line and span positions ahead of it. The zero value
// holds nothing; Reset begins a sequence.
type Buffer[T any] struct {
	// Let is called with the value of every record that leaves the buffer without being taken by Advance. Defaults to no
	// call.
	Let func(T)

	head  uint64
	state []byte
	span  uint64
	held  map[uint64]*Entry[T]
	top   uint64 // the highest position that is held, at least head
	fail  uint64 // lowest position that holds an error; 0 for none
	bytes int64  // payload bytes here or claimed
	apart int    // records whose payload is neither here nor claimed
}

// Reset forgets everything and begins at position, whose state-before is state.
func (b *Buffer[T]) Reset(position uint64, state []byte, span int) {
	b.Clear()
	*b = Buffer[T]{Let: b.Let, held: make(map[uint64]*Entry[T]), head: position, state: state,
		span: uint64(max(span, 1)), top: position}
}

// Clear forgets all records, and stays where it is.
func (b *Buffer[T]) Clear() {
	b.top = b.head // each Drop looks for another one else
	for seq := range b.held {
		b.Drop(seq)
	}
}

// Seek moves the head within the same generation. The buffer keeps the records from there on, and drops the others.
func (b *Buffer[T]) Seek(position uint64, state []byte) {
	b.head, b.state = position, state
	for seq := range b.held {
		if !b.inRange(seq) {
			b.Drop(seq)
		}
	}
	b.findTop()
}

// Head returns the position that Advance would leave.
func (b *Buffer[T]) Head() uint64 { return b.head }

// State returns the state before the head.
func (b *Buffer[T]) State() []byte { return b.state }

// Len returns how many records are held.
func (b *Buffer[T]) Len() int { return len(b.held) }

// All iterates what is held, in no order.
func (b *Buffer[T]) All() iter.Seq[Entry[T]] {
	return func(yield func(Entry[T]) bool) {
		for _, e := range b.held {
			if !yield(*e) {
				return
			}
		}
	}
}

// Bytes returns how many bytes of payload are held or claimed.
func (b *Buffer[T]) Bytes() int64 { return b.bytes }

func (b *Buffer[T]) inRange(seq uint64) bool { return seq >= b.head && seq-b.head < b.span }

// Wants reports whether a record of this position would be kept.
func (b *Buffer[T]) Wants(seq uint64) bool { return b.inRange(seq) && b.held[seq] == nil }

// Add keeps a record and reports whether it did: not when one is held for that position, nor when the
// position is behind the head or too far ahead of it. Ready says that the payload came with it.
func (b *Buffer[T]) Add(r *wire.Result, value T, ready bool) bool {
	if !b.Wants(r.Seq) {
		return false
	}
	ready = ready || r.Kind != wire.KindBatch
	b.held[r.Seq] = &Entry[T]{Result: r, Value: value, Ready: ready}
	b.top = max(b.top, r.Seq)
	if ready {
		b.bytes += int64(r.Size)
	} else {
		b.apart++
	}
	if r.Kind == wire.KindError && (b.fail == 0 || r.Seq < b.fail) {
		b.fail = r.Seq
	}
	return true
}

// Look says what the head allows, with its entry unless the outcome is Waiting.
func (b *Buffer[T]) Look() (Entry[T], Outcome) {
	e := b.held[b.head]
	if e == nil {
		return Entry[T]{}, Waiting
	}
	if !bytes.Equal(e.Result.Prev, b.state) {
		return *e, Broken
	}
	switch e.Result.Kind {
	case wire.KindHole:
		return *e, Hole
	case wire.KindError:
		return *e, Failed
	case wire.KindEnd:
		return *e, End
	}
	if !e.Ready {
		return *e, Fetching
	}
	return *e, Batch
}

// Ahead looks for the batch that follows state, at the head or behind it, and past holes. Where it is not here, or not
// complete, missing is the position that lacks; 0 where none is to come, since the run ends, fails or is broken before,
// or no position is before state.
func (b *Buffer[T]) Ahead(state []byte) (found Entry[T], missing uint64) {
	at, met := b.state, false
	for seq := b.head; b.inRange(seq); seq++ {
		met = met || bytes.Equal(at, state)
		e := b.held[seq]
		switch {
		case e == nil:
			return found, seq
		case !bytes.Equal(e.Result.Prev, at):
			return found, 0
		case e.Result.Kind == wire.KindHole:
		case e.Result.Kind != wire.KindBatch:
			return found, 0
		case !e.Ready:
			return found, seq
		case met:
			return *e, 0
		}
		at = e.Result.Next
	}
	return found, 0
}

// Advance moves past the head if it is a batch or a hole, and reports whether it did.
func (b *Buffer[T]) Advance() bool {
	e, outcome := b.Look()
	if outcome != Batch && outcome != Hole {
		return false
	}
	b.remove(b.head)
	b.head++
	b.state = e.Result.Next
	b.top = max(b.top, b.head)
	return true
}

// Drop forgets the record of a position, as if it had not arrived, and reports whether there was one.
func (b *Buffer[T]) Drop(seq uint64) bool {
	e := b.remove(seq)
	if e != nil && b.Let != nil {
		b.Let(e.Value)
	}
	return e != nil
}

// remove takes the record of a position out; nil where there is none.
func (b *Buffer[T]) remove(seq uint64) *Entry[T] {
	e := b.held[seq]
	if e == nil {
		return nil
	}
	delete(b.held, seq)
	if e.Ready || e.claimed {
		b.bytes -= int64(e.Result.Size)
	} else {
		b.apart--
	}
	if seq == b.fail {
		b.fail = 0
		for s, e := range b.held {
			if e.Result.Kind == wire.KindError && (b.fail == 0 || s < b.fail) {
				b.fail = s
			}
		}
	}
	if seq == b.top {
		b.findTop()
	}
	return e
}

// Forget drops r if it is what is held for its position.
func (b *Buffer[T]) Forget(r *wire.Result) bool {
	if e := b.held[r.Seq]; e == nil || e.Result != r {
		return false
	}
	return b.Drop(r.Seq)
}

func (b *Buffer[T]) findTop() {
	b.top = b.head
	for seq := range b.held {
		b.top = max(b.top, seq)
	}
}

// FirstError returns the error of the lowest position that holds one.
func (b *Buffer[T]) FirstError() (*wire.Result, bool) {
	if b.fail == 0 {
		return nil, false
	}
	return b.held[b.fail].Result, true
}

// Claim claims the lowest record whose payload is wanted and not claimed, if the payload fits into limit bytes with
// everything else that is held, and returns it. The head always fits: whatever is held ahead of it cannot be taken
// before it. With it come those behind it that lie at the same address, up to together bytes of payloads in all, and
// as far as what lies elsewhere before them fits, too.
func (b *Buffer[T]) Claim(limit, together int64) (run []Entry[T]) {
	var elsewhere, sum int64
	for seq := b.head; b.apart > 0 && seq <= b.top && len(run) < mostTogether; seq++ {
		e := b.held[seq]
		if e == nil || e.Ready || e.claimed {
			continue
		}
		size := int64(e.Result.Size)
		if seq != b.head && (size > limit || b.bytes+elsewhere > limit-size) {
			break
		}
		switch {
		case len(run) == 0:
		case size > together-sum:
			return run
		case !sameAddress(run[0].Result, e.Result):
			elsewhere += size
			continue
		}
		e.claimed = true
		b.apart--
		b.bytes += size
		sum += size
		run = append(run, *e)
	}
	return run
}

// mostTogether bounds the records of one Claim.
const mostTogether = 64

func sameAddress(a, b *wire.Result) bool {
	return a.Direct != nil && b.Direct != nil && a.Direct.Address == b.Direct.Address
}

// Fill completes a claimed record and reports whether it is still wanted: the same record, claimed.
func (b *Buffer[T]) Fill(r *wire.Result, value T) bool {
	e := b.held[r.Seq]
	if e == nil || e.Result != r || !e.claimed {
		return false
	}
	e.Value, e.Ready, e.claimed = value, true, false
	return true
}

// Missing returns the positions without a record among the first window ones and below the highest that
// is held, in ascending order.
func (b *Buffer[T]) Missing(window int) []uint64 {
	end := min(max(b.top, b.head+uint64(max(window, 1))-1), b.head+b.span-1)
	var missing []uint64
	for seq := b.head; seq <= end; seq++ {
		e := b.held[seq]
		if e == nil {
			missing = append(missing, seq)
		} else if e.Result.Kind == wire.KindEnd {
			break // nothing can follow
		}
	}
	return missing
}
