package model

import (
	"hash/maphash"
	"testing"
)

// Coordinators are alike, and so are workers: a state in which two of them have changed places is the same state. Of the
// four that come of it the one with the least hash stands for all.

// canonical is the state that stands for s, and its hash.
func (s *state) canonical(seed maphash.Seed) (least state, hash uint64) {
	other := s.coordinatorsSwapped()
	all := [...]state{*s, s.workersSwapped(), other, other.workersSwapped()}
	for i := range all {
		if h := maphash.Comparable(seed, all[i]); i == 0 || h < hash {
			least, hash = all[i], h
		}
	}
	return least, hash
}

func (s *state) coordinatorsSwapped() state {
	n := *s
	n.co[0], n.co[1] = s.co[1], s.co[0]
	n.rec.owner = 1 - s.rec.owner
	for c := range n.co {
		if n.co[c].owns { // else it has no record
			n.co[c].rec.owner = 1 - n.co[c].rec.owner
		}
	}
	return n
}

// workersSwapped also swaps the attempts, whose numbers are those of the workers that made them.
func (s *state) workersSwapped() state {
	n := *s
	n.wk[0], n.wk[1] = s.wk[1], s.wk[0]
	for g := range n.res {
		for q := range n.res[g] {
			n.res[g][q], n.rd.believed[g][q] = otherAttempt(n.res[g][q]), otherAttempt(n.rd.believed[g][q])
			live := n.live[g][q]
			n.live[g][q] = live&^(bit(1)|bit(2)) | live&bit(1)<<1 | live&bit(2)>>1
		}
	}
	return n
}

func otherAttempt(a uint8) uint8 {
	if a == 0 {
		return 0
	}
	return 3 - a
}

// TestSymmetry finds that swapping twice changes nothing, and that swapped states have one canonical form and the same
// number of successors.
func TestSymmetry(t *testing.T) {
	t.Parallel()
	seed := maphash.MakeSeed()
	x := &stepper{batches: 2, seats: 4}
	level := []state{{left: faults{crashes: 1, takeovers: 1, losses: 1, delays: 1}}}
	level[0].co[0] = coordinator{owns: true}
	level[0].rd.req = 1
	for range 12 {
		var next []state
		for _, s := range level {
			c, w := s.coordinatorsSwapped(), s.workersSwapped()
			if c.coordinatorsSwapped() != s || w.workersSwapped() != s {
				t.Fatalf("twice is not once: %+v", s)
			}
			_, want := s.canonical(seed)
			for _, o := range []state{c, w} {
				if _, got := o.canonical(seed); got != want {
					t.Fatalf("another form: %+v", o)
				}
			}
			n := len(x.successors(s))
			if len(x.successors(c)) != n || len(x.successors(w)) != n {
				t.Fatalf("another number of successors than %d: %+v", n, s)
			}
			for i, step := range x.successors(s) {
				if i%3 == len(next)%3 {
					next = append(next, step.state)
				}
			}
		}
		level = next[:min(len(next), 500)]
	}
}
