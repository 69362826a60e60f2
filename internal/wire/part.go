package wire

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// MaxParts is the largest number of parts that a batch can be cut into.
const MaxParts = math.MaxUint16

// Part says which rows of each batch one of several readers wants. The zero value wants the whole batch.
type Part struct {
	Index, Count int      // part Index of Count, from 0; 0 of 0 and 0 of 1 are all rows
	Whole        []string // tensors that every part has whole
	Even         bool     // a batch whose rows Count does not divide is schema.ErrUneven
}

// ErrBadPart is returned by [Part.Check].
var ErrBadPart = errors.New("no such part of a batch")

// Check returns an error that wraps [ErrBadPart] for an Index that is not below Count, more than [MaxParts] parts, more
// than [schema.MaxTensors] whole tensors, or one of them that no tensor can have the name of.
func (p *Part) Check() error {
	switch {
	case p.Index < 0 || p.Index >= max(p.Count, 1):
		return fmt.Errorf("%w: part %d of %d, counted from 0", ErrBadPart, p.Index, p.Count)
	case p.Count < 0 || p.Count > MaxParts:
		return fmt.Errorf("%w: %d parts, at most %d", ErrBadPart, p.Count, MaxParts)
	case len(p.Whole) > schema.MaxTensors:
		return fmt.Errorf("%w: %d whole tensors, at most %d", ErrBadPart, len(p.Whole), schema.MaxTensors)
	}
	for _, name := range p.Whole {
		if name == "" || len(name) > schema.MaxTensorName {
			return fmt.Errorf("%w: a name of %d bytes of a whole tensor, which have 1 to %d", ErrBadPart, len(name),
				schema.MaxTensorName)
		}
	}
	return nil
}

// Rows returns which of the rows of a batch are in the part.
func (p *Part) Rows(of int) schema.Rows {
	if p.Count <= 1 {
		return schema.Rows{To: of, Of: of}
	}
	// i*of/Count, whose product may not fit an int
	at := func(i int) int { return of/p.Count*i + of%p.Count*i/p.Count }
	return schema.Rows{From: at(p.Index), To: at(p.Index + 1), Of: of}
}

// Of returns the rows of the part in a batch with tensors of these names and shapes; their data is not looked at.
// Errors wrap [schema.ErrNotRows] and name the tensor, or [schema.ErrUneven]. They depend on the batch, Count, Whole
// and Even alone, and so are the same for all parts.
//
// Of a whole batch the rows are those of the first tensor that is not in Whole, and there is no error: without such a
// tensor they are zero.
func (p *Part) Of(b schema.Batch) (schema.Rows, error) {
	first := -1 // the tensor that gives the number of rows
	for i := range b {
		if slices.Contains(p.Whole, b[i].Name) {
			continue
		}
		shape := b[i].Tensor.Shape
		switch {
		case p.Count <= 1 && len(shape) == 0:
			return schema.Rows{}, nil
		case p.Count <= 1:
			return p.Rows(shape[0]), nil
		case len(shape) == 0:
			return schema.Rows{}, fmt.Errorf("%w: tensor %q is a scalar; name it as whole", schema.ErrNotRows, b[i].Name)
		case first < 0:
			first = i
		case shape[0] != b[first].Tensor.Shape[0]:
			return schema.Rows{}, fmt.Errorf("%w: tensor %q has %d rows, tensor %q has %d; name as whole what has none",
				schema.ErrNotRows, b[i].Name, shape[0], b[first].Name, b[first].Tensor.Shape[0])
		}
	}
	if p.Count <= 1 {
		return schema.Rows{}, nil
	}
	for _, name := range p.Whole {
		if _, ok := b.Get(name); !ok {
			return schema.Rows{}, fmt.Errorf("%w: tensor %q is named as whole, and the batch has none of that name",
				schema.ErrNotRows, name)
		}
	}
	if first < 0 {
		return schema.Rows{}, fmt.Errorf("%w: none of its %d tensors has rows", schema.ErrNotRows, len(b))
	}
	of := b[first].Tensor.Shape[0]
	if p.Even && of%p.Count != 0 {
		return schema.Rows{}, fmt.Errorf("%w: %d rows, %d parts", schema.ErrUneven, of, p.Count)
	}
	return p.Rows(of), nil
}

