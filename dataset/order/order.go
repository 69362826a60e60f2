// Package order has ready-made iterators: in which order the samples of a data set come. Each is embedded in a data
// set, which then only has Materialize to write:
//
//	type Images struct {
//		order.Epochs
//		// …
//	}
//
//	func (d *Images) Materialize(ctx context.Context, samples []uint64) (schema.Batch, error)
//
// [Epochs] visits all samples once per epoch in an order of its own, [Shards] the same shard by shard, [Mix] draws
// from several iterators by weight, and [Classes] draws samples by the weight of their class. All of them are pure:
// what they yield is a function of their fields and the state, on every machine alike. None keeps a table of an order:
// the place of a sample is computed by a bijection ([Shuffle]), so that an epoch of 10^12 samples needs no memory and a
// state, which is a few numbers, goes on at once.
//
// What a state means depends on the fields: a data set that changes them raises its version, or has them follow from
// its parameters, which states are checked against.
package order

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/jetbatch/jetbatch/dataset"
)

// ErrFields is wrapped by what Next returns of an iterator whose fields make no order, with the reason.
var ErrFields = errors.New("no order")

// Shuffle is a permutation of the numbers from 0 to N-1, another one for every seed. It has no table: each number is
// computed by itself. The zero Shuffle is of no numbers.
type Shuffle struct {
	N    uint64
	Seed uint64
}

// rounds of the Feistel network. Four mix well where the halves have many bits; halves of one bit need more.
const rounds = 8

// At returns the number at place i of the permutation. It panics if i is not below N, as a slice does.
//
// A Feistel network permutes the numbers of an even count of bits; its results of N and more are permuted again until
// one is below N, which takes fewer than four times on average.
func (s Shuffle) At(i uint64) uint64 {
	if i >= s.N {
		panic(fmt.Sprintf("order: place %d of %d", i, s.N))
	}
	half := max(1, (bits.Len64(s.N-1)+1)/2)
	mask := uint64(1)<<half - 1
	for {
		left, right := i>>half, i&mask
		for round := range uint64(rounds) {
			left, right = right, left^(hash(s.Seed, round, right)&mask)
		}
		if i = left<<half | right; i < s.N {
			return i
		}
	}
}

// hash mixes three numbers by the finalizer of SplitMix64.
func hash(a, b, c uint64) uint64 {
	h := uint64(0)
	for _, v := range [...]uint64{a, b, c} {
		h += v + 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

// below scales a hash to the numbers below n.
func below(hash, n uint64) uint64 {
	high, _ := bits.Mul64(hash, n)
	return high
}

// Epochs visits the samples 0 to N-1 once per epoch. Its state is a [Position], its job the numbers of the samples of a
// batch.
type Epochs struct {
	N        uint64 // samples; at least 1
	Batch    int    // samples of a batch; defaults to 1
	Limit    uint64 // epochs; defaults to 0, endless
	Seed     uint64
	InOrder  bool // samples in their order, not shuffled
	DropLast bool // leave out a smaller last batch of an epoch
}

// Position is a state of [Epochs]: the next sample's. The zero Position is the first.
type Position struct {
	Epoch uint64 `msgpack:"epoch"`
	Index uint64 `msgpack:"index"` // place in the epoch
}

// Start returns the first state.
func (e Epochs) Start() (Position, error) { return Position{}, nil }

// Progress says how far p is.
func (e Epochs) Progress(p Position) (dataset.Progress, error) {
	return dataset.ProgressOf(p.Epoch, e.Limit, p.Index, e.N, uint64(max(1, e.Batch)), e.DropLast), nil
}

// Next returns the samples of the batch at p, and the position after it.
func (e Epochs) Next(p Position) (samples []uint64, next Position, err error) {
	size := uint64(max(1, e.Batch))
	if e.N == 0 || e.DropLast && e.N < size {
		return nil, p, fmt.Errorf("%w: %d samples make no batch of %d", ErrFields, e.N, size)
	}
	if p.Index >= e.N || e.DropLast && e.N-p.Index < size {
		p = Position{Epoch: p.Epoch + 1}
	}
	if err := ended(p.Epoch, e.Limit); err != nil {
		return nil, p, err
	}
	shuffle := Shuffle{e.N, hash(e.Seed, p.Epoch, 0)}
	end := min(e.N, p.Index+size)
	for ; p.Index < end; p.Index++ {
		if e.InOrder {
			samples = append(samples, p.Index)
		} else {
			samples = append(samples, shuffle.At(p.Index))
		}
	}
	return samples, p, nil
}
