package msgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// Marshal returns the canonical msgpack encoding of v: equal values give equal bytes in every process. Integers take
// the shortest form; the entries of every map, structs included, are in ascending order of their keys, so that neither
// Go's random map order nor the order of a struct's fields shows. Field names come from msgpack tags. Structs may hold
// types that encode themselves, such as [math/rand/v2.PCG].
//
// What Marshal returns, [Check] accepts; what it would not accept is an error that wraps [ErrEncode]. A value that
// contains itself is a programming error and not detected.
func Marshal(v any) ([]byte, error) {
	data, _, err := MarshalKeys(v)
	return data, err
}

// MarshalKeys is [Marshal], and also reports whether some map in v has keys that are not strings.
func MarshalKeys(v any) (data []byte, foreignKeys bool, err error) {
	e := encoders.Get().(*encoder)
	out, foreignKeys, err := e.append(e.scratch[:0], v)
	if err != nil {
		return nil, false, err
	}
	data = bytes.Clone(out)
	e.scratch = out
	e.release()
	return data, foreignKeys, nil
}

// Append appends the canonical encoding of v to dst. On an error it returns dst as it was.
func Append(dst []byte, v any) ([]byte, error) {
	e := encoders.Get().(*encoder)
	out, _, err := e.append(dst, v)
	if err != nil {
		return dst, err
	}
	e.release()
	return out, nil
}

// maxPooled is the most scratch memory that an idle encoder keeps.
const maxPooled = 1 << 20

var encoders = sync.Pool{New: func() any { return &encoder{enc: msgpack.NewEncoder(nil)} }}

type encoder struct {
	enc     *msgpack.Encoder
	out     sliceWriter
	scratch []byte
	sorter  sorter
}

// release pools e. An encoder that failed is dropped instead.
func (e *encoder) release() {
	e.out.b = nil
	if cap(e.scratch) > maxPooled || cap(e.sorter.tmp) > maxPooled || cap(e.sorter.entries) > maxPooled/32 {
		e.scratch, e.sorter = nil, sorter{}
	}
	encoders.Put(e)
}

// append also reports whether some map has keys that are not strings.
func (e *encoder) append(dst []byte, v any) (out []byte, foreignKeys bool, err error) {
	e.out.b = dst
	e.enc.Reset(&e.out)
	e.enc.UseCompactInts(true)
	if err := guard(func() error { return e.enc.Encode(addressable(v)) }); err != nil {
		return nil, false, fmt.Errorf("%w: %T: %w", ErrEncode, v, err)
	}
	added := e.out.b[len(dst):]
	if err := Check(added); err != nil {
		// The value's own encoder wrote it, so to the caller these are not bytes from elsewhere.
		return nil, false, fmt.Errorf("%w: %T: %v", ErrEncode, v, err)
	}
	e.sorter.foreignKeys = false
	e.sorter.value(added, 0)
	return e.out.b, e.sorter.foreignKeys, nil
}

// guard turns a panic into an error. The author's own encoders and decoders run inside f, and the library panics where
// bytes do not fit an interface type that has methods.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f()
}

// addressable returns a pointer to a copy of a struct or array. Encoders with a pointer receiver (those of the
// generators in math/rand/v2) are found only in values that have an address.
func addressable(v any) any {
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Struct, reflect.Array:
		p := reflect.New(rv.Type())
		p.Elem().Set(rv)
		return p.Interface()
	default:
		return v
	}
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

func (w *sliceWriter) WriteByte(c byte) error {
	w.b = append(w.b, c)
	return nil
}

// sorter brings the entries of all maps in checked msgpack bytes into canonical order, in place: string keys first, by
// content, then other keys by their encoding. The library's own option sorts three of Go's map types only.
type sorter struct {
	entries     []entry // of all maps that are open, innermost last
	tmp         []byte
	foreignKeys bool
}

type entry struct{ key, value, end int }

// value orders the value at pos and returns where it ends. Its recursion is bounded by [MaxDepth].
func (s *sorter) value(data []byte, pos int) int {
	h, _ := readHead(data[pos:])
	end := pos + h.size
	switch h.kind {
	case kindArray:
		for range h.children {
			end = s.value(data, end)
		}
	case kindMap:
		end = s.fields(data, end, h.children/2)
	}
	return end
}

