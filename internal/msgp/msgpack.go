package msgp

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Jobs, records and headers of batches are read and written by hand: there is one of each per batch, and the library
// takes several times as long. The bytes are those that [Marshal] would write.

// AppendArray appends the head of an array of n elements, n below 65536. The elements follow.
func AppendArray(dst []byte, n int) []byte {
	if n < 16 {
		return append(dst, 0x90|byte(n))
	}
	return binary.BigEndian.AppendUint16(append(dst, 0xdc), uint16(n))
}

// AppendUint appends an unsigned integer in its shortest form.
func AppendUint(dst []byte, n uint64) []byte {
	switch UintSize(n) {
	case 1:
		return append(dst, byte(n))
	case 2:
		return append(dst, 0xcc, byte(n))
	case 3:
		return binary.BigEndian.AppendUint16(append(dst, 0xcd), uint16(n))
	case 5:
		return binary.BigEndian.AppendUint32(append(dst, 0xce), uint32(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 0xcf), n)
	}
}

// AppendInt appends an integer in its shortest form.
func AppendInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0:
		return AppendUint(dst, uint64(n))
	case n >= -0x20:
		return append(dst, byte(n))
	case n >= -0x80:
		return append(dst, 0xd0, byte(n))
	case n >= -0x8000:
		return binary.BigEndian.AppendUint16(append(dst, 0xd1), uint16(n))
	case n >= -0x80000000:
		return binary.BigEndian.AppendUint32(append(dst, 0xd2), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xd3), uint64(n))
}

// AppendBytes appends b as binary; a nil b is nil.
func AppendBytes(dst, b []byte) []byte {
	n := len(b)
	switch {
	case b == nil:
		return append(dst, 0xc0)
	case n <= 0xff:
		dst = append(dst, 0xc4, byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xc5), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xc6), uint32(n))
	}
	return append(dst, b...)
}

// AppendString appends a string.
func AppendString(dst []byte, s string) []byte {
	n := len(s)
	switch {
	case n <= 0x1f:
		dst = append(dst, 0xa0|byte(n))
	case n <= 0xff:
		dst = append(dst, 0xd9, byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, 0xda), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, 0xdb), uint32(n))
	}
	return append(dst, s...)
}

// ArraySize is the length of what [AppendArray] appends.
func ArraySize(n int) int {
	if n < 16 {
		return 1
	}
	return 3
}

// StringSize is the length of what [AppendString] appends for a string of n bytes, of at most 255.
func StringSize(n int) int {
	if n < 32 {
		return 1 + n
	}
	return 2 + n
}

// UintSize is the length of what [AppendUint] appends.
func UintSize(n uint64) int {
	switch {
	case n <= 0x7f:
		return 1
	case n <= math.MaxUint8:
		return 2
	case n <= math.MaxUint16:
		return 3
	case n <= math.MaxUint32:
		return 5
	default:
		return 9
	}
}

// Cursor reads msgpack values one after another. After the first error, which wraps [ErrMalformed], it reads zeros.
type Cursor struct {
	data []byte
	pos  int
	err  error
}

// NewCursor returns a cursor at the first byte of data.
func NewCursor(data []byte) Cursor { return Cursor{data: data} }

// Pos is how many bytes were read.
func (r *Cursor) Pos() int { return r.pos }

// Err is the first error.
func (r *Cursor) Err() error { return r.err }

// Fail makes what is wrong with the bytes the cursor's error, unless it has one.
func (r *Cursor) Fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: offset %d: %s", ErrMalformed, r.pos, what)
	}
}

func (r *Cursor) next(want kind) (h head, value []byte) {
	if r.err != nil {
		return head{}, nil
	}
	h, f := readHead(r.data[r.pos:])
	switch {
	case f != faultNone:
		r.Fail(faultText[f])
		return head{}, nil
	case h.kind != want:
		r.Fail("another kind of value than there is here")
		return head{}, nil
	}
	value = r.data[r.pos : r.pos+h.size : r.pos+h.size]
	r.pos += h.size
	return h, value
}

// Array reads the head of an array of at most so many elements, which follow, and returns their number.
func (r *Cursor) Array(most int) int {
	h, _ := r.next(kindArray)
	if h.children > uint64(most) {
		r.Fail(fmt.Sprintf("more than %d elements", most))
		return 0
	}
	return int(h.children)
}

// Fields reads the head of an array of exactly n elements.
func (r *Cursor) Fields(n int) {
	if r.Array(n) != n {
		r.Fail(fmt.Sprintf("fewer than %d elements", n))
	}
}

// Str reads a string of at most so many bytes.
func (r *Cursor) Str(most int) string {
	h, value := r.next(kindString)
	if len(value)-h.header > most {
		r.Fail(fmt.Sprintf("a string of more than %d bytes", most))
		return ""
	}
	return string(value[h.header:])
}

// Bytes reads binary, or nil, as a view.
func (r *Cursor) Bytes() []byte {
	if r.Null() {
		return nil
	}
	h, value := r.next(kindBinary)
	return value[h.header:]
}

// Null reads nil, if that is what is next, and reports whether it was.
func (r *Cursor) Null() bool {
	if r.err != nil || r.pos >= len(r.data) || r.data[r.pos] != 0xc0 {
		return false
	}
	r.pos++
	return true
}

// Uint reads an unsigned integer.
func (r *Cursor) Uint() uint64 {
	_, value := r.next(kindScalar)
	if len(value) == 0 {
		return 0
	}
	switch c := value[0]; {
	case c <= 0x7f:
		return uint64(c)
	case c >= 0xcc && c <= 0xcf:
		return wide(value[1:])
	}
	r.Fail("not an unsigned integer")
	return 0
}

// Int reads an integer.
func (r *Cursor) Int() int64 {
	_, value := r.next(kindScalar)
	if len(value) == 0 {
		return 0
	}
	switch c := value[0]; {
	case c <= 0x7f || c >= 0xe0:
		return int64(int8(c))
	case c >= 0xcc && c <= 0xcf && wide(value[1:]) <= math.MaxInt64:
		return int64(wide(value[1:]))
	case c >= 0xd0 && c <= 0xd3:
		unused := 64 - 8*(len(value)-1)
		return int64(wide(value[1:])<<unused) >> unused
	}
	r.Fail("not an integer of 64 bits")
	return 0
}

// Value reads any value, whole, as a view.
func (r *Cursor) Value() []byte {
	if r.err != nil {
		return nil
	}
	n, err := CheckPrefix(r.data[r.pos:])
	if err != nil {
		r.err = err
		return nil
	}
	r.pos += n
	return r.data[r.pos-n : r.pos]
}

func wide(b []byte) uint64 {
	if len(b) == 8 {
		return binary.BigEndian.Uint64(b)
	}
	return bigEndian(b)
}
