package order

import (
	"fmt"
	"math"
	"slices"

	"github.com/jetbatch/jetbatch/dataset"
)

// sums are weights as integers, each with all before it added, so that a draw is the same on every machine. Weights
// count to a part in 2^32 of the largest.
func sums(weights []float64) ([]uint64, error) {
	most := 0.0
	for i, w := range weights {
		if !(w >= 0) || math.IsInf(w, 1) {
			return nil, fmt.Errorf("%w: weight %d is %v", ErrFields, i, w)
		}
		most = max(most, w)
	}
	if most == 0 {
		return nil, fmt.Errorf("%w: no weight is above 0", ErrFields)
	}
	all, sum := make([]uint64, len(weights)), uint64(0)
	for i, w := range weights {
		sum += uint64(math.Round(w / most * (1 << 32)))
		all[i] = sum
	}
	return all, nil
}

// draw chooses one by weight: the first whose sum is above a number drawn below the last.
func draw(sums []uint64, hash uint64) int {
	at, _ := slices.BinarySearch(sums, below(hash, sums[len(sums)-1])+1)
	return at
}

// Mix draws from several iterators by weight. Each goes on where it was, so that a Mix of [Epochs] with one sample a
// batch visits all samples of a source before one comes twice. It ends where a source that is drawn from ends: sources
// of endless epochs have none. Its state is a [MixState], its job what was drawn for a batch.
type Mix[S, J any] struct {
	Sources []dataset.Iterator[S, J]
	Weights []float64 // of each source, relative to one another
	Batch   int       // draws of a batch; defaults to 1
	Seed    uint64
}

// MixState is a state of [Mix]. Its size grows with the number of sources.
type MixState[S any] struct {
	Draws uint64 `msgpack:"draws"` // made
	Of    []S    `msgpack:"of"`    // state of each source
}

// Drawn is a job of one of the sources of a [Mix].
type Drawn[J any] struct {
	Source int `msgpack:"source"`
	Job    J   `msgpack:"job"`
}

// Start returns the first state: that of the Start of each source, or the zero value of those that have none.
func (m Mix[S, J]) Start() (MixState[S], error) {
	state := MixState[S]{Of: make([]S, len(m.Sources))}
	for i, source := range m.Sources {
		if starter, ok := source.(dataset.Starter[S]); ok {
			var err error
			if state.Of[i], err = starter.Start(); err != nil {
				return state, err
			}
		}
	}
	return state, nil
}

// Next returns what is drawn for the batch at s, and the state after it.
func (m Mix[S, J]) Next(s MixState[S]) (batch []Drawn[J], next MixState[S], err error) {
	if len(m.Weights) != len(m.Sources) || len(s.Of) != len(m.Sources) {
		return nil, s, fmt.Errorf("%w: %d sources, %d weights, states of %d", ErrFields, len(m.Sources), len(m.Weights),
			len(s.Of))
	}
	sums, err := sums(m.Weights)
	if err != nil {
		return nil, s, err
	}
	next = MixState[S]{s.Draws, slices.Clone(s.Of)}
	for range max(1, m.Batch) {
		source := draw(sums, hash(m.Seed, next.Draws, 0))
		job, after, err := m.Sources[source].Next(next.Of[source])
		if err != nil {
			return nil, s, err
		}
		batch = append(batch, Drawn[J]{source, job})
		next.Of[source], next.Draws = after, next.Draws+1
	}
	return batch, next, nil
}

// Classes draws samples by the weight of their class, and those of a class alike, with replacement and without end:
// what is rare in the data is as frequent in batches as its weight says. Its state is the number of samples drawn, its
// job the numbers of the samples of a batch. Where each sample is to come before one comes twice, a [Mix] with
// [Epochs] of each class does that.
type Classes struct {
	Samples [][]uint64 // of each class
	Weights []float64  // of each class, relative to one another; 0 where there are no samples
	Batch   int        // samples of a batch; defaults to 1
	Seed    uint64
}

// Start returns the first state.
func (c Classes) Start() (uint64, error) { return 0, nil }

// Next returns the samples of the batch after drawn samples, and the state after it.
func (c Classes) Next(drawn uint64) (samples []uint64, next uint64, err error) {
	if len(c.Weights) != len(c.Samples) {
		return nil, drawn, fmt.Errorf("%w: %d classes, %d weights", ErrFields, len(c.Samples), len(c.Weights))
	}
	sums, err := sums(c.Weights)
	if err != nil {
		return nil, drawn, err
	}
	for next = drawn; len(samples) < max(1, c.Batch); next++ {
		class := draw(sums, hash(c.Seed, next, 0))
		n := uint64(len(c.Samples[class]))
		if n == 0 {
			return nil, drawn, fmt.Errorf("%w: class %d has a weight and no samples", ErrFields, class)
		}
		samples = append(samples, c.Samples[class][below(hash(c.Seed, next, 1), n)])
	}
	return samples, next, nil
}
