package schema

import (
	"bytes"
	"errors"
	"math"
	"math/big"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

func mustTensor[T Element](t testing.TB, data []T, shape ...int) Tensor {
	t.Helper()
	x, err := NewTensor(shape, data)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func testElements[T Element](t *testing.T, want DType, zero, one T) {
	t.Helper()
	if got := DTypeOf[T](); got != want {
		t.Errorf("DTypeOf = %s, want %s", got, want)
	}
	if want.Size() != int(unsafe.Sizeof(one)) {
		t.Errorf("%s: Size = %d", want, want.Size())
	}
	if got, err := ParseDType(want.String()); err != nil || got != want {
		t.Errorf("ParseDType(%s) = %v, %v", want, got, err)
	}
	data := []T{zero, one, zero, one, one, zero}
	x := mustTensor(t, data, 2, 3)
	view, err := View[T](x)
	if err != nil || !cmp.Equal(view, data) || x.Len() != 6 || &view[0] != &data[0] {
		t.Errorf("%s: %v, %v", want, view, err)
	}
}

func TestTensorElements(t *testing.T) {
	t.Parallel()
	type named float32
	testElements(t, Bool, false, true)
	testElements[int8](t, Int8, 0, -1)
	testElements[int16](t, Int16, 0, -1)
	testElements[int32](t, Int32, 0, -1)
	testElements[int64](t, Int64, 0, -1)
	testElements[uint8](t, Uint8, 0, 1)
	testElements[uint16](t, Uint16, 0, 1)
	testElements[uint32](t, Uint32, 0, 1)
	testElements[uint64](t, Uint64, 0, 1)
	testElements[float32](t, Float32, 0, 1)
	testElements[float64](t, Float64, 0, 1)
	testElements[named](t, Float32, 0, 1)
	if x := mustTensor(t, []uint32{0x01020304}); !bytes.Equal(x.Data, []byte{4, 3, 2, 1}) || x.Len() != 1 {
		t.Errorf("a scalar, little-endian: %v", x)
	}
	for _, d := range []DType{0, 12, 255} {
		if d.Valid() || d.Size() != 0 || d.String() == "" {
			t.Errorf("%s is valid", d)
		}
	}
	for _, name := range []string{"", "int", "FLOAT32"} {
		if d, err := ParseDType(name); !errors.Is(err, ErrBadTensor) || d != 0 {
			t.Errorf("ParseDType(%q) = %v, %v", name, d, err)
		}
	}
}

func TestTensorRefuses(t *testing.T) {
	t.Parallel()
	for _, shape := range [][]int{
		{5}, {2, 3}, {-4}, {-2, -2}, {math.MaxInt, 4}, {math.MaxInt / 2, 4, math.MaxInt}, {0, -1}, make([]int, MaxRank+1),
	} {
		if x, err := NewTensor(shape, make([]int16, 4)); !errors.Is(err, ErrBadTensor) || x.Data != nil {
			t.Errorf("shape %v: %v, %v", shape, x, err)
		}
	}
	aligned := AlignedBuffer(17)
	for name, c := range map[string]struct {
		x    Tensor
		want error
	}{
		"zero value":          {Tensor{}, ErrBadTensor},
		"unknown type":        {Tensor{DType: 99, Shape: []int{0}}, ErrBadTensor},
		"bytes missing":       {Tensor{DType: Float64, Shape: []int{2}, Data: aligned[:15]}, ErrBadTensor},
		"bytes that overflow": {Tensor{DType: Float64, Shape: []int{math.MaxInt}, Data: aligned[:8]}, ErrBadTensor},
		"other type":          {Tensor{DType: Int64, Shape: []int{2}, Data: aligned[:16]}, ErrDType},
		"misaligned":          {Tensor{DType: Float64, Shape: []int{2}, Data: aligned[1:17]}, ErrMisaligned},
	} {
		if v, err := View[float64](c.x); !errors.Is(err, c.want) || v != nil {
			t.Errorf("%s: %v, %v; want %v", name, v, err, c.want)
		}
	}
	if _, err := View[bool](Tensor{DType: Bool, Shape: []int{2}, Data: []byte{1, 2}}); !errors.Is(err, ErrBadTensor) {
		t.Errorf("a bool of 2: %v", err)
	}
	empty, err := View[float64](Tensor{DType: Float64, Shape: []int{3, 0, math.MaxInt}, Data: aligned[1:1]})
	if err != nil || empty == nil || len(empty) != 0 {
		t.Errorf("no elements: %v, %v", empty, err)
	}
}

func TestElementsAgreesWithBigInt(t *testing.T) {
	t.Parallel()
	dim := rapid.OneOf(rapid.IntRange(-1, 5), rapid.IntRange(1<<15, 1<<31-1), rapid.Just(math.MaxInt), rapid.Just(math.MinInt))
	rapid.Check(t, func(t *rapid.T) {
		shape := rapid.SliceOfN(dim, 0, MaxRank+2).Draw(t, "shape")
		product, valid := big.NewInt(1), len(shape) <= MaxRank
		for _, d := range shape {
			product.Mul(product, big.NewInt(int64(d)))
			valid = valid && d >= 0
		}
		valid = valid && product.IsInt64() && product.Int64() <= math.MaxInt
		n, err := elements(shape)
		if (err == nil) != valid || valid && int64(n) != product.Int64() {
			t.Fatalf("%v: %d, %v; want %s, %v", shape, n, err, product, valid)
		}
	})
}

func TestTensorAsField(t *testing.T) {
	t.Parallel()
	type sample struct {
		X, Y Tensor
		More []Tensor
		Last *Tensor
	}
	x := mustTensor(t, []float64{1, 2, 3, 4}, 2, 2)
	in := sample{X: x, More: []Tensor{x, mustTensor(t, []bool{}, 0)}, Last: &x}
	data := mustMarshal(t, in)
	var out sample
	if err := msgp.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Error(diff)
	}
	if _, err := View[float64](*out.Last); err != nil {
		t.Error(err)
	}
	for i := range data {
		if bytes.Contains(data[i:], out.X.Data) && unsafe.SliceData(data[i:]) == unsafe.SliceData(out.X.Data) {
			t.Fatal("the tensor aliases the bytes it came from")
		}
	}
}

// States and tensors that are not sound are neither written nor read.
func TestFieldsRefuse(t *testing.T) {
	t.Parallel()
	data, err := msgp.Marshal(struct{ T Tensor }{Tensor{DType: Float32, Shape: []int{2}}})
	if !errors.Is(err, ErrEncode) || data != nil {
		t.Errorf("invalid tensor: %x, %v", data, err)
	}
	err = msgp.Unmarshal([]byte{0x93, 1, 0x91, 2, 0xc0}, new(Tensor))
	if !errors.Is(err, ErrBadTensor) || !errors.Is(err, ErrDecode) {
		t.Errorf("tensor without data: %v", err)
	}
	if err := msgp.Unmarshal([]byte{0x92, 0xa0, 0}, new(State)); !errors.Is(err, ErrDecode) {
		t.Errorf("state of 2 fields: %v", err)
	}
}
