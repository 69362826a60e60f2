package follow

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func workers(n, slots int) []Worker {
	list := make([]Worker, n)
	for i := range list {
		list[i] = Worker{Name: fmt.Sprintf("host-%d", i), Slots: slots}
	}
	return list
}

func lanes(n, slots int) []Lane {
	list := make([]Lane, n)
	for i := range list {
		list[i] = Lane{Place: i, Slots: slots}
	}
	return list
}

func TestChoose(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		workers     []Worker
		lanes       []Lane
		least, most int // followers of a lane; 0, 0 where all follow all
	}{
		"nobody":                       {nil, lanes(3, 8), 0, 0},
		"one worker":                   {workers(1, 4), lanes(100, 9), 0, 0},
		"few large workers":            {workers(4, 50), lanes(100, 401), 0, 0},
		"one lane that can use all":    {workers(1000, 1), lanes(1, 2001), 0, 0},
		"few lanes":                    {workers(200, 1), lanes(Overlap, 401), 0, 0},
		"twenty lanes":                 {workers(200, 1), lanes(20, 401), 80, 81},
		"a hundred lanes":              {workers(200, 1), lanes(100, 401), 16, 17},
		"a thousand workers and lanes": {workers(1000, 1), lanes(1000, 2001), MinWorkers, MinWorkers + 1},
		"large workers, many lanes":    {workers(64, 16), lanes(1000, 2049), MinWorkers, MinWorkers},
		"a small window":               {workers(1000, 1), lanes(1, 16), 32, 32},
		"a trainer that needs little":  {workers(1000, 1), lanes(1, 1), MinWorkers, MinWorkers},
	} {
		for i, list := range Choose(test.workers, test.lanes) {
			if test.most == 0 && list == nil {
				continue
			}
			if n := len(list); n < test.least || n > test.most {
				t.Errorf("%s: %d workers follow lane %d", name, n, i)
			}
		}
	}
}

// TestShares adds up what each of many lanes gets when all have jobs queued and each worker takes from the lanes that
// it follows in turns.
func TestShares(t *testing.T) {
	t.Parallel()
	crew := workers(200, 1)
	for i := range crew {
		crew[i].Slots += i % 4 * 3
	}
	got := sharesOf(crew, Choose(crew, lanes(100, 1000)))
	total := 0
	for _, w := range crew {
		total += w.Slots
	}
	for i, slots := range got {
		if share := slots / (float64(total) / 100); share < 0.8 || share > 1.25 {
			t.Errorf("lane %d has %.2f of its share", i, share)
		}
	}
}

func sharesOf(crew []Worker, chosen [][]int) []float64 {
	follows := make([]int, len(crew))
	for _, list := range chosen {
		for _, w := range list {
			follows[w]++
		}
	}
	got := make([]float64, len(chosen))
	for i, list := range chosen {
		for _, w := range list {
			got[i] += float64(crew[w].Slots) / float64(follows[w])
		}
	}
	return got
}

// TestWhoNeedsMoreGetsMore has few lanes with a long queue among many that can use a slot each.
func TestWhoNeedsMoreGetsMore(t *testing.T) {
	t.Parallel()
	crew, all := workers(200, 1), lanes(100, 1)
	for i := range 10 {
		all[i].Slots = 401
	}
	for i, list := range Choose(crew, all) {
		if n := len(list); i < 10 && n < 80 || i >= 10 && n > MinWorkers {
			t.Errorf("%d workers follow lane %d, which can use %d slots", n, i, all[i].Slots)
		}
	}
}

func TestLateLaneHasAllWhoAreIdle(t *testing.T) {
	t.Parallel()
	crew, all := workers(100, 1), lanes(50, 4)
	before := Choose(crew, all)
	for i := range 30 {
		crew[i].Idle = true
	}
	all[7].Late = true
	all[7].Left = func(w int) bool { return w == 3 }
	for i, list := range Choose(crew, all) {
		if i != 7 {
			if !slices.Equal(list, before[i]) {
				t.Errorf("lane %d has others because another is late", i)
			}
			continue
		}
		for w := range 30 {
			if slices.Contains(list, w) != (w != 3) {
				t.Errorf("idle worker %d: %v", w, list)
			}
		}
		if len(list) > 29+4*room {
			t.Errorf("%d workers follow it", len(list))
		}
	}
}

