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
	"unsafe"

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
			data[k] = byte(i + k + k>>8 + k>>16)
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

// fetched is what a worker sends of a payload for a part: the bytes of its extents, or all of it.
func fetched(p *Part, payload []byte) (data []byte, inPart bool) {
	extents, ok := p.Extents(payload, len(payload))
	if !ok {
		return payload, false
	}
	for _, e := range extents {
		data = append(data, payload[e.From:e.To]...)
	}
	return data, true
}

// TestDecodePartAgainstCut compares parts that are decoded from extents with those cut from the whole batch, and the
// extents with the blocks that a byte by byte look finds.
func TestDecodePartAgainstCut(t *testing.T) {
	t.Parallel()
	inParts := 0
	rapid.Check(t, func(t *rapid.T) {
		b, whole := drawRows(t)
		payload := schema.AlignedBuffer(EncodedSize(b))
		if _, err := AppendBatch(payload[:0], b); err != nil {
			t.Fatal(err)
		}
		blocks := Pieces{payload}.Blocks(nil)
		if blocks.Sum() != Sum(payload) || len(blocks) != BlocksSize(len(payload)) && len(payload) > 0 {
			t.Fatalf("%d bytes: %d bytes of hashes", len(payload), len(blocks))
		}
		count := rapid.IntRange(1, 9).Draw(t, "parts")
		var parts []schema.Batch
		var rows []schema.Rows
		for i := range count {
			p := &Part{Index: i, Count: count, Whole: whole}
			data, inPart := fetched(p, payload)
			if inPart {
				inParts++
				needs := make(map[int]bool) // blocks
				needs[0] = true
				want, r, err := p.Cut(must(DecodeBatch(payload)))
				if err != nil {
					t.Fatal(err)
				}
				for k := range want {
					if n := len(want[k].Tensor.Data); n > 0 {
						at := offsetIn(payload, want[k].Tensor.Data)
						for block := at / DigestBlock; block <= (at+n-1)/DigestBlock; block++ {
							needs[block] = true
						}
					}
				}
				extents, _ := p.Extents(payload[:DigestBlock], len(payload))
				got := 0
				for k, e := range extents {
					if e.From%DigestBlock != 0 || e.To%DigestBlock != 0 && e.To != len(payload) || k > 0 && e.From <= extents[k-1].To {
						t.Fatalf("extents %+v of %d bytes", extents, len(payload))
					}
					for at := e.From; at < e.To; at += DigestBlock {
						if got++; !needs[at/DigestBlock] {
							t.Fatalf("block %d is not needed for rows %+v: %+v", at/DigestBlock, r, extents)
						}
					}
					if !blocks.Match(e.From, payload[e.From:e.To]) {
						t.Fatalf("%+v is not as its hashes say", e)
					}
				}
				if got != len(needs) {
					t.Fatalf("%d blocks, %d are needed: %+v", got, len(needs), extents)
				}
			}
			part, r, err := DecodePart[schema.Batch](data, len(payload), p)
			if err != nil {
				t.Fatal(err)
			}
			parts, rows = append(parts, part), append(rows, r)
			if inPart {
				if _, _, err := DecodePart[schema.Batch](data[:len(data)-1], len(payload), p); !errors.Is(err, schema.ErrMalformed) {
					t.Fatalf("a byte less: %v", err)
				}
			}
		}
		sameParts(t, b, whole, parts, rows)
	})
	if inParts == 0 {
		t.Error("no payload was large enough to be sent in parts")
	}
}

func must(b schema.Batch, err error) schema.Batch {
	if err != nil {
		panic(err)
	}
	return b
}

// offsetIn returns where view, of the memory of payload, begins.
func offsetIn(payload, view []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(view))) - uintptr(unsafe.Pointer(unsafe.SliceData(payload))))
}

