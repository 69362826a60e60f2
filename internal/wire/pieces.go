package wire

import (
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// viewLimit is the size from which the bytes of a tensor are a piece of their own. Below it a copy costs less.
const viewLimit = 32 << 10

// Pieces is a payload as it lies in memory before it travels, in parts that follow one another: what is large is not
// copied together with the rest.
type Pieces [][]byte

// Size is the payload's length in bytes.
func (p Pieces) Size() int {
	n := 0
	for _, piece := range p {
		n += len(piece)
	}
	return n
}

// Sum returns the digest of the payload, the one that [Sum] gives of the whole.
func (p Pieces) Sum() Digest { return p.Blocks(nil).Sum() }

// Blocks returns the hashes of the payload's blocks, in the memory of scratch, which is grown where it has to be.
func (p Pieces) Blocks(scratch Blocks) Blocks {
	s := Summer{blocks: scratch[:0]}
	if len(p) == 1 && len(p[0]) <= DigestBlock {
		s.add(xxh3.Hash128(p[0])) // in place
		return s.blocks
	}
	s.Expect(p.Size())
	for _, piece := range p {
		_, _ = s.Write(piece) // never fails
	}
	return s.Blocks()
}

// AppendTo appends the whole payload.
func (p Pieces) AppendTo(dst []byte) []byte {
	dst = slices.Grow(dst, p.Size())
	for _, piece := range p {
		dst = append(dst, piece...)
	}
	return dst
}

// Range returns the bytes from one offset to another, as pieces again.
func (p Pieces) Range(from, to int) Pieces {
	var part Pieces
	for _, piece := range p {
		if from < len(piece) && to > 0 {
			part = append(part, piece[max(from, 0):min(to, len(piece))])
		}
		from -= len(piece)
		to -= len(piece)
	}
	return part
}

// Extent is the bytes From to To-1 of a payload.
type Extent struct{ From, To int }

// Extents are some of a payload, in ascending order.
type Extents []Extent

// Size is how many bytes they are.
func (e Extents) Size() (n int) {
	for _, x := range e {
		n += x.To - x.From
	}
	return n
}

// PayloadPieces returns the payload of b that [AppendPayload] would append, as views of b where that is large, and
// otherwise of scratch, which is overwritten, grown where it has to be, and returned. b must not change while the
// pieces are in use.
func PayloadPieces[B any](scratch []byte, b B) (Pieces, []byte, error) {
	switch p := any(&b).(type) {
	case *schema.Batch:
		return batchPieces(scratch[:0], *p)
	case *[]byte:
		return Pieces{*p}, scratch, nil
	default:
		encoded, err := msgp.Append(scratch[:0], p)
		return Pieces{encoded}, encoded, err
	}
}

func batchPieces(scratch []byte, b schema.Batch) (Pieces, []byte, error) {
	if err := b.Validate(); err != nil {
		return nil, scratch, err
	}
	small := EncodedSize(b)
	for i := range b {
		if n := len(b[i].Tensor.Data); n >= viewLimit {
			small -= n
		}
	}
	// It does not grow from here on, so that pieces of it stay where they are.
	scratch = appendHeader(slices.Grow(scratch, small), b)
	var pieces Pieces
	from, size := 0, len(scratch) // where the piece under way begins; how long the payload is by now
	for i := range b {
		data := b[i].Tensor.Data
		scratch = append(scratch, padding[:align(size)-size]...)
		size = align(size) + len(data)
		if len(data) < viewLimit {
			scratch = append(scratch, data...)
			continue
		}
		pieces = append(pieces, scratch[from:len(scratch):len(scratch)], data)
		from = len(scratch)
	}
	if from < len(scratch) {
		pieces = append(pieces, scratch[from:])
	}
	return pieces, scratch, nil
}
