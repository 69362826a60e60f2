package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// The payload of a batch, as [schema.Batch] describes it.

// EncodedSize returns the length in bytes of the payload of a valid b.
func EncodedSize(b schema.Batch) int {
	n := headerSize(b)
	for i := range b {
		n = align(n) + len(b[i].Tensor.Data)
	}
	return n
}

// AppendBatch appends the payload of b to dst. Offsets count from len(dst): the tensors are aligned in memory when dst
// ends at an aligned address, as an empty slice of a [schema.AlignedBuffer] does. Errors wrap [schema.ErrBadBatch]; dst
// is then returned as it was.
func AppendBatch(dst []byte, b schema.Batch) ([]byte, error) {
	if err := b.Validate(); err != nil {
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

var padding [schema.Alignment]byte

func align(n int) int { return (n + schema.Alignment - 1) &^ (schema.Alignment - 1) }

func headerSize(b schema.Batch) int {
	n := msgp.ArraySize(len(b))
	for i := range b {
		n += 1 + msgp.StringSize(len(b[i].Name)) + 1 + msgp.ArraySize(len(b[i].Tensor.Shape)) + 9 + 9
		for _, d := range b[i].Tensor.Shape {
			n += msgp.UintSize(uint64(d))
		}
	}
	return n
}

// appendHeader writes the header of a valid batch. Offsets have a fixed width, since the header's own length, and so
// every offset, would otherwise depend on them.
func appendHeader(dst []byte, b schema.Batch) []byte {
	offset := headerSize(b)
	dst = msgp.AppendArray(dst, len(b))
	for i := range b {
		t := &b[i].Tensor
		offset = align(offset)
		dst = msgp.AppendArray(dst, 5)
		dst = msgp.AppendString(dst, b[i].Name)
		dst = append(dst, byte(t.DType))
		dst = msgp.AppendArray(dst, len(t.Shape))
		for _, d := range t.Shape {
			dst = msgp.AppendUint(dst, uint64(d))
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
// wraps [msgp.ErrMalformed].
func DecodeBatch(payload []byte) (schema.Batch, error) {
	r := msgp.NewCursor(payload)
	n := r.Array(schema.MaxTensors)
	if r.Err() != nil {
		return nil, r.Err()
	}
	b := make(schema.Batch, n)
	for i := range b {
		if err := readTensor(&r, payload, &b[i]); err != nil {
			return nil, fmt.Errorf("tensor %d: %w", i, err)
		}
	}
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", msgp.ErrMalformed, err)
	}
	// Only one layout is allowed, so overlaps, gaps and odd encodings need no check of their own.
	if header := appendHeader(make([]byte, 0, r.Pos()), b); !bytes.Equal(header, payload[:r.Pos()]) {
		return nil, fmt.Errorf("%w: the header is not the one its own tensors give", msgp.ErrMalformed)
	}
	end := r.Pos()
	for i := range b {
		start := align(end)
		if !allZero(payload[end:start]) {
			return nil, fmt.Errorf("%w: padding before tensor %q is not zero", msgp.ErrMalformed, b[i].Name)
		}
		end = start + len(b[i].Tensor.Data)
	}
	if end != len(payload) {
		return nil, fmt.Errorf("%w: %d bytes follow the last tensor", msgp.ErrMalformed, len(payload)-end)
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
func readTensor(r *msgp.Cursor, payload []byte, t *schema.Named) error {
	if r.Array(5) != 5 {
		r.Fail("a tensor is described by 5 fields")
	}
	t.Name = r.Str(schema.MaxTensorName)
	dtype := r.Uint()
	rank := r.Array(schema.MaxRank)
	if r.Err() != nil {
		return r.Err()
	}
	t.Tensor.Shape = make([]int, rank)
	for i := range t.Tensor.Shape {
		d := r.Uint()
		if d > math.MaxInt {
			r.Fail("a dimension that does not fit an int")
		}
		t.Tensor.Shape[i] = int(d)
	}
	offset, length := r.Uint(), r.Uint()
	size := uint64(len(payload))
	if offset > size || length > size-offset {
		r.Fail("a tensor outside the payload")
	}
	if dtype > math.MaxUint8 {
		r.Fail("an unknown element type")
	}
	if r.Err() != nil {
		return r.Err()
	}
	t.Tensor.DType = schema.DType(dtype)
	// The capacity ends with the tensor, so that an append to it cannot reach its neighbour.
	t.Tensor.Data = payload[offset : offset+length : offset+length]
	return nil
}
