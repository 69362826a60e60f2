package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/schema"
)

// drawRows draws a batch of one number of rows, and which of its tensors are whole.
func drawRows(t *rapid.T) (b schema.Batch, whole []string) {
	rows := rapid.SampledFrom([]int{0, 1, 2, 3, 7, 32, 100}).Draw(t, "rows")
	for i := range rapid.IntRange(1, 5).Draw(t, "tensors") {
		name := fmt.Sprint("tensor", i)
		dtype := rapid.SampledFrom([]schema.DType{schema.Uint8, schema.Int16, schema.Float64}).Draw(t, "dtype")
		shape := []int{rows}
		if i > 0 && rapid.IntRange(0, 3).Draw(t, "whole") == 0 {
			whole = append(whole, name)
			shape = rapid.SampledFrom([][]int{{}, {0}, {64}, {rows, 2}, {20000}}).Draw(t, "shape of whole")
		} else if n := rapid.SampledFrom([]int{-1, 0, 1, 5, 1000, 9001}).Draw(t, "row"); n >= 0 {
			shape = append(shape, n, 1)
		}
		data := make([]byte, schema.Tensor{Shape: shape}.Len()*dtype.Size())
		for k := range data {
			data[k] = byte(i + k + k>>8)
		}
		b = append(b, named(name, schema.Tensor{DType: dtype, Shape: shape, Data: data}))
	}
	return b, whole
}

// sameParts compares parts of a batch with the batch, row by row.
func sameParts(t *rapid.T, b schema.Batch, whole []string, parts []schema.Batch, rows []schema.Rows) {
	next := 0 // the first row that no part had yet
	for p, part := range parts {
		if rows[p].From != next || rows[p].To < next || rows[p].Of != rows[0].Of || len(part) != len(b) {
			t.Fatalf("part %d has rows %+v after row %d, and %d tensors", p, rows[p], next, len(part))
		}
		if n, least := rows[p].To-rows[p].From, rows[p].Of/len(parts); n != least && n != least+1 {
			t.Fatalf("%d of %d rows in one of %d parts", n, rows[p].Of, len(parts))
		}
		next = rows[p].To
		for i := range part {
			got, want := part[i].Tensor, b[i].Tensor
			if !slices.Contains(whole, b[i].Name) {
				row := len(want.Data) / max(want.Shape[0], 1)
				want.Data = want.Data[rows[p].From*row : rows[p].To*row]
				want.Shape = append([]int{rows[p].To - rows[p].From}, want.Shape[1:]...)
			}
			if part[i].Name != b[i].Name || got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) ||
				!bytes.Equal(got.Data, want.Data) || cap(got.Data) != len(got.Data) || got.Validate() != nil {
				t.Fatalf("part %d of %d: tensor %q of shape %v, %v wanted", p, len(parts), part[i].Name, got.Shape, want.Shape)
			}
		}
	}
	if next != rows[0].Of {
		t.Fatalf("%d of %d rows", next, rows[0].Of)
	}
}

// TestCutAgainstRows puts the parts of batches together again.
func TestCutAgainstRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b, whole := drawRows(t)
		count := rapid.IntRange(1, 9).Draw(t, "parts")
		var parts []schema.Batch
		var rows []schema.Rows
		for p := range count {
			part := Part{Index: p, Count: count, Whole: whole}
			cut, r, err := part.Cut(b)
			if err != nil || part.Check() != nil {
				t.Fatal(err, part.Check())
			}
			parts, rows = append(parts, cut), append(rows, r)
			part.Even = true
			if _, _, err := part.Cut(b); errors.Is(err, schema.ErrUneven) != (r.Of%count != 0) {
				t.Fatalf("%d rows in %d equal parts: %v", r.Of, count, err)
			}
		}
		sameParts(t, b, whole, parts, rows)
	})
}

// TestRowsOfAnySize compares with arithmetic that does not overflow.
func TestRowsOfAnySize(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		of := rapid.OneOf(rapid.IntRange(0, 99), rapid.IntRange(0, math.MaxInt)).Draw(t, "of")
		p := Part{Count: rapid.IntRange(1, MaxParts).Draw(t, "parts")}
		p.Index = rapid.IntRange(0, p.Count-1).Draw(t, "part")
		at := func(i int) int {
			x := new(big.Int).Mul(big.NewInt(int64(of)), big.NewInt(int64(i)))
			return int(x.Div(x, big.NewInt(int64(p.Count))).Int64())
		}
		if got, want := p.Rows(of), (schema.Rows{From: at(p.Index), To: at(p.Index + 1), Of: of}); got != want {
			t.Fatalf("%+v of %d: %+v, not %+v", p, of, got, want)
		}
	})
}

func TestCutRefuses(t *testing.T) {
	t.Parallel()
	two := mustTensor(t, []int8{1, 2}, 2)
	for name, c := range map[string]struct {
		b     schema.Batch
		whole []string
		says  string
	}{
		"a scalar":         {schema.Batch{named("x", two), named("lr", mustTensor(t, []float32{1}))}, nil, `"lr"`},
		"a table":          {schema.Batch{named("x", two), named("table", mustTensor(t, make([]int8, 64), 64))}, nil, `"table"`},
		"a misspelt name":  {schema.Batch{named("x", two), named("y", two)}, []string{"Y"}, `"Y"`},
		"all whole":        {schema.Batch{named("x", two)}, []string{"x"}, "none of its 1 tensors"},
		"nothing":          {nil, nil, "none of its 0 tensors"},
		"not its own rows": {schema.Batch{named("x", two), named("y", mustTensor(t, []int8{1, 2}, 1, 2))}, nil, `"y"`},
	} {
		for p := range 3 {
			part := Part{Index: p, Count: 3, Whole: c.whole, Even: true}
			if _, rows, err := part.Cut(c.b); !errors.Is(err, schema.ErrNotRows) || rows != (schema.Rows{}) ||
				!strings.Contains(err.Error(), c.says) {
				t.Errorf("%s, part %d: %+v, %v", name, p, rows, err)
			}
		}
		for _, all := range []Part{{Whole: c.whole, Even: true}, {Count: 1, Whole: c.whole}} {
			if whole, _, err := all.Cut(c.b); err != nil || len(whole) != len(c.b) {
				t.Errorf("%s, one part: %v", name, err)
			}
		}
	}
	// A batch of one reader says how many rows it has, where it has rows.
	if _, rows, err := new(Part).Cut(schema.Batch{named("x", two)}); err != nil || rows != (schema.Rows{To: 2, Of: 2}) {
		t.Errorf("%+v, %v", rows, err)
	}
}

func TestPartCheck(t *testing.T) {
	t.Parallel()
	for _, p := range []Part{{}, {Count: 1}, {Index: 3, Count: 4}, {Index: MaxParts - 1, Count: MaxParts, Whole: []string{"x"}}} {
		if err := p.Check(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, p := range []Part{
		{Index: -1}, {Index: 1}, {Index: -1, Count: 2}, {Index: 2, Count: 2}, {Count: -1}, {Count: MaxParts + 1},
		{Whole: []string{""}}, {Whole: []string{strings.Repeat("x", schema.MaxTensorName+1)}},
		{Whole: make([]string, schema.MaxTensors+1)},
	} {
		if err := p.Check(); !errors.Is(err, ErrBadPart) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
