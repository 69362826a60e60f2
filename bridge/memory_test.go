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
			n := rapid.OneOf(rapid.IntRange(0, 5000), rapid.IntRange(0, 400_000)).Draw(t, "size")
			largest = max(largest, n)
			offset, slot, err := m.Alloc(n)
			if errors.Is(err, bridge.ErrMemoryFull) {
				if len(out) == 0 {
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
			if bound := limit + 2*(largest+largest/4+4096); total > bound {
				t.Fatalf("%d bytes are mapped, at most %d", total, bound)
			}
		}
	})
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
