package wire

import (
	"fmt"
	"testing"
)

// TestSlots gives readers slots by name: a name keeps its own, one that is free is used again, and what its process
// asked last is remembered.
func TestSlots(t *testing.T) {
	t.Parallel()
	rec := Record{Reader: Readers, Seat: 1}
	take := func(name string) int {
		slot := rec.AddSlot(name)
		rec.Members[slot].Reader, rec.Members[slot].Request = "of-"+name, "7"
		if got, ok := rec.Slot(Rank{Name: name}); !ok || got != slot || rec.Size != len(rec.Members) {
			t.Fatalf("%s has slot %d and is found at %d, of %d", name, slot, got, rec.Size)
		}
		return slot
	}
	if a, b, again := take("a"), take("b"), take("a"); a != 0 || b != 1 || again != 0 {
		t.Errorf("slots %d, %d, %d", a, b, again)
	}
	before := rec.Members
	rec.Members[0].Left = true
	if c := take("c"); c != 0 || before[0].Name != "a" {
		t.Errorf("c has slot %d; a record that was copied has %q there", c, before[0].Name)
	}
	if len(rec.Former) != 1 || rec.Former[0] != (Former{Reader: "of-a", Request: "7"}) {
		t.Errorf("former readers %+v", rec.Former)
	}
	if slot, ok := rec.Slot(Rank{Name: "a"}); ok || slot >= 0 {
		t.Errorf("a is found at %d", slot)
	}
	for i := range MaxSize - 2 {
		if rec.Full(fmt.Sprint("n", i)) {
			t.Fatalf("full with %d", len(rec.Members))
		}
		take(fmt.Sprint("n", i))
	}
	if !rec.Full("late") || rec.Full("c") {
		t.Error("a record without a free slot is full for a new name, and for no other")
	}
}

// TestPlaces refuses what is neither a rank, nor one of several readers, nor alone.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		at   Rank
		size int
		ok   bool
	}{
		{Rank{}, 0, true}, {Rank{Name: "a"}, 0, true}, {Rank{World: "w", Rank: 1}, 2, true},
		{Rank{Name: "a"}, 1, false}, {Rank{Name: "a", Rank: 1}, 0, false}, {Rank{Name: "a", World: "w"}, 1, false},
		{Rank{Name: "a__b"}, 0, false}, {Rank{Name: "a b"}, 0, false}, {Rank{World: Readers}, 1, false},
	} {
		if err := c.at.Check(c.size); (err == nil) != c.ok {
			t.Errorf("%+v of %d: %v", c.at, c.size, err)
		}
	}
	if (Rank{Name: "a"}).Holder("r") != Readers || (Rank{World: "w"}).Holder("r") != "w" || (Rank{}).Holder("r") != "r" {
		t.Error("the seat is held under another name")
	}
}
