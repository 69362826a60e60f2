package wire

import (
	"errors"
	"fmt"
	"slices"
)

// MaxSize is how many ranks a world may have. Each has a place in the record and a credit every second.
const MaxSize = 256

// Readers is the name that the seat is held under by several readers, each at its own pace. No world has it.
const Readers = Reserved + "readers"

// Rank is the place of a process in a world: a named set of processes that take each batch together; or, with a Name,
// among several readers of which each goes at its own pace. The zero Rank is that of a reader that is alone.
type Rank struct {
	World string `json:"world,omitempty"`
	Rank  int    `json:"rank,omitempty"`
	Name  string `json:"name,omitempty"`
}

// Holder is the name that the seat of a reader is held under: that of its world, that of all readers, or its own.
func (r Rank) Holder(reader string) string {
	switch {
	case r.World != "":
		return r.World
	case r.Name != "":
		return Readers
	}
	return reader
}

// Check refuses a place that no world has. size is 0 without a world.
func (r Rank) Check(size int) error {
	switch {
	case r.Name != "" && (r.World != "" || r.Rank != 0 || size != 0):
		return fmt.Errorf("reader %q as rank %d of %d of world %q", r.Name, r.Rank, size, r.World)
	case r.Name != "":
		return CheckOwnName("reader", r.Name)
	case r.World == "" && r.Rank == 0 && size == 0:
		return nil
	case r.World == "":
		return fmt.Errorf("rank %d of %d without a world", r.Rank, size)
	case size < 1 || size > MaxSize:
		return fmt.Errorf("a world of %d ranks; at most %d", size, MaxSize)
	case r.Rank < 0 || r.Rank >= size:
		return fmt.Errorf("rank %d in a world of %d", r.Rank, size)
	}
	if r.World == Readers {
		return fmt.Errorf("%w: world name %q is reserved", ErrBadName, r.World)
	}
	return CheckName("world", r.World)
}

// CheckPlace is Check where the size of the world is not known.
func (r Rank) CheckPlace() error {
	if r.World == "" {
		return r.Check(0)
	}
	return r.Check(MaxSize)
}

// Member is the slot of a rank, or of one of several readers, in the record of its batcher.
type Member struct {
	Name     string `json:"name,omitempty"`     // of the reader; empty for a rank
	Reader   string `json:"reader,omitempty"`   // the process that has the slot; empty when none ever had
	Request  string `json:"request,omitempty"`  // its last request that was carried out
	Seat     uint64 `json:"seat,omitempty"`     // that it was given last
	Placed   bool   `json:"placed,omitempty"`   // the slot has a position: that of this process, or of one before
	Seated   bool   `json:"seated,omitempty"`   // at a state, and not only let in; of a reader: attached
	Moved    bool   `json:"moved,omitempty"`    // it was given the seat at the state that all asked for
	Repaired bool   `json:"repaired,omitempty"` // it was given the seat where it said that it was
	Left     bool   `json:"left,omitempty"`     // closed: it pins nothing, and nobody waits for it
}

// Shared reports whether several readers have the seat, each at its own pace.
func (r *Record) Shared() bool { return r.Reader == Readers }

// Absent reports whether a slot counts for nothing: its rank left, or its reader is not attached.
func (r *Record) Absent(slot int) bool {
	return r.Size > 0 && (r.Members[slot].Left || r.Shared() && !r.Members[slot].Seated)
}

// Slot is the index of the member that a place names; negative where there is none.
func (r *Record) Slot(at Rank) (slot int, ok bool) {
	switch {
	case at.Name != "":
		slot = slices.IndexFunc(r.Members, func(m Member) bool { return m.Name == at.Name })
		return slot, slot >= 0
	case at.World == "":
		return -1, false
	}
	return at.Rank, at.Rank < len(r.Members)
}

// Full reports whether there is no slot for a reader's name.
func (r *Record) Full(name string) bool {
	return len(r.Members) >= MaxSize &&
		!slices.ContainsFunc(r.Members, func(m Member) bool { return m.Left || m.Name == name })
}

// AddSlot returns the index of the member that a reader's name has, or is given: a free one, or a new one.
func (r *Record) AddSlot(name string) (slot int) {
	r.Members = slices.Clone(r.Members)
	slot, ok := r.Slot(Rank{Name: name})
	if !ok {
		slot = slices.IndexFunc(r.Members, func(m Member) bool { return m.Left })
		if slot < 0 {
			slot, r.Members = len(r.Members), append(r.Members, Member{})
		}
		r.Retire(r.Members[slot].Reader, r.Members[slot].Request)
		r.Members[slot] = Member{Name: name}
	}
	r.Size = len(r.Members)
	return slot
}

// maxFormer is how many former readers a record may remember.
func (r *Record) maxFormer() int { return max(MaxFormer, 2*r.Size) }

// Vacate notes that the reader of the seat has it no more: it left, or lost it. A world that lost its seat never gets
// it back; one whose ranks have all left may.
func (r *Record) Vacate(left bool) {
	if r.Reader == "" {
		return
	}
	if r.Size == 0 || !left && !r.Shared() {
		r.Retire(r.Reader, r.Request)
	} else {
		for _, m := range r.Members {
			r.Retire(m.Reader, m.Request)
		}
	}
	r.Reader, r.Request, r.Size, r.Members = "", "", 0, nil
	r.Former = r.Former[max(0, len(r.Former)-r.maxFormer()):]
}

// Retire notes that what a reader asked up to a request is over.
func (r *Record) Retire(reader, request string) {
	if reader == "" {
		return
	}
	former := append(slices.Clone(r.Former), Former{Reader: reader, Request: request})
	r.Former = former[max(0, len(former)-r.maxFormer()):]
}

// Admit gives a process the slot of its rank at the next seat.
func (r *Record) Admit(rank int, m Member) {
	r.Seat++
	m.Seat = r.Seat
	r.Members = slices.Clone(r.Members)
	r.Members[rank] = m
}

// checkWorld is checkNumbers for the ranks.
func (r *Record) checkWorld() error {
	bad := make([]error, 0, 2)
	if r.Size < 0 || r.Size > MaxSize || len(r.Members) != r.Size {
		bad = append(bad, fmt.Errorf("%d slots for a world of %d ranks; at most %d", len(r.Members), r.Size, MaxSize))
	}
	for _, m := range r.Members {
		if r.Shared() != (m.Name != "") {
			bad = append(bad, fmt.Errorf("slot %q where %q has the seat", m.Name, r.Reader))
		}
		if m.Reader != "" {
			bad = append(bad, CheckName("reader", m.Reader))
		}
		if m.Request != "" {
			bad = append(bad, CheckName("request", m.Request))
		}
		if m.Seat > r.Seat {
			bad = append(bad, fmt.Errorf("a rank at seat %d, after the record's %d", m.Seat, r.Seat))
		}
	}
	return errors.Join(bad...)
}
