package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
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
		n = align(n) + dataSize(&b[i].Tensor)
	}
	return n
}

// dataSize returns the length in bytes of the data of a valid tensor, which need not be there.
func dataSize(t *schema.Tensor) int { return t.Len() * t.DType.Size() }

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
		size := dataSize(t)
		dst = binary.BigEndian.AppendUint64(append(dst, 0xcf), uint64(size))
		offset += size
	}
	return dst
}

// DecodeBatch reads a payload that [AppendBatch] wrote. The tensors are views of payload, which must not change while
// they are in use; only the names and shapes are copied. A payload that AppendBatch would not have written byte for
// byte is refused (tensors that overlap or leave the payload, dirty padding, a name used twice) with an error that
// wraps [msgp.ErrMalformed].
func DecodeBatch(payload []byte) (schema.Batch, error) {
	b, end, err := readHeader(payload, len(payload))
	if err != nil {
		return nil, err
	}
	for t, at := range layout(b, end) {
		if !allZero(payload[end:at.From]) {
			return nil, fmt.Errorf("%w: padding before tensor %q is not zero", msgp.ErrMalformed, t.Name)
		}
		// The capacity ends with the tensor, so that an append to it cannot reach its neighbour.
		t.Tensor.Data = payload[at.From:at.To:at.To]
		end = at.To
	}
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", msgp.ErrMalformed, err)
	}
	return b, nil
}

// readHeader reads the header of a payload of size bytes that begins with data, and returns its length. The tensors
// have no data; where that lies is their [layout], which ends where the payload does.
func readHeader(data []byte, size int) (b schema.Batch, n int, err error) {
	r := msgp.NewCursor(data)
	b = make(schema.Batch, r.Array(schema.MaxTensors))
	for i := range b {
		if readTensor(&r, size, &b[i]); r.Err() != nil {
			return nil, 0, fmt.Errorf("tensor %d: %w", i, r.Err())
		}
	}
	if r.Err() != nil {
		return nil, 0, r.Err()
	}
	// Only one layout is allowed, so overlaps, gaps and odd encodings need no check of their own.
	if header := appendHeader(make([]byte, 0, r.Pos()), b); !bytes.Equal(header, data[:r.Pos()]) {
		return nil, 0, fmt.Errorf("%w: the header is not the one its own tensors give", msgp.ErrMalformed)
	}
	if end := EncodedSize(b); end != size {
		return nil, 0, fmt.Errorf("%w: %d bytes, the last tensor ends at %d", msgp.ErrMalformed, size, end)
	}
	return b, r.Pos(), nil
}

// layout returns where the tensors of a batch lie in its payload, whose header is so many bytes long.
func layout(b schema.Batch, header int) iter.Seq2[*schema.Named, Extent] {
	return func(yield func(*schema.Named, Extent) bool) {
		end := header
		for i := range b {
			start := align(end)
			end = start + dataSize(&b[i].Tensor)
			if !yield(&b[i], Extent{start, end}) {
				return
			}
		}
	}
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// readTensor reads what the header of a payload of size bytes says of a tensor.
func readTensor(r *msgp.Cursor, size int, t *schema.Named) {
	if r.Array(5) != 5 {
		r.Fail("a tensor is described by 5 fields")
	}
	t.Name = r.Str(schema.MaxTensorName)
	dtype := r.Uint()
	rank := r.Array(schema.MaxRank)
	if r.Err() != nil {
		return
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
	if end := uint64(size); offset > end || length > end-offset {
		r.Fail("a tensor outside the payload")
	}
	if dtype > math.MaxUint8 {
		r.Fail("an unknown element type")
	}
	t.Tensor.DType = schema.DType(dtype)
	// The product of a shape that is valid is 0 only with a dimension of 0.
	n, element := t.Tensor.Len(), uint64(t.Tensor.DType.Size())
	if element == 0 || length/element != uint64(n) || length%element != 0 || n == 0 && !slices.Contains(t.Tensor.Shape, 0) {
		r.Fail("a tensor whose length is not that of its shape")
	}
}
