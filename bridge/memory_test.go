//go:build linux

package bridge_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Slots never overlap, keep what was written to them, and never exceed the bound; what is freed serves again.
func TestMemory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1 << 20
		announced := map[int64]int{}
		m, err := bridge.NewMemory(limit, func(offset int64, size int, gone bool) error {
			if gone {
				if announced[offset] != size {
					t.Fatalf("segment %d of %d bytes goes, which was never announced", offset, size)
				}
				delete(announced, offset)
				return nil
			}
			announced[offset] = size
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		type lent struct {
			slot []byte
			mark byte
		}
		out := map[int64]lent{}
		var spare [][]byte // this side's, some of them the other side's, too
		var order []int64
		largest := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(order) > 0 && rapid.Bool().Draw(t, "free") {
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				offset := order[i]
				if s := out[offset]; bytes.Count(s.slot, []byte{s.mark}) != len(s.slot) {
					t.Fatalf("the slot at %d was overwritten", offset)
				}
				order = append(order[:i], order[i+1:]...)
				delete(out, offset)
				if err := m.Free(offset); err != nil {
					t.Fatal(err)
				}
				if err := m.Free(offset); !errors.Is(err, bridge.ErrFrame) {
					t.Fatalf("freed twice: %v", err)
				}
				continue
			}
			if len(spare) > 0 && rapid.Bool().Draw(t, "return") {
				m.Return(spare[0])
				spare = spare[1:]
				continue
			}
			n := rapid.OneOf(rapid.IntRange(1, 5000), rapid.IntRange(1, 400_000)).Draw(t, "size")
			largest = max(largest, n)
			var offset int64
			var slot []byte
			if rapid.Bool().Draw(t, "this side's first") {
				if slot, err = m.Spare(n); err == nil {
					spare = append(spare, slot)
					var into int
					if offset, into, _, err = m.Hold(&slot[n-1]); err == nil && into != n-1 {
						t.Fatalf("the last of %d bytes is at %d", n, into)
					}
				}
			} else {
				offset, slot, err = m.Alloc(n)
			}
			if errors.Is(err, bridge.ErrMemoryFull) {
				if len(out)+len(spare) == 0 {
					t.Fatalf("%d bytes do not fit, and nothing is out", n)
				}
				continue
			}
			if err != nil || len(slot) != n || offset%4096 != 0 {
				t.Fatalf("%d bytes: %d at %d, %v", n, len(slot), offset, err)
			}
			mark := byte(len(order) + 1)
			for i := range slot {
				slot[i] = mark
			}
			out[offset] = lent{slot, mark}
			order = append(order, offset)
			total := 0
			for _, size := range announced {
				total += size
			}
			if bound := 2*limit + 2*(largest+largest/4+4096); total > bound {
				t.Fatalf("%d bytes are mapped, at most %d", total, bound)
			}
		}
	})
}

// What this side has takes no room from the other side, and counts as the other side's from when it is held.
func TestMemoryOfBothSides(t *testing.T) {
	t.Parallel()
	const limit, size = 1 << 20, 100_000 // in slots of 112 KiB
	m, err := bridge.NewMemory(limit, func(int64, int, bool) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	var spare [][]byte
	slot, err := m.Spare(size)
	for ; err == nil; slot, err = m.Spare(size) {
		spare = append(spare, slot)
	}
	if !errors.Is(err, bridge.ErrMemoryFull) || len(spare) != 9 {
		t.Fatalf("%d slots, then %v", len(spare), err)
	}
	var lent []int64
	offset, _, err := m.Alloc(size)
	for ; err == nil; offset, _, err = m.Alloc(size) {
		lent = append(lent, offset)
	}
	if !errors.Is(err, bridge.ErrMemoryFull) || len(lent) != 9+2 {
		t.Fatalf("the other side has %d slots, then %v", len(lent), err)
	}
	hold := func() (int64, error) {
		offset, into, ok, err := m.Hold(&spare[0][7])
		if !ok || err == nil && into != 7 {
			t.Fatalf("the slot is not found: %d", into)
		}
		return offset, err
	}
	if _, err := hold(); !errors.Is(err, bridge.ErrMemoryFull) {
		t.Fatalf("the other side has more than it may: %v", err)
	}
	free := func(offset int64) {
		if err := m.Free(offset); err != nil {
			t.Fatal(err)
		}
	}
	free(lent[0])
	first, err := hold()
	again, errAgain := hold() // takes no room
	if err != nil || errAgain != nil || first != again {
		t.Fatal(err, errAgain, first, again)
	}
	if slot, err = m.Spare(size); err != nil {
		t.Fatalf("this side has one less: %v", err)
	}
	free(first)
	if _, _, err := m.Alloc(size); !errors.Is(err, bridge.ErrMemoryFull) {
		t.Fatalf("the slot is held still: %v", err)
	}
	m.Return(spare[0])
	m.Return(slot)
	if _, _, ok, _ := m.Hold(&slot[0]); ok {
		t.Error("a slot that was returned is held")
	}
	free(first)
	if err := m.Free(first); !errors.Is(err, bridge.ErrFrame) {
		t.Fatalf("freed twice: %v", err)
	}
	if _, _, err := m.Alloc(size); err != nil {
		t.Fatal(err)
	}
}

// What the other side writes to the file is seen; a size beyond the file's end is refused and not a fault.
func TestRegion(t *testing.T) {
	t.Parallel()
	r, err := bridge.NewRegion()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // the test is over
	for _, text := range []string{"short", strings.Repeat("long", 10_000), "x"} {
		if _, err := r.File().WriteAt([]byte(text), 0); err != nil {
			t.Fatal(err)
		}
		if got, err := r.View(len(text)); err != nil || string(got) != text {
			t.Fatalf("%.20q, %v", got, err)
		}
	}
	if _, err := r.View(1 << 20); !errors.Is(err, bridge.ErrFrame) {
		t.Fatalf("beyond the end: %v", err)
	}
	if err := r.File().Truncate(1); !errors.Is(err, os.ErrPermission) {
		t.Fatalf("the file got smaller: %v", err)
	}
}
