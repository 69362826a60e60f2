package schema

import (
	"fmt"
	"unsafe"
)

const (
	// MaxTensors is the largest number of tensors in a [Batch].
	MaxTensors = 256
	// MaxTensorName is the largest length in bytes of a tensor's name.
	MaxTensorName = 255
	// Alignment is what every tensor's offset in a payload is a multiple of: a cache line, and enough for the
	// vector instructions of every processor.
	Alignment = 64
)

// Named is one tensor of a [Batch].
type Named struct {
	Name   string `msgpack:"name"`
	Tensor Tensor `msgpack:"tensor"`
}

// Batch is a list of named tensors, in the author's order. Names are unique and not empty.
//
// Its payload is a msgpack header, an array of [name, dtype, shape, offset, length] with offset and length as 64-bit
// integers, and then the tensors' bytes in the same order, each at the next multiple of [Alignment] from the start of
// the payload, with zeros between. The payload ends with the last tensor. A batch has exactly one payload.
type Batch []Named

// Get returns the tensor of that name.
func (b Batch) Get(name string) (Tensor, bool) {
	for i := range b {
		if b[i].Name == name {
			return b[i].Tensor, true
		}
	}
	return Tensor{}, false
}

// Validate returns an error that wraps [ErrBadBatch] for a batch that has no payload: more than [MaxTensors] tensors, a
// name that is empty, longer than [MaxTensorName] or used twice, a tensor that [Tensor.Validate] refuses.
func (b Batch) Validate() error {
	if len(b) > MaxTensors {
		return fmt.Errorf("%w: %d tensors, at most %d", ErrBadBatch, len(b), MaxTensors)
	}
	for i := range b {
		name := b[i].Name
		if name == "" || len(name) > MaxTensorName {
			return fmt.Errorf("%w: tensor %d: a name has 1 to %d bytes, this one %d", ErrBadBatch, i, MaxTensorName, len(name))
		}
		for j := range i {
			if b[j].Name == name {
				return fmt.Errorf("%w: tensors %d and %d are both named %q", ErrBadBatch, j, i, name)
			}
		}
		if err := b[i].Tensor.Validate(); err != nil {
			return fmt.Errorf("%w: tensor %q: %w", ErrBadBatch, name, err)
		}
	}
	return nil
}

// Rows says which rows of a batch, From to To-1 of Of, are in a part of it. A row is an index of the first dimension of
// every tensor that is not whole in each part.
//
// Part p of n has the rows from p*Of/n to (p+1)*Of/n, rounded down: the parts have all rows between them, each row
// once, and differ by one row at most. With fewer rows than parts some have none. Where a loss is the mean over the
// rows of a part, the mean over the n parts of loss*(To-From)*n/Of is the loss of the whole batch.
type Rows struct {
	From, To, Of int
}

// AlignedBuffer returns n zero bytes whose first is at an address that is a multiple of [Alignment].
func AlignedBuffer(n int) []byte {
	buf := make([]byte, n+Alignment-1)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(buf))) & (Alignment - 1))
	return buf[skip : skip+n : skip+n]
}