// TestLateLanesShareTheIdle has many batchers begin at once: no worker is to open the lanes of them all.
func TestLateLanesShareTheIdle(t *testing.T) {
	t.Parallel()
	crew, all := workers(200, 1), lanes(100, 401)
	for i := range crew {
		crew[i].Idle = true
	}
	before := Choose(crew, all)
	for i := range all {
		all[i].Late = true
	}
	follows := make([]int, len(crew))
	for i, list := range Choose(crew, all) {
		if more := len(list) - len(before[i]); more != 2*Overlap {
			t.Errorf("lane %d has %d workers more", i, more)
		}
		for _, w := range list {
			follows[w]++
		}
	}
	if n := slices.Max(follows); n > 2*Overlap+4 {
		t.Errorf("a worker follows %d lanes", n)
	}
}

// TestLittleMoves takes a worker, and then a lane, away.
func TestLittleMoves(t *testing.T) {
	t.Parallel()
	crew, all := workers(200, 1), lanes(100, 401)
	before := pairs(crew, all)
	for what, after := range map[string]map[string]bool{
		"worker": pairs(slices.Delete(slices.Clone(crew), 17, 18), all),
		"lane":   pairs(crew, slices.Delete(slices.Clone(all), 17, 18)),
	} {
		moved := 0
		for p := range after {
			if !before[p] {
				moved++
			}
		}
		if share := float64(moved) / float64(len(before)); share > 0.07 {
			t.Errorf("without one %s, %.2f of the pairs are new", what, share)
		}
	}
}

func pairs(crew []Worker, all []Lane) map[string]bool {
	set := make(map[string]bool)
	for i, list := range Choose(crew, all) {
		for _, w := range list {
			set[fmt.Sprint(all[i].Place, crew[w].Name)] = true
		}
	}
	return set
}

// TestEveryLaneIsFollowed draws crews and lanes: each lane has MinWorkers workers that do not leave it, or all there
// are, and the order in which they are given says nothing.
func TestEveryLaneIsFollowed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		crew := workers(rapid.IntRange(0, 40).Draw(t, "workers"), 0)
		for i := range crew {
			crew[i].Slots = rapid.IntRange(0, 9).Draw(t, "slots")
			crew[i].Idle = rapid.Bool().Draw(t, "idle")
		}
		all := lanes(rapid.IntRange(1, 60).Draw(t, "lanes"), 0)
		for i := range all {
			all[i].Slots = rapid.IntRange(0, 99).Draw(t, "can use")
			all[i].Late = rapid.IntRange(0, 9).Draw(t, "late") == 0
			if lost := rapid.IntRange(0, 3).Draw(t, "left by one in"); lost > 1 {
				all[i].Left = func(w int) bool { return w%lost == 0 }
			}
		}
		chosen := Choose(crew, all)
		for i, list := range chosen {
			able := 0
			for w := range crew {
				left := all[i].Left != nil && all[i].Left(w)
				if !left {
					able++
				}
				if left && slices.Contains(list, w) {
					t.Fatalf("worker %d left lane %d and follows it", w, i)
				}
			}
			if list != nil && len(list) < min(able, MinWorkers) {
				t.Fatalf("%d of %d workers follow lane %d", len(list), able, i)
			}
		}
		turned, order := slices.Clone(crew), slices.Clone(all)
		slices.Reverse(turned)
		slices.Reverse(order)
		for i := range order {
			if left := order[i].Left; left != nil {
				order[i].Left = func(w int) bool { return left(len(crew) - 1 - w) }
			}
		}
		for i, list := range Choose(turned, order) {
			var names, want []string
			for _, w := range list {
				names = append(names, turned[w].Name)
			}
			for _, w := range chosen[len(all)-1-i] {
				want = append(want, crew[w].Name)
			}
			slices.Sort(names)
			slices.Sort(want)
			if !slices.Equal(names, want) {
				t.Fatalf("lane %d: %v, and in another order %v", order[i].Place, want, names)
			}
		}
	})
}