// A changed byte shows in the hash of its block, and in no other.
func TestBlocksMatch(t *testing.T) {
	t.Parallel()
	payload := make([]byte, 3*DigestBlock+1000)
	blocks := Pieces{payload}.Blocks(make(Blocks, 7))
	for k := range 4 {
		payload[k*DigestBlock+999] ^= 1
		for j := range 4 {
			at := j * DigestBlock
			if got := blocks.Match(at, payload[at:min(at+DigestBlock, len(payload))]); got != (j != k) {
				t.Errorf("byte of block %d changed: block %d is right: %v", k, j, got)
			}
		}
		payload[k*DigestBlock+999] ^= 1
	}
	if !blocks.Match(DigestBlock, payload[DigestBlock:]) || blocks.Match(DigestBlock, append(payload, 1)[DigestBlock:]) ||
		blocks.Match(4*DigestBlock, []byte{1}) || blocks.Match(0, payload[:DigestBlock-1]) {
		t.Error("bytes that the payload has not are right, or such as it has wrong")
	}
	blocks[20] ^= 1
	if blocks.Sum() == Sum(payload) {
		t.Error("another list of hashes has the same digest")
	}
}

// What has to be had whole.
func TestExtentsOfWhat(t *testing.T) {
	t.Parallel()
	p := &Part{Index: 3, Count: 4}
	rows := func(n, size int) schema.Tensor {
		return schema.Tensor{DType: schema.Uint8, Shape: []int{n, size}, Data: make([]byte, n*size)}
	}
	many := make(schema.Batch, schema.MaxTensors)
	for i := range many {
		many[i] = named(fmt.Sprintf("%0255d", i), rows(8, 10000))
	}
	for name, payload := range map[string][]byte{
		"not a batch": bytes.Repeat([]byte{7}, 1<<20), "no rows": mustAppend(t, schema.Batch{named("x", mustTensor(t, make([]uint8, 1<<20), 1, 1<<20)), named("y", rows(8, 1))}),
		"small": mustAppend(t, schema.Batch{named("x", rows(8, 8000))}), "long header": mustAppend(t, many), "nothing": {},
		"nothing saved": mustAppend(t, schema.Batch{named("x", rows(8, 9000))}),
	} {
		if extents, ok := p.Extents(payload, len(payload)); ok {
			t.Errorf("%s: %+v", name, extents)
		}
	}
	// 20 MB, of which the header, a quarter of the rows and the edges are to be had.
	payload := mustAppend(t, schema.Batch{named("x", rows(64, 300_000)), named("y", rows(64, 100)), named("z", rows(64, 10_000))})
	for i := range 4 {
		p := &Part{Index: i, Count: 4}
		if data, ok := fetched(p, payload); !ok || float64(len(data)+BlocksSize(len(payload))) > 0.27*float64(len(payload)) {
			t.Errorf("part %d: %d of %d bytes", i, len(data), len(payload))
		}
	}
}

// Invariants: an error, or tensors that hold together, with rows within the batch; errors are ErrMalformed or of the
// cut.
func FuzzDecodePart(f *testing.F) {
	rows := make([]byte, 16*9001)
	payload, err := AppendBatch(nil, schema.Batch{named("x", schema.Tensor{DType: schema.Uint8, Shape: []int{16, 9001}, Data: rows})})
	if err != nil {
		f.Fatal(err)
	}
	p := &Part{Index: 3, Count: 4}
	data, _ := fetched(p, payload)
	f.Add(data[:100], len(data), len(payload), 3, 4, "")
	f.Add(payload[:100], len(payload), len(payload), 0, 4, "x")
	f.Fuzz(func(t *testing.T, head []byte, length, size, index, count int, whole string) {
		p := &Part{Index: index, Count: count, Whole: []string{whole}}
		if length < 0 || length > 1<<20 || size < length || len(head) > length || p.Check() != nil {
			t.Skip("no part of a payload")
		}
		data := append(slices.Clone(head), make([]byte, length-len(head))...)
		b, r, err := DecodePart[schema.Batch](data, size, p)
		switch {
		case err == nil:
			if b.Validate() != nil || r.From < 0 || r.To < r.From || r.Of < r.To {
				t.Fatalf("%v, rows %+v", b.Validate(), r)
			}
		case !errors.Is(err, schema.ErrMalformed) && !errors.Is(err, schema.ErrNotRows):
			t.Fatal(err)
		}
	})
}