func (s *sorter) fields(data []byte, pos int, n uint64) int {
	base, start := len(s.entries), pos
	sorted := true
	for i := range n {
		if h, _ := readHead(data[pos:]); h.kind != kindString {
			s.foreignKeys = true
		}
		e := entry{key: pos}
		e.value = s.value(data, e.key)
		e.end = s.value(data, e.value)
		if i > 0 && compareEntries(data, s.entries[len(s.entries)-1], e) > 0 {
			sorted = false
		}
		s.entries = append(s.entries, e)
		pos = e.end
	}
	if own := s.entries[base:]; !sorted {
		slices.SortFunc(own, func(a, b entry) int { return compareEntries(data, a, b) })
		s.tmp = s.tmp[:0]
		for _, e := range own {
			s.tmp = append(s.tmp, data[e.key:e.end]...)
		}
		copy(data[start:], s.tmp)
	}
	s.entries = s.entries[:base]
	return pos
}

func compareEntries(data []byte, a, b entry) int {
	ha, _ := readHead(data[a.key:])
	hb, _ := readHead(data[b.key:])
	switch as, bs := ha.kind == kindString, hb.kind == kindString; {
	case as && !bs:
		return -1
	case bs && !as:
		return 1
	case as:
		if c := bytes.Compare(data[a.key+ha.header:a.value], data[b.key+hb.header:b.value]); c != 0 {
			return c
		}
	}
	// Equal string keys cannot come from Go's maps; comparing all bytes keeps even them in one order.
	return bytes.Compare(data[a.key:a.end], data[b.key:b.end])
}

// Unmarshal decodes data, which it first passes through [Check], into the value that v points to. v should be zero:
// the library reuses the slices and fills the maps that it finds. Unknown fields are ignored.
//
// Errors wrap [ErrMalformed] when the bytes are at fault and [ErrDecode] when they do not fit the type. Neither ever
// wraps io.EOF.
func Unmarshal(data []byte, v any) error {
	_, timestamps, err := checkWhole(data)
	if err != nil {
		return err
	}
	d := decoders.Get().(*decoder)
	d.src.reset(data, timestamps)
	d.dec.Reset(&d.src)
	// A decoder that failed is dropped: it may have stopped halfway through something that Reset does not undo.
	if err := guard(func() error { return d.dec.Decode(v) }); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			// An end of data inside the decoder must not pass for the end of the data set.
			return fmt.Errorf("%w: %T: %v", ErrDecode, v, err)
		}
		return fmt.Errorf("%w: %T: %w", ErrDecode, v, err)
	}
	n := d.src.Len()
	d.src.reset(nil, 0)
	decoders.Put(d)
	if n > 0 {
		return fmt.Errorf("%w: %T: its decoder left %d of %d bytes", ErrDecode, v, n, len(data))
	}
	return nil
}

var decoders = sync.Pool{New: func() any { return &decoder{dec: msgpack.NewDecoder(nil)} }}

type decoder struct {
	dec *msgpack.Decoder
	src guardedReader
}

// guardedReader refuses to hand out the first byte of a timestamp's body on its own. The library, where it wants a
// map and finds an extension, skips the extension's header and takes its body for a map header: a count that Check,
// which saw eight opaque bytes, could not vouch for. Bodies that are wanted as such are read whole.
type guardedReader struct {
	bytes.Reader
	bodies []int // offsets of timestamp bodies not yet passed
}

var errTimestampAsMap = errors.New("a map was expected, a timestamp found")

func (r *guardedReader) reset(data []byte, timestamps int) {
	r.Reader.Reset(data)
	r.bodies = r.bodies[:0]
	if timestamps == 0 {
		return
	}
	r.bodies = make([]int, 0, timestamps)
	for pos := 0; pos < len(data); {
		h, _ := readHead(data[pos:])
		if h.kind == kindTime {
			r.bodies = append(r.bodies, pos+h.header)
		}
		pos += h.size
	}
}

func (r *guardedReader) ReadByte() (byte, error) {
	if len(r.bodies) > 0 {
		pos := int(r.Size()) - r.Len()
		for len(r.bodies) > 0 && r.bodies[0] < pos {
			r.bodies = r.bodies[1:]
		}
		if len(r.bodies) > 0 && r.bodies[0] == pos {
			return 0, errTimestampAsMap
		}
	}
	return r.Reader.ReadByte()
}
