package owner

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestCursors holds cursors against a list of who is there and how far, looked through each time.
func TestCursors(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(t, "ranks")
		c := make(cursors, n)
		taken, kept, left := make([]uint64, n), make([]uint64, n), make([]bool, n)
		rank := func(t *rapid.T) int { return rapid.IntRange(0, n-1).Draw(t, "rank") }
		seq := func(t *rapid.T) uint64 { return rapid.Uint64Range(0, 20).Draw(t, "seq") }
		t.Repeat(map[string]func(*rapid.T){
			"credit": func(t *rapid.T) {
				r, to, holes := rank(t), seq(t), seq(t)
				c.credit(r, to, holes)
				if to >= taken[r] {
					taken[r], kept[r] = to, to-min(holes, to)
				}
			},
			"place": func(t *rapid.T) {
				r, to := rank(t), seq(t)
				c.place(r, to)
				if to < kept[r] || to > taken[r] { // else it is among the holes that the rank was past
					kept[r] = to
				}
				taken[r], left[r] = to, false
			},
			"leave": func(t *rapid.T) {
				r := rank(t)
				c.leave(r)
				left[r] = true
			},
			"move": func(t *rapid.T) {
				to, holes := seq(t), seq(t)
				c.moveAll(to, holes)
				for r := range taken {
					taken[r], kept[r] = to, to-min(holes, to)
				}
			},
			"renumber": func(t *rapid.T) {
				after, first := seq(t), seq(t)
				c.renumber(after, first)
				for r := range taken {
					holes := taken[r] - kept[r]
					if taken[r] < after {
						taken[r] = after
					}
					taken[r] += first - after
					kept[r] = taken[r] - min(holes, taken[r])
				}
			},
			"": func(t *rapid.T) {
				var there, states []uint64
				for r := range taken {
					if !left[r] {
						there, states = append(there, taken[r]), append(states, kept[r])
					}
				}
				if len(there) == 0 {
					there, states = taken, kept
				}
				if holes := slices.Min(there) - min(slices.Min(there), slices.Min(states)); c.holes() != holes {
					t.Fatalf("%v: %d holes, want %d", c, c.holes(), holes)
				}
				slowest, furthest := slices.Min(there), slices.Max(there)
				if c.taken() != slowest || c.furthest() != furthest || c[c.slowest()].taken != slowest {
					t.Fatalf("%v: taken %d, furthest %d; want %d, %d", c, c.taken(), c.furthest(), slowest, furthest)
				}
			},
		})
	})
}

// TestAsks holds the asks against what each rank truly waits for, as told by requests and credits that may come late:
// all ranks agree only where each waited for that state when it was last heard.
func TestAsks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const n = 3
		a := make(asks, n)
		waits := make([]string, n) // the request that the rank waits for, as its last word says
		gaveUp := make(map[string]bool)
		state := func(request string) []byte { return []byte(request[1:]) }
		rank := func(t *rapid.T) int { return rapid.IntRange(0, n-1).Draw(t, "rank") }
		request := rapid.SampledFrom([]string{"1x", "2x", "1y", "2y"})
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				r, q := rank(t), request.Draw(t, "request")
				id := string(rune('a'+r)) + q
				got := a.ask(time.Time{}, r, "reader", id, state(q), false)
				if gaveUp[id] && waits[r] != id && a[r].withdrawn && got {
					t.Fatalf("rank %d has withdrawn %s", r, id)
				}
				if got {
					waits[r] = id
				}
			},
			"credit that waits": func(t *rapid.T) {
				r := rank(t)
				a.hear(r, waits[r])
			},
			"credit that takes": func(t *rapid.T) {
				r := rank(t)
				gaveUp[waits[r]] = true
				waits[r] = ""
				a.hear(r, "")
			},
			"": func(t *rapid.T) {
				for _, to := range []string{"x", "y"} {
					missing := a.missing([]int{0, 1, 2}, []byte(to))
					for r := range n {
						if !slices.Contains(missing, r) && (waits[r] == "" || waits[r][2:] != to) {
							t.Fatalf("rank %d does not ask for %q", r, to)
						}
					}
				}
				if slices.ContainsFunc(a, func(k *ask) bool { return k == nil || !k.live }) {
					return
				}
				_, _, differs := a.differs(0)
				same := true
				for r := range n {
					same = same && waits[r][2:] == waits[0][2:]
				}
				if differs == same {
					t.Fatalf("they ask for %q: differs %v", waits, differs)
				}
			},
		})
	})
}

// TestRepairIsNoMove has a rank's question for its own place come late, when another asks to move: the world is not at
// two states, and does not move before both ask for the same.
func TestRepairIsNoMove(t *testing.T) {
	t.Parallel()
	a := make(asks, 2)
	a.ask(time.Time{}, 0, "r0", "3", []byte("there"), false)
	a.ask(time.Time{}, 1, "r1", "5", []byte("here"), true)
	for rank, to := range []string{"there", "here"} {
		if other, _, ok := a.differs(rank); ok {
			t.Errorf("rank %d differs from rank %d", rank, other)
		}
		if missing := a.missing([]int{0, 1}, []byte(to)); !slices.Equal(missing, []int{1 - rank}) {
			t.Errorf("to move to %q, ranks %v are missing", to, missing)
		}
	}
	if a.ask(time.Time{}, 1, "r1", "4", []byte("before"), true) {
		t.Error("a request counts that comes after a later one")
	}
}
