package schema

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// MaxRank is the largest number of dimensions of a [Tensor].
const MaxRank = 16

// DType is the element type of a [Tensor]. The numbers are the wire format and do not change.
type DType uint8

// The zero DType is invalid, so that an unset tensor is never mistaken for data.
const (
	Bool    DType = 1
	Int8    DType = 2
	Int16   DType = 3
	Int32   DType = 4
	Int64   DType = 5
	Uint8   DType = 6
	Uint16  DType = 7
	Uint32  DType = 8
	Uint64  DType = 9
	Float32 DType = 10
	Float64 DType = 11
)

var dtypes = [...]struct {
	name string
	size int
}{
	Bool: {"bool", 1},
	Int8: {"int8", 1}, Int16: {"int16", 2}, Int32: {"int32", 4}, Int64: {"int64", 8},
	Uint8: {"uint8", 1}, Uint16: {"uint16", 2}, Uint32: {"uint32", 4}, Uint64: {"uint64", 8},
	Float32: {"float32", 4}, Float64: {"float64", 8},
}

// Valid reports whether d is one of the element types above.
func (d DType) Valid() bool { return d != 0 && int(d) < len(dtypes) }

// Size returns the bytes of one element, 0 for an invalid DType.
func (d DType) Size() int {
	if !d.Valid() {
		return 0
	}
	return dtypes[d].size
}

// String returns the name of the Go type, such as "float32".
func (d DType) String() string {
	if !d.Valid() {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// ParseDType reads what [DType.String] wrote. Its errors wrap [ErrBadTensor].
func ParseDType(s string) (DType, error) {
	for d := range dtypes {
		if DType(d).Valid() && dtypes[d].name == s {
			return DType(d), nil
		}
	}
	return 0, fmt.Errorf("%w: unknown element type %q", ErrBadTensor, s)
}

// Element is a Go type that a [Tensor] can hold. int and uint are not among them: their size differs between machines.
type Element interface {
	~bool | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64
}

var kindDTypes = map[reflect.Kind]DType{
	reflect.Bool: Bool,
	reflect.Int8: Int8, reflect.Int16: Int16, reflect.Int32: Int32, reflect.Int64: Int64,
	reflect.Uint8: Uint8, reflect.Uint16: Uint16, reflect.Uint32: Uint32, reflect.Uint64: Uint64,
	reflect.Float32: Float32, reflect.Float64: Float64,
}

// DTypeOf returns the element type that holds T.
func DTypeOf[T Element]() DType { return kindDTypes[reflect.TypeFor[T]().Kind()] }

// Tensor is an n-dimensional array: row-major, its elements little-endian and without gaps in Data. An empty Shape is
// a scalar, one element; a dimension of 0 means no elements.
//
// A tensor that came out of a payload is a view of it, to be read but not written, and valid for as long as the
// payload is.
type Tensor struct {
	DType DType
	Shape []int
	Data  []byte
}

// NewTensor returns a tensor over data, which is viewed, not copied: a later change of data shows in the tensor. The
// product of shape must be len(data). Its errors wrap [ErrBadTensor].
func NewTensor[T Element](shape []int, data []T) (Tensor, error) {
	t := Tensor{
		DType: DTypeOf[T](),
		Shape: slices.Clone(shape),
		Data:  unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), len(data)*int(unsafe.Sizeof(*new(T)))),
	}
	if err := t.Validate(); err != nil {
		return Tensor{}, err
	}
	return t, nil
}

// View returns the elements of t without copying them. It returns [ErrDType] when t holds other elements than T,
// [ErrBadTensor] when t is inconsistent or a bool is neither 0 nor 1, and [ErrMisaligned] when t.Data starts at an
// address where no T may start; copying the payload into an [AlignedBuffer] cures that.
func View[T Element](t Tensor) ([]T, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	if want := DTypeOf[T](); t.DType != want {
		return nil, fmt.Errorf("%w: %s, not %s", ErrDType, t.DType, want)
	}
	p := unsafe.Pointer(unsafe.SliceData(t.Data))
	if uintptr(p)%unsafe.Alignof(*new(T)) != 0 && len(t.Data) > 0 {
		return nil, fmt.Errorf("%w: %s needs a multiple of %d", ErrMisaligned, t.DType, unsafe.Alignof(*new(T)))
	}
	if t.DType == Bool {
		// The compiler assumes that a bool is 0 or 1.
		if i := slices.IndexFunc(t.Data, func(b byte) bool { return b > 1 }); i >= 0 {
			return nil, fmt.Errorf("%w: bool %d is %d", ErrBadTensor, i, t.Data[i])
		}
	}
	n := len(t.Data) / t.DType.Size()
	if n == 0 {
		return []T{}, nil
	}
	return unsafe.Slice((*T)(p), n), nil
}

