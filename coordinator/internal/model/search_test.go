package model

import (
	"fmt"
	"slices"
	"strings"
)

// found is what a search came to.
type found struct {
	states, steps int
	cut           int    // states in which the bounds left something out
	partial       bool   // there are more states: of those looked at, it is not known whether they are stuck
	wrong         string // the broken promise; empty when there is none
	trace         []string
}

func (f found) String() string {
	text := fmt.Sprintf("%d states, %d steps, %d at the bounds", f.states, f.steps, f.cut)
	if f.partial {
		text += ", and there are more"
	}
	if f.wrong != "" {
		text += "\n" + strings.Join(f.trace, "\n") + "\n=> " + f.wrong
	}
	return text
}

// bounds of a search.
type bounds struct {
	batches, seats uint8
	states         int
	end            bool // the data ends after the batches
	candidates     int  // generations made at once in the place of a lost one
}

// search explores everything that can follow the start, nearest first, until something is wrong or there are too many
// states.
func search(size bounds, left faults, b broken) found {
	x := newStepper(size, b)
	start := x.start(left)

	// A state is known by its hash: two with one of 64 bits are not to be expected. The states themselves are kept only
	// until they were looked at.
	seen := map[uint64]int32{x.canonical(&start): 0}
	level, next := []world{start}, []world(nil)
	from := []int32{-1}
	var healing [][2]int32 // steps that are no faults
	good := []bool{false}
	f := found{}
	// trace takes the way to a state once more and finds its words, and the state.
	trace := func(at int32) (s world, lines []string) {
		var way []int32
		for ; at > 0; at = from[at] {
			way = append(way, at)
		}
		s = start
		for _, to := range slices.Backward(way) {
			for _, n := range x.successors(s) {
				if seen[x.canonical(&n.world)] == to {
					s, lines = n.world, append(lines, n.what)
					break
				}
			}
		}
		return s, lines
	}
	for at := int32(0); len(level) > 0; level, next = next, level[:0] {
		for _, s := range level {
			steps := x.successors(s)
			good[at] = x.cut || x.finished(&s)
			if x.cut {
				f.cut++
			}
			for _, n := range steps {
				f.steps++
				if n.wrong == "" {
					n.wrong = n.invalid()
				}
				if n.wrong != "" {
					what, wrong := n.what, n.wrong
					_, lines := trace(at)
					f.states, f.wrong, f.trace = len(from), wrong, append(lines, what)
					return f
				}
				key := x.canonical(&n.world)
				to, known := seen[key]
				if !known {
					if len(from) == size.states {
						f.states, f.partial = size.states, true
						return f
					}
					to = int32(len(from))
					seen[key] = to
					next, from, good = append(next, n.world), append(from, at), append(good, false)
				}
				if !n.fault {
					healing = append(healing, [2]int32{at, to})
				}
			}
			at++
		}
	}
	f.states = len(from)
	if at := int32(stuck(good, healing)); at >= 0 {
		_, lines := trace(at)
		f.wrong = "I6: from here the trainer never gets everything"
		f.trace = lines
	}
	return f
}

// stuck returns the first state from which no way without faults leads to a good one, or -1.
func stuck(good []bool, healing [][2]int32) int {
	offset := make([]int32, len(good)+1)
	for _, e := range healing {
		offset[e[1]+1]++
	}
	for i := range good {
		offset[i+1] += offset[i]
	}
	before := make([]int32, len(healing))
	fill := append([]int32(nil), offset...)
	for _, e := range healing {
		before[fill[e[1]]] = e[0]
		fill[e[1]]++
	}
	var open []int32
	for i, g := range good {
		if g {
			open = append(open, int32(i))
		}
	}
	for len(open) > 0 {
		at := open[len(open)-1]
		open = open[:len(open)-1]
		for _, p := range before[offset[at]:offset[at+1]] {
			if !good[p] {
				good[p] = true
				open = append(open, p)
			}
		}
	}
	for i, g := range good {
		if !g {
			return i
		}
	}
	return -1
}
