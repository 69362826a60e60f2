package main

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestInOrder(t *testing.T) {
	t.Parallel()
	const unit = time.Second
	for _, tc := range []struct {
		name          string
		slots, window int
		sleeps        []time.Duration
		want          []time.Duration
	}{
		{"one slot", 1, 9, []time.Duration{1, 2, 3}, []time.Duration{1, 3, 6}},
		{"two slots", 2, 9, []time.Duration{2, 2, 2, 2}, []time.Duration{2, 2, 4, 4}},
		{"a straggler holds up what is done", 2, 9, []time.Duration{5, 1, 1, 1}, []time.Duration{5, 5, 5, 5}},
		{"and what the window does not let begin", 2, 2, []time.Duration{5, 1, 1, 1}, []time.Duration{5, 5, 6, 6}},
	} {
		got := inOrder(len(tc.sleeps), tc.slots, tc.window, func(i uint64) time.Duration { return tc.sleeps[i-1] * unit })
		for i := range got {
			got[i] /= unit
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// The model against the same said step by step: time passes tick by tick.
func TestInOrderTickByTick(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		n, slots, window := 1+random.IntN(40), 1+random.IntN(5), 1+random.IntN(12)
		sleeps := make([]int, n+1)
		for i := range sleeps {
			sleeps[i] = 1 + random.IntN(9)
		}
		want := make([]time.Duration, n)
		running := map[int]int{} // job: ticks left
		for tick, begun, taken := 0, 0, 0; taken < n; tick++ {
			for job := range running {
				if running[job]--; running[job] == 0 {
					delete(running, job)
				}
			}
			for taken < begun && running[taken+1] == 0 {
				taken++
				want[taken-1] = time.Duration(tick)
			}
			for begun < n && len(running) < slots && begun < taken+window {
				begun++
				running[begun] = sleeps[begun]
			}
		}
		got := inOrder(n, slots, window, func(i uint64) time.Duration { return time.Duration(sleeps[i]) })
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: %d slots, window %d, sleeps %v: got %v, want %v", seed, slots, window, sleeps[1:], got, want)
		}
	}
}