// Len returns the number of elements, the product of the shape; 0 when the shape is invalid.
func (t Tensor) Len() int {
	n, err := elements(t.Shape)
	if err != nil {
		return 0
	}
	return n
}

// Validate returns an error that wraps [ErrBadTensor] unless element type, shape and data agree.
func (t Tensor) Validate() error {
	if !t.DType.Valid() {
		return fmt.Errorf("%w: element type %s", ErrBadTensor, t.DType)
	}
	n, err := elements(t.Shape)
	if err != nil {
		return err
	}
	if n > math.MaxInt/t.DType.Size() || n*t.DType.Size() != len(t.Data) {
		return fmt.Errorf("%w: shape %v of %s needs %d elements, there are %d bytes",
			ErrBadTensor, t.Shape, t.DType, n, len(t.Data))
	}
	return nil
}

// elements returns the product of shape. With a dimension of 0 that is 0, however large the others are.
func elements(shape []int) (int, error) {
	if len(shape) > MaxRank {
		return 0, fmt.Errorf("%w: %d dimensions, at most %d", ErrBadTensor, len(shape), MaxRank)
	}
	empty := false
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: negative dimension in shape %v", ErrBadTensor, shape)
		}
		empty = empty || d == 0
	}
	if empty {
		return 0, nil
	}
	n := 1
	for _, d := range shape {
		if n > math.MaxInt/d {
			return 0, fmt.Errorf("%w: shape %v has more elements than fit an int", ErrBadTensor, shape)
		}
		n *= d
	}
	return n, nil
}

// EncodeMsgpack writes a tensor that is a field of some struct: [dtype, shape, data], or nil for the zero Tensor. A
// [Batch] has a form of its own that is decoded without copying; prefer it for large data.
func (t Tensor) EncodeMsgpack(enc *msgpack.Encoder) error {
	if t.DType == 0 && t.Shape == nil && t.Data == nil {
		return enc.EncodeNil()
	}
	if err := t.Validate(); err != nil {
		return err
	}
	if err := enc.EncodeArrayLen(3); err != nil {
		return err
	}
	if err := enc.EncodeUint(uint64(t.DType)); err != nil {
		return err
	}
	if err := enc.EncodeArrayLen(len(t.Shape)); err != nil {
		return err
	}
	for _, d := range t.Shape {
		if err := enc.EncodeUint(uint64(d)); err != nil {
			return err
		}
	}
	if err := enc.EncodeBytesLen(len(t.Data)); err != nil {
		return err
	}
	_, err := enc.Writer().Write(t.Data)
	return err
}

// DecodeMsgpack reads what [Tensor.EncodeMsgpack] wrote, copying the data into an [AlignedBuffer].
func (t *Tensor) DecodeMsgpack(dec *msgpack.Decoder) error {
	n, err := dec.DecodeArrayLen()
	if err != nil {
		return err
	}
	if n != 3 {
		return fmt.Errorf("%w: %d fields, not 3", ErrBadTensor, n)
	}
	dtype, err := dec.DecodeUint8()
	if err != nil {
		return err
	}
	rank, err := dec.DecodeArrayLen()
	if err != nil {
		return err
	}
	if rank < 0 || rank > MaxRank {
		return fmt.Errorf("%w: %d dimensions, at most %d", ErrBadTensor, rank, MaxRank)
	}
	got := Tensor{DType: DType(dtype), Shape: make([]int, rank)}
	for i := range got.Shape {
		if got.Shape[i], err = dec.DecodeInt(); err != nil {
			return err
		}
	}
	size, err := dec.DecodeBytesLen()
	if err != nil {
		return err
	}
	got.Data = AlignedBuffer(max(size, 0))
	if err := dec.ReadFull(got.Data); err != nil {
		return err
	}
	if err := got.Validate(); err != nil {
		return err
	}
	*t = got
	return nil
}
