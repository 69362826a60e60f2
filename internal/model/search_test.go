package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// found is what a search came to.
type found struct {
	states, steps int
	cut           int    // states in which the bounds left something out
	partial       bool   // there are more states: the nearest ones were looked at, and not whether the trainer gets everything
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
}

// search explores everything that can follow the start, nearest first, until something is wrong or there are too many states.
func search(size bounds, left faults, b broken) found {
	x := &stepper{broken: b, batches: size.batches, seats: size.seats}
	start := state{left: left}
	start.co[0] = coordinator{owns: true}
	start.rd.req = 1

	seed := maphash.MakeSeed()
	seen := map[uint64]int32{maphash.Comparable(seed, start): 0} // two states with one hash of 64 bits are not to be expected
	states := []state{start}
	from := []int32{-1}
	var healing [][2]int32 // steps that are no faults
	good := []bool{false}
	f := found{}
	// trace walks back and finds the words of each step again.
	trace := func(at int32, last string) (lines []string) {
		lines = []string{last}
		for ; from[at] >= 0; at = from[at] {
			for _, n := range x.successors(states[from[at]]) {
				if n.state == states[at] {
					lines = append([]string{n.what}, lines...)
					break
				}
			}
		}
		return lines
	}
	for at := int32(0); int(at) < len(states); at++ {
		next := x.successors(states[at])
		good[at] = x.cut || states[at].rd.pos == size.batches
		if x.cut {
			f.cut++
		}
		for _, n := range next {
			f.steps++
			if n.wrong == "" {
				n.wrong = n.invalid()
			}
			if n.wrong != "" {
				f.states, f.wrong, f.trace = len(states), n.wrong, trace(at, n.what)
				return f
			}
			key := maphash.Comparable(seed, n.state)
			to, known := seen[key]
			if !known {
				if len(states) == size.states {
					f.states, f.partial = size.states, true
					return f
				}
				to = int32(len(states))
				seen[key] = to
				states, from, good = append(states, n.state), append(from, at), append(good, false)
			}
			if !n.fault {
				healing = append(healing, [2]int32{at, to})
			}
		}
	}
	f.states = len(states)
	if at := int32(stuck(good, healing)); at >= 0 {
		f.wrong = "I6: from here the trainer never gets everything"
		f.trace = trace(at, fmt.Sprintf("in %+v", states[at]))
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
