package onda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// Generator is the state of a PCG-DXSM generator with 128 bits.
//
// Sequences of batches must not change with the Go version. The generator
// itself is math/rand/v2's PCG, whose output its documentation fixes to the
// published algorithm; how numbers in a range are made from it is not fixed by
// any promise, so that part is written out here.
type Generator struct {
	Hi uint64 `msgpack:"hi" json:"hi"`
	Lo uint64 `msgpack:"lo" json:"lo"`
}

// seeded spreads a seed over a generator, so that seeds 1 and 2 have nothing
// in common.
func seeded(seed uint64) Generator {
	hi := mix(seed)
	return Generator{Hi: hi, Lo: mix(hi ^ seed)}
}

// mix is one step of SplitMix64 (Steele, Lea and Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// dice draws from a copy of a Generator.
type dice struct{ pcg *rand.PCG }

func (g Generator) dice() dice { return dice{rand.NewPCG(g.Hi, g.Lo)} }

// generator is the state after what was drawn.
func (d dice) generator() Generator {
	raw, err := d.pcg.MarshalBinary()
	if err != nil || len(raw) != 20 {
		// The format, "pcg:" and two big-endian words, is part of the
		// promise of the type and cannot fail.
		panic(fmt.Sprintf("onda: PCG state of %d bytes: %v", len(raw), err))
	}
	return Generator{Hi: binary.BigEndian.Uint64(raw[4:]), Lo: binary.BigEndian.Uint64(raw[12:])}
}

// below draws uniformly from [0, n), n > 0: Lemire's multiplication with
// rejection (Fast Random Integer Generation in an Interval, 2019).
func (d dice) below(n int) int {
	bound := uint64(n)
	hi, lo := bits.Mul64(d.pcg.Uint64(), bound)
	if lo < bound {
		for reject := -bound % bound; lo < reject; {
			hi, lo = bits.Mul64(d.pcg.Uint64(), bound)
		}
	}
	return int(hi)
}

// unitFloat maps 64 random bits to [0, 1), with 53 of them.
func unitFloat(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// weights draws indices in proportion to weights. The zero value of cumulative
// means equal weights, which costs no memory.
type weights struct {
	n int
	// cumulative is what the weights come to, up to and with each index or,
	// with runs, each run of labels.
	cumulative []float64
	runs       *Labels
}

// newWeights checks weights for n items; nil weighs all alike.
func newWeights(what string, n int, values []float64) (weights, error) {
	w := weights{n: n}
	if values == nil {
		return w, nil
	}
	if err := checkWeights(what, n, values); err != nil {
		return weights{}, err
	}
	w.cumulative = make([]float64, n)
	total := 0.0
	for i, v := range values {
		total += v
		w.cumulative[i] = total
	}
	return w, nil
}

// checkWeights checks weights for n items, of which nil is right for any.
func checkWeights(what string, n int, values []float64) error {
	if values == nil {
		return nil
	}
	if len(values) != n {
		return fmt.Errorf("%w: %d for %d %s", ErrWeights, len(values), n, what)
	}
	total := 0.0
	for i, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return fmt.Errorf("%w: %v at %d of %d %s", ErrWeights, v, i, n, what)
		}
		total += v
	}
	if !(total > 0) || math.IsInf(total, 0) {
		return fmt.Errorf("%w: the %d %s come to %v", ErrWeights, n, what, total)
	}
	return nil
}

// newRunWeights weighs labels by what they are: what the weights come to is
// kept for each run. checkRunWeights has accepted them.
func newRunWeights(l *Labels, byLabel *labelWeights) weights {
	w := weights{n: l.Len(), cumulative: make([]float64, len(l.ends)), runs: l}
	total := 0.0
	for run := range l.ends {
		total += l.runWeight(run, byLabel)
		w.cumulative[run] = total
	}
	return w
}

func checkRunWeights(l *Labels, byLabel *labelWeights) error {
	total := 0.0
	for run := range l.ends {
		total += l.runWeight(run, byLabel)
	}
	if !(total > 0) || math.IsInf(total, 0) {
		return fmt.Errorf("%w: the weights of its %d labels come to %v", ErrWeights, l.Len(), total)
	}
	return nil
}

// labelWeights are weights by the label's number.
type labelWeights [math.MaxUint8 + 1]float64

// runWeight is the weight of all labels of a run.
func (l *Labels) runWeight(run int, byLabel *labelWeights) float64 {
	from, to := l.bounds(run)
	// The conversion keeps compilers from fusing the product with a sum.
	return float64(float64(to-from) * byLabel[l.values[run]])
}

func (w weights) draw(d dice) int {
	if w.cumulative == nil {
		return d.below(w.n)
	}
	total := w.cumulative[len(w.cumulative)-1]
	x := unitFloat(d.pcg.Uint64()) * total
	// The first item whose weight reaches beyond x: one of weight 0 never is.
	i, _ := slices.BinarySearchFunc(w.cumulative, x, func(c, x float64) int {
		if c <= x {
			return -1
		}
		return 1
	})
	if w.runs == nil {
		return i
	}
	before := 0.0
	if i > 0 {
		before = w.cumulative[i-1]
	}
	from, to := w.runs.bounds(i)
	share := (x - before) / (w.cumulative[i] - before)
	return min(from+int(share*float64(to-from)), to-1)
}

// choose draws k of n without replacement, in the order in which they came.
func (d dice) choose(n, k int) []int {
	pool := make([]int, n)
	for i := range pool {
		pool[i] = i
	}
	for i := range k {
		j := i + d.below(n-i)
		pool[i], pool[j] = pool[j], pool[i]
	}
	return pool[:k]
}

// shuffle is a permutation of [0, n) that is computed and not stored: a
// Feistel network on the smallest even number of bits that holds n, walked
// until it lands below n (Black and Rogaway 2002). Any place of any epoch of
// a data set of any size is found at once, which is what lets an iterator
// resume from an index alone.
type shuffle struct {
	n    uint64
	half uint
	keys [shuffleRounds]uint64
}

const shuffleRounds = 8

func newShuffle(g Generator, epoch uint64, n int) shuffle {
	s := shuffle{n: uint64(n), half: uint(max(1, (bits.Len64(uint64(n-1))+1)/2))}
	key := mix(mix(g.Hi^epoch) ^ g.Lo)
	for i := range s.keys {
		key = mix(key)
		s.keys[i] = key
	}
	return s
}

// at is the item at place i of the shuffled order.
func (s *shuffle) at(i int) int {
	x := uint64(i)
	mask := uint64(1)<<s.half - 1
	for {
		left, right := x>>s.half, x&mask
		for _, key := range s.keys {
			left, right = right, left^(mix(right^key)&mask)
		}
		// A walk leaves [0, n) for fewer than four steps on average, since
		// the network is less than four times as large.
		if x = left<<s.half | right; x < s.n {
			return int(x)
		}
	}
}