// Cut returns the part of a valid batch, as views of its tensors, and which rows these are. Errors are those of
// [Part.Of].
func (p *Part) Cut(b schema.Batch) (schema.Batch, schema.Rows, error) {
	rows, err := p.Of(b)
	if err != nil || p.Count <= 1 {
		return b, rows, err
	}
	cut := slices.Clone(b)
	for i := range cut {
		t := &cut[i]
		at := p.within(t, Extent{0, len(t.Tensor.Data)}, rows)
		p.view(t, t.Tensor.Data[at.From:at.To:at.To], rows)
	}
	return cut, rows, nil
}

// within returns which bytes of a tensor the part has; at is where the tensor lies.
func (p *Part) within(t *schema.Named, at Extent, rows schema.Rows) Extent {
	if p.Count <= 1 || slices.Contains(p.Whole, t.Name) {
		return at
	}
	row := (at.To - at.From) / max(rows.Of, 1)
	return Extent{at.From + rows.From*row, at.From + rows.To*row}
}

// view makes the part of a tensor of it, whose bytes are data.
func (p *Part) view(t *schema.Named, data []byte, rows schema.Rows) {
	t.Tensor.Data = data
	if p.Count > 1 && !slices.Contains(p.Whole, t.Name) {
		t.Tensor.Shape = slices.Clone(t.Tensor.Shape)
		t.Tensor.Shape[0] = rows.To - rows.From
	}
}

// Extents returns which bytes of a payload the part needs: the blocks that have its rows, whole tensors or the header,
// in ascending order, as few extents as that takes. The payload is of size bytes and begins with start, which is its
// first block or more. It reports false for a payload that has to be had whole: its header is longer than a block, it
// is not a batch or has no such part, or the extents and the hashes that they are checked with are no less than all of
// it.
func (p *Part) Extents(start []byte, size int) (Extents, bool) {
	b, header, err := readHeader(start[:min(len(start), DigestBlock)], size)
	if err != nil {
		return nil, false
	}
	rows, err := p.Of(b)
	if err != nil {
		return nil, false
	}
	extents := p.extents(b, header, size, rows)
	return extents, BlocksSize(size)+extents.Size() < size
}

func (p *Part) extents(b schema.Batch, header, size int, rows schema.Rows) Extents {
	extents := Extents{{0, min(DigestBlock, size)}}
	for t, at := range layout(b, header) {
		need := p.within(t, at, rows)
		if need.From == need.To {
			continue
		}
		need.From -= need.From % DigestBlock
		need.To = min((need.To+DigestBlock-1)/DigestBlock*DigestBlock, size)
		if last := &extents[len(extents)-1]; need.From <= last.To {
			last.To = max(last.To, need.To)
		} else {
			extents = append(extents, need)
		}
	}
	return extents
}

// DecodePart decodes the part of a batch from data, its payload of size bytes or the [Part.Extents] of it, one after
// the other. What it returns is a view of data, as that of [DecodePayload] is, and which rows these are. Errors are
// those of [Part.Of] and of DecodePayload. Any other type than [schema.Batch] is decoded whole, and has no rows.
func DecodePart[B any](data []byte, size int, p *Part) (b B, rows schema.Rows, err error) {
	batch, ok := any(&b).(*schema.Batch)
	switch {
	case !ok:
		b, err = DecodePayload[B](data)
	case len(data) == size:
		if *batch, err = DecodeBatch(data); err == nil {
			*batch, rows, err = p.Cut(*batch)
		}
	default:
		*batch, rows, err = p.decode(data, size)
	}
	if err != nil {
		return *new(B), schema.Rows{}, err
	}
	return b, rows, nil
}

func (p *Part) decode(data []byte, size int) (schema.Batch, schema.Rows, error) {
	b, header, err := readHeader(data[:min(len(data), DigestBlock)], size)
	if err != nil {
		return nil, schema.Rows{}, err
	}
	rows, err := p.Of(b)
	if err != nil {
		return nil, schema.Rows{}, err
	}
	extents := p.extents(b, header, size, rows)
	if want := extents.Size(); len(data) != want {
		return nil, schema.Rows{}, fmt.Errorf("%w: %d bytes of a part that has %d", msgp.ErrMalformed, len(data), want)
	}
	for t, at := range layout(b, header) {
		need := p.within(t, at, rows)
		if need.From == need.To {
			p.view(t, nil, rows)
			continue
		}
		for need.To > extents[0].To {
			data = data[extents[0].To-extents[0].From:]
			extents = extents[1:]
		}
		from, to := need.From-extents[0].From, need.To-extents[0].From
		p.view(t, data[from:to:to], rows)
	}
	if err := b.Validate(); err != nil {
		return nil, schema.Rows{}, fmt.Errorf("%w: %w", msgp.ErrMalformed, err)
	}
	return b, rows, nil
}
