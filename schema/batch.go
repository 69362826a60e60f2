package schema

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
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

func (b Batch) validate() error {
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

// EncodedSize returns the length in bytes of the payload of a valid b.
func EncodedSize(b Batch) int {
	n := headerSize(b)
	for i := range b {
		n = align(n) + len(b[i].Tensor.Data)
	}
	return n
}

// AppendBatch appends the payload of b to dst. Offsets count from len(dst): the tensors are aligned in memory when dst
// ends at an aligned address, as an empty slice of an [AlignedBuffer] does. Errors wrap [ErrBadBatch]; dst is then
// returned as it was.
func AppendBatch(dst []byte, b Batch) ([]byte, error) {
	if err := b.validate(); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = slices.Grow(dst, EncodedSize(b))
	dst = appendHeader(dst, b)
	for i := range b {
		dst = append(dst, padding[:align(len(dst)-start)-(len(dst)-start)]...)
		dst = append(dst, b[i].Tensor.Data...)
	}
	return dst, nil
}

var padding [Alignment]byte

func align(n int) int { return (n + Alignment - 1) &^ (Alignment - 1) }

func headerSize(b Batch) int {
	n := arraySize(len(b))
	for i := range b {
		n += 1 + stringSize(len(b[i].Name)) + 1 + arraySize(len(b[i].Tensor.Shape)) + 9 + 9
		for _, d := range b[i].Tensor.Shape {
			n += uintSize(uint64(d))
		}
	}
	return n
}

// appendHeader writes the header of a valid batch. Offsets have a fixed width, since the header's own length, and so
// every offset, would otherwise depend on them.
func appendHeader(dst []byte, b Batch) []byte {
	offset := headerSize(b)
	dst = appendArray(dst, len(b))
	for i := range b {
		t := &b[i].Tensor
		offset = align(offset)
		dst = appendArray(dst, 5)
		dst = appendString(dst, b[i].Name)
		dst = append(dst, byte(t.DType))
		dst = appendArray(dst, len(t.Shape))
		for _, d := range t.Shape {
			dst = appendUint(dst, uint64(d))
		}
		dst = binary.BigEndian.AppendUint64(append(dst, 0xcf), uint64(offset))
		dst = binary.BigEndian.AppendUint64(append(dst, 0xcf), uint64(len(t.Data)))
		offset += len(t.Data)
	}
	return dst
}

// DecodeBatch reads a payload that [AppendBatch] wrote. The tensors are views of payload, which must not change while
// they are in use; only the names and shapes are copied. A payload that AppendBatch would not have written byte for
// byte is refused (tensors that overlap or leave the payload, dirty padding, a name used twice) with an error that
// wraps [ErrMalformed].
func DecodeBatch(payload []byte) (Batch, error) {
	r := cursor{data: payload}
	n := r.array(MaxTensors)
	if r.err != nil {
		return nil, r.err
	}
	b := make(Batch, n)
	for i := range b {
		if err := readTensor(&r, &b[i]); err != nil {
			return nil, fmt.Errorf("tensor %d: %w", i, err)
		}
	}
	if err := b.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	// Only one layout is allowed, so overlaps, gaps and odd encodings need no check of their own.
	if header := appendHeader(make([]byte, 0, r.pos), b); !bytes.Equal(header, payload[:r.pos]) {
		return nil, fmt.Errorf("%w: the header is not the one its own tensors give", ErrMalformed)
	}
	end := r.pos
	for i := range b {
		start := align(end)
		if !allZero(payload[end:start]) {
			return nil, fmt.Errorf("%w: padding before tensor %q is not zero", ErrMalformed, b[i].Name)
		}
		end = start + len(b[i].Tensor.Data)
	}
	if end != len(payload) {
		return nil, fmt.Errorf("%w: %d bytes follow the last tensor", ErrMalformed, len(payload)-end)
	}
	return b, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// readTensor reads what a header says of a tensor.
func readTensor(r *cursor, t *Named) error {
	if r.array(5) != 5 {
		r.fail("a tensor is described by 5 fields")
	}
	t.Name = r.string(MaxTensorName)
	dtype := r.uint()
	rank := r.array(MaxRank)
	if r.err != nil {
		return r.err
	}
	t.Tensor.Shape = make([]int, rank)
	for i := range t.Tensor.Shape {
		d := r.uint()
		if d > math.MaxInt {
			r.fail("a dimension that does not fit an int")
		}
		t.Tensor.Shape[i] = int(d)
	}
	offset, length := r.uint(), r.uint()
	size := uint64(len(r.data))
	if offset > size || length > size-offset {
		r.fail("a tensor outside the payload")
	}
	if dtype > math.MaxUint8 {
		r.fail("an unknown element type")
	}
	if r.err != nil {
		return r.err
	}
	t.Tensor.DType = DType(dtype)
	// The capacity ends with the tensor, so that an append to it cannot reach its neighbour.
	t.Tensor.Data = r.data[offset : offset+length : offset+length]
	return nil
}

func arraySize(n int) int {
	if n < 16 {
		return 1
	}
	return 3
}

func stringSize(n int) int {
	if n < 32 {
		return 1 + n
	}
	return 2 + n
}

func uintSize(n uint64) int {
	switch {
	case n <= 0x7f:
		return 1
	case n <= math.MaxUint8:
		return 2
	case n <= math.MaxUint16:
		return 3
	case n <= math.MaxUint32:
		return 5
	default:
		return 9
	}
}

// AlignedBuffer returns n zero bytes whose first is at an address that is a multiple of [Alignment].
func AlignedBuffer(n int) []byte {
	buf := make([]byte, n+Alignment-1)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(buf))) & (Alignment - 1))
	return buf[skip : skip+n : skip+n]
}
