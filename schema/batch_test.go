package schema

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

func TestBatchValidate(t *testing.T) {
	t.Parallel()
	one := mustTensor(t, []int8{1})
	many := make(Batch, MaxTensors+1)
	for i := range many {
		many[i] = Named{fmt.Sprint(i), one}
	}
	for name, b := range map[string]Batch{"none": nil, "as many as allowed": many[:MaxTensors]} {
		if err := b.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string]Batch{
		"too many": many, "no name": {{"", one}}, "same name": {{"a", one}, {"b", one}, {"a", one}},
		"long name": {{strings.Repeat("n", MaxTensorName+1), one}}, "bad tensor": {{"a", Tensor{}}},
	} {
		if err := b.Validate(); !errors.Is(err, ErrBadBatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBatchGet(t *testing.T) {
	t.Parallel()
	b := Batch{{"x", mustTensor(t, []int8{1})}, {"y", mustTensor(t, []int8{2})}}
	if y, ok := b.Get("y"); !ok || y.Data[0] != 2 {
		t.Errorf("y: %v, %v", y, ok)
	}
	if _, ok := b.Get("z"); ok {
		t.Error("there is no z")
	}
}

func TestAlignedBuffer(t *testing.T) {
	t.Parallel()
	for n := range 300 {
		b := AlignedBuffer(n)
		if len(b) != n || cap(b) != n {
			t.Errorf("%d: len %d, cap %d", n, len(b), cap(b))
		}
		if p := uintptr(unsafe.Pointer(unsafe.SliceData(b))); p%Alignment != 0 {
			t.Errorf("%d: address %x", n, p)
		}
	}
}
