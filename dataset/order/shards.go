package order

import (
	"fmt"
	"io"

	"github.com/jetbatch/jetbatch/dataset"
)

// ended is io.EOF for an epoch that is not to come.
func ended(epoch, epochs uint64) error {
	if epochs > 0 && epoch >= epochs {
		return io.EOF
	}
	return nil
}

// Shards visits every sample of every shard once per epoch: the shards in a shuffled order, and the samples of a
// shard, in a shuffled order too, one after another. A batch so is of one shard, or of few, which matters where opening
// a shard is dear, such as a compressed file. Its state is a [ShardPosition], its job the samples of a batch.
type Shards struct {
	Sizes    []uint64 // samples of each shard; some are at least 1
	Batch    int      // samples of a batch; defaults to 1
	Limit    uint64   // epochs; defaults to 0, endless
	Seed     uint64
	DropLast bool // leave out a smaller last batch of an epoch
}

// Sample is one of a shard.
type Sample struct {
	Shard int    `msgpack:"shard"`
	Index uint64 `msgpack:"index"` // in the shard
}

// ShardPosition is a state of [Shards]: the next sample's. The zero ShardPosition is the first.
type ShardPosition struct {
	Epoch uint64 `msgpack:"epoch"`
	Shard uint64 `msgpack:"shard"` // place in the epoch's order of shards
	Index uint64 `msgpack:"index"` // place in the shard's order of samples
}

// Start returns the first state.
func (s Shards) Start() (ShardPosition, error) { return ShardPosition{}, nil }

// Progress says how far p is.
func (s Shards) Progress(p ShardPosition) (dataset.Progress, error) {
	shards := Shuffle{uint64(len(s.Sizes)), hash(s.Seed, p.Epoch, 0)}
	before, all := p.Index, uint64(0)
	for place := range shards.N {
		size := s.Sizes[shards.At(place)]
		if all += size; place < p.Shard {
			before += size
		}
	}
	return dataset.ProgressOf(p.Epoch, s.Limit, before, all, uint64(max(1, s.Batch)), s.DropLast), nil
}

// Next returns the samples of the batch at p, and the position after it.
func (s Shards) Next(p ShardPosition) (samples []Sample, next ShardPosition, err error) {
	size := max(1, s.Batch)
	for fresh := p == (ShardPosition{Epoch: p.Epoch}); ; fresh = true {
		if err := ended(p.Epoch, s.Limit); err != nil {
			return nil, p, err
		}
		if samples, p = s.batch(p, size); len(samples) == size || len(samples) > 0 && !s.DropLast {
			return samples, p, nil
		}
		if fresh { // a whole epoch made none
			return nil, p, fmt.Errorf("%w: %d shards make no batch of %d samples", ErrFields, len(s.Sizes), size)
		}
		p = ShardPosition{Epoch: p.Epoch + 1}
	}
}

// batch collects samples until there are enough, or the epoch is over.
func (s Shards) batch(p ShardPosition, size int) (samples []Sample, next ShardPosition) {
	shards := Shuffle{uint64(len(s.Sizes)), hash(s.Seed, p.Epoch, 0)}
	for ; p.Shard < shards.N; p.Shard, p.Index = p.Shard+1, 0 {
		shard := shards.At(p.Shard)
		within := Shuffle{s.Sizes[shard], hash(s.Seed, p.Epoch, 1+shard)}
		for ; p.Index < within.N; p.Index++ {
			if len(samples) == size {
				return samples, p
			}
			samples = append(samples, Sample{int(shard), within.At(p.Index)})
		}
	}
	return samples, p
}
