package shelf

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// held is what the dumb version knows of one payload.
type held struct {
	lane    string
	seq     uint64
	attempt string
	size    int64
	users   int
	fetches int
	readers int
	placed  int // position in the order in which payloads became spare, or were fetched then; 0 for not spare
	off     bool
}

// TestAgainstList compares a Shelf with a list that is searched from one end to the other each time.
func TestAgainstList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const limit = 20
		s := New[string, int](limit)
		var list []*held // the value of a payload is its index
		var inUse []*Item[string, int]
		placed, closed := 0, false
		bytes := func() (n int64) {
			for _, h := range list {
				if !h.off || h.users > 0 {
					n += h.size
				}
			}
			return n
		}
		// expect takes payloads off the list and compares what the shelf freed.
		expect := func(freed []int, off func(*held) bool) {
			var want []int
			for i, h := range list {
				if !h.off && off(h) {
					h.off = true
					if h.users == 0 {
						want = append(want, i)
					}
				}
			}
			slices.Sort(freed)
			if !slices.Equal(freed, want) {
				t.Fatalf("freed %v, not %v", freed, want)
			}
		}
		lanes := rapid.SampledFrom([]string{"a", "b"})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				h := &held{attempt: fmt.Sprint(len(list)), lane: lanes.Draw(t, "lane"), seq: rapid.Uint64Range(1, 9).Draw(t, "seq"), size: rapid.Int64Range(1, limit+1).Draw(t, "size"),
					readers: rapid.IntRange(1, 3).Draw(t, "readers")}
				var spare []int
				room := limit - bytes()
				for i, h := range list {
					if !h.off && h.users == 0 && h.placed > 0 {
						spare = append(spare, i)
						room += h.size
					}
				}
				slices.SortFunc(spare, func(i, j int) int { return list[i].placed - list[j].placed })
				want := !closed && h.size <= room
				var out []int
				for need := bytes() + h.size - limit; want && need > 0; spare = spare[1:] {
					out = append(out, spare[0])
					need -= list[spare[0]].size
				}
				freed, ok := s.Put(h.lane, h.seq, h.attempt, h.size, h.readers, len(list))
				if ok != want {
					t.Fatalf("Put of %d bytes beside %d: %v", h.size, bytes(), ok)
				}
				expect(freed, func(h *held) bool { return slices.Contains(out, slices.Index(list, h)) })
				if ok {
					list = append(list, h)
				} else {
					list = append(list, &held{off: true}) // its name is used up
				}
			},
			"get": func(t *rapid.T) {
				i := rapid.IntRange(0, len(list)).Draw(t, "which")
				it, ok := s.Get(fmt.Sprint(i))
				if want := i < len(list) && !list[i].off; ok != want {
					t.Fatalf("Get(%d): %v", i, ok)
				}
				if ok {
					if it.Value != i || it.Lane != list[i].lane || it.Seq != list[i].seq {
						t.Fatalf("Get(%d) found %+v", i, it)
					}
					list[i].users++
					inUse = append(inUse, it)
				}
			},
			"done": func(t *rapid.T) {
				if len(inUse) == 0 {
					t.Skip("nothing is in use")
				}
				k := rapid.IntRange(0, len(inUse)-1).Draw(t, "which")
				it, fetched := inUse[k], rapid.Bool().Draw(t, "fetched")
				inUse = slices.Delete(inUse, k, k+1)
				h := list[it.Value]
				if h.users--; fetched {
					if h.fetches++; h.fetches >= h.readers {
						placed++
						h.placed = placed
					}
				}
				freed := s.Done(it, fetched)
				if want := h.off && h.users == 0; want != slices.Equal(freed, []int{it.Value}) || !want && freed != nil {
					t.Fatalf("Done freed %v of %+v", freed, h)
				}
			},
			"drop": func(t *rapid.T) {
				i := rapid.IntRange(0, len(list)).Draw(t, "which")
				expect(s.Drop(fmt.Sprint(i)), func(h *held) bool { return slices.Index(list, h) == i })
			},
			"floor": func(t *rapid.T) {
				lane, seq := lanes.Draw(t, "lane"), rapid.Uint64Range(0, 9).Draw(t, "seq")
				expect(s.DropTo(lane, seq), func(h *held) bool { return h.lane == lane && h.seq <= seq })
			},
			"expect": func(t *rapid.T) {
				lane, readers := lanes.Draw(t, "lane"), rapid.IntRange(0, 3).Draw(t, "readers")
				taken := rapid.Uint64Range(0, 9).Draw(t, "taken")
				s.Expect(lane, readers, taken)
				order := slices.Clone(list)
				slices.SortFunc(order, func(a, b *held) int {
					return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.attempt, b.attempt))
				})
				for _, h := range order {
					if h.off || h.lane != lane {
						continue
					}
					if h.readers = max(readers, 1); h.seq <= taken {
						h.readers = 0
					}
					switch {
					case h.fetches < h.readers:
						h.placed = 0
					case h.placed == 0:
						placed++
						h.placed = placed
					}
				}
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
					t.Skip("rarely")
				}
				closed = true
				unfetched, freed := s.Close()
				expect(freed, func(h *held) bool { return h.placed > 0 })
				for _, it := range unfetched {
					if h := list[it.Value]; h.off || h.placed > 0 {
						t.Fatalf("%+v is left", h)
					}
					list[it.Value].users++
					inUse = append(inUse, it)
				}
				if len(unfetched) != s.Len() || !slices.IsSortedFunc(unfetched, func(a, b *Item[string, int]) int { return int(a.Seq) - int(b.Seq) }) {
					t.Fatalf("%d of %d are left, or out of order", len(unfetched), s.Len())
				}
			},
			"": func(t *rapid.T) {
				if s.Bytes() != bytes() || s.Bytes() > limit {
					t.Fatalf("%d bytes, not %d", s.Bytes(), bytes())
				}
			},
		})
	})
}

// A payload that one of two readers has fetched is not spare: the other would have it made again.
func TestSecondReader(t *testing.T) {
	t.Parallel()
	s := New[string, int](1)
	s.Put("lane", 1, "a", 1, 2, 1)
	for range 2 {
		if _, ok := s.Put("lane", 2, "b", 1, 2, 2); ok {
			t.Fatal("the second reader finds nothing")
		}
		it, _ := s.Get("a")
		s.Done(it, true)
	}
	if _, ok := s.Put("lane", 2, "b", 1, 2, 2); !ok {
		t.Error("a payload stays that all readers have")
	}
	s.Expect("lane", 2, 2)
	if _, ok := s.Put("lane", 3, "c", 1, 2, 3); !ok {
		t.Error("a payload stays that all readers are past")
	}
}
