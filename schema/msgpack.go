package schema

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Jobs and records are read and written by hand: there is one of each per batch, and the library takes several times as
// long. The bytes are those that [Marshal] would write.

func appendArray(dst []byte, n int) []byte {
	if n < 16 {
		return append(dst, 0x90|byte(n))
	}
	return binary.BigEndian.AppendUint16(append(dst, 0xdc), uint16(n))
}

func appendUint(dst []byte, n uint64) []byte {
	switch uintSize(n) {
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

func appendInt(dst []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendUint(dst, uint64(n))
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

func appendBytes(dst, b []byte) []byte {
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

func appendString(dst []byte, s string) []byte {
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

// cursor reads msgpack values one after another. After the first error it reads zeros.
type cursor struct {
	data []byte
	pos  int
	err  error
}

func (r *cursor) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: offset %d: %s", ErrMalformed, r.pos, what)
	}
}

func (r *cursor) next(want kind) (h head, value []byte) {
	if r.err != nil {
		return head{}, nil
	}
	h, f := readHead(r.data[r.pos:])
	switch {
	case f != faultNone:
		r.fail(faultText[f])
		return head{}, nil
	case h.kind != want:
		r.fail("another kind of value than there is here")
		return head{}, nil
	}
	value = r.data[r.pos : r.pos+h.size : r.pos+h.size]
	r.pos += h.size
	return h, value
}

// array reads the head of an array; its elements follow.
func (r *cursor) array(most int) int {
	h, _ := r.next(kindArray)
	if h.children > uint64(most) {
		r.fail(fmt.Sprintf("more than %d elements", most))
		return 0
	}
	return int(h.children)
}

// fields reads the head of an array of exactly n elements.
func (r *cursor) fields(n int) {
	if r.array(n) != n {
		r.fail(fmt.Sprintf("fewer than %d elements", n))
	}
}

func (r *cursor) string(most int) string {
	h, value := r.next(kindString)
	if len(value)-h.header > most {
		r.fail(fmt.Sprintf("a string of more than %d bytes", most))
		return ""
	}
	return string(value[h.header:])
}

// bytes reads binary, or nil, as a view.
func (r *cursor) bytes() []byte {
	if r.null() {
		return nil
	}
	h, value := r.next(kindBinary)
	return value[h.header:]
}

// null reads nil, if that is what is next, and reports whether it was.
func (r *cursor) null() bool {
	if r.err != nil || r.pos >= len(r.data) || r.data[r.pos] != 0xc0 {
		return false
	}
	r.pos++
	return true
}

func (r *cursor) uint() uint64 {
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
	r.fail("not an unsigned integer")
	return 0
}

func (r *cursor) int() int64 {
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
	r.fail("not an integer of 64 bits")
	return 0
}

// value reads any value, whole.
func (r *cursor) value() []byte {
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
