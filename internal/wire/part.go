package wire

import (
	"errors"
	"fmt"
	"math"
	"slices"

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

// Of returns the rows of the part in a batch with tensors of these names and shapes; their data is not looked at. Errors
// wrap [schema.ErrNotRows] and name the tensor, or [schema.ErrUneven]. They depend on the batch, Count, Whole and Even
// alone, and so are the same for all parts.
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
		if slices.Contains(p.Whole, cut[i].Name) {
			continue
		}
		t := &cut[i].Tensor
		from, to := span(rows, len(t.Data))
		t.Shape = slices.Clone(t.Shape)
		t.Shape[0] = rows.To - rows.From
		t.Data = t.Data[from:to:to]
	}
	return cut, rows, nil
}

// span returns where rows lie in the data of a tensor of size bytes.
func span(r schema.Rows, size int) (from, to int) {
	row := size / max(r.Of, 1)
	return r.From * row, r.To * row
}
