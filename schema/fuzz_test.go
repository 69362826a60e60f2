package schema

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"testing"
	"time"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// untypedCost is the most memory per byte of input that decoding into untyped values may take. The dearest input is a
// map within a map: some 340 bytes for the library, two for the sender.
const untypedCost = 192

func TestUntypedCost(t *testing.T) {
	chain := append(bytes.Repeat([]byte{0x81, 0xa0}, MaxDepth-2), 0x80)
	for name, element := range map[string][]byte{
		"empty maps": {0x80}, "maps of one": {0x81, 0xa0, 0xc0}, "maps in maps": chain, "empty arrays": {0x90},
		"strings": {0xa1, 'x'}, "numbers": {0xcc, 200},
		"maps of nine": append([]byte{0x89}, bytes.Repeat([]byte{0xa0, 0xc0}, 9)...),
	} {
		n := 1 << 17 / len(element)
		data := append([]byte{0xdd, 0, byte(n >> 16), byte(n >> 8), byte(n)}, bytes.Repeat(element, n)...)
		var v any
		var err error
		got := allocated(func() { err = Unmarshal(data, &v) })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got > untypedCost*uint64(len(data))+1<<20 {
			t.Errorf("%s: %d allocated for %d bytes", name, got, len(data))
		}
		t.Logf("%s: %d bytes per byte", name, got/uint64(len(data)))
	}
}

// Invariants:
//   - Check and CheckPrefix never panic and agree; errors wrap ErrMalformed.
//   - What Check accepts, the library decodes into any type without a panic, and into untyped values and maps with at
//     most untypedCost bytes allocated per byte of input, plus a constant.
//   - What decodes into a value has a canonical encoding, which decodes and encodes to itself.
func FuzzCheck(f *testing.F) {
	for _, v := range []any{nil, sampleRecord(), samplePosition(), State{Dataset: "d", Data: []byte{1}}, Sum(nil), sampleBatch(f)} {
		f.Add(mustMarshal(f, v))
	}
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xd7, 0xff, 0xdf, 0xff, 0xff, 0xff, 0xff, 0, 0, 0})
	f.Add(nested(0x91, MaxDepth))
	f.Add(bytes.Repeat([]byte{0x81, 0xa0}, MaxDepth))
	f.Add(append([]byte{0xdc, 0x01, 0x00}, bytes.Repeat([]byte{0x81, 0xa0, 0xc0}, 256)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := Check(data)
		n, prefixErr := CheckPrefix(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			if prefixErr == nil && n >= len(data) {
				t.Fatalf("Check: %v; CheckPrefix: %d of %d bytes", err, n, len(data))
			}
			return
		}
		if prefixErr != nil || n != len(data) {
			t.Fatalf("CheckPrefix: %d of %d bytes, %v", n, len(data), prefixErr)
		}
		for _, into := range []any{new(any), new(map[string]any), new([]map[string]string)} {
			if got := allocated(func() { err = Unmarshal(data, into) }); got > untypedCost*uint64(len(data))+1<<20 {
				t.Fatalf("%T: %d bytes of input, %d allocated", into, len(data), got)
			}
		}
		for _, into := range []any{
			new(any), new(State), new(Tensor), new(Digest), new(Batch), new(record), new(position), new(time.Time),
		} {
			if Unmarshal(data, into) != nil {
				continue
			}
			first, err := Marshal(into)
			if err != nil {
				t.Fatalf("%T: %v", into, err)
			}
			again := reflect.New(reflect.TypeOf(into).Elem()).Interface()
			if err := Unmarshal(first, again); err != nil {
				t.Fatalf("%T: %v", into, err)
			}
			if second := mustMarshal(t, again); !bytes.Equal(first, second) {
				t.Fatalf("%T: % x, again % x", into, first, second)
			}
		}
	})
}

// Invariants:
//   - DecodeBatch never panics, its errors wrap ErrMalformed, and its memory is bounded by what a header can describe.
//   - What it accepts is the one payload of the batch that it returns, and every tensor in it is valid.
func FuzzDecodeBatch(f *testing.F) {
	f.Add(mustAppend(f, sampleBatch(f)))
	f.Add(mustAppend(f, nil))
	f.Add([]byte{0xdc, 1, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		var b Batch
		var err error
		if got := allocated(func() { b, err = DecodeBatch(payload) }); got > 64*uint64(len(payload))+1<<17 {
			t.Fatalf("%d bytes of payload, %d allocated", len(payload), got)
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		for _, n := range b {
			if err := n.Tensor.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		again, err := AppendBatch(nil, b)
		if err != nil || !bytes.Equal(again, payload) || EncodedSize(b) != len(payload) {
			t.Fatalf("% x\nagain % x, %v", payload, again, err)
		}
	})
}

// Invariants:
//   - UnmarshalText never panics, its errors wrap ErrBadStateText and leave the state as it was.
//   - A state has one text: what is accepted is, but for white space around it, what MarshalText writes.
func FuzzStateText(f *testing.F) {
	saved := mustState(f, samplePosition())
	saved.Dataset, saved.Version = "ecg", 2
	for _, s := range []State{{}, saved, {Dataset: "a:b", Data: []byte{0}}} {
		text, err := s.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("jb1:::"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := State{Dataset: "kept"}
		if err := s.UnmarshalText(text); err != nil {
			if !errors.Is(err, ErrBadStateText) || !s.Equal(State{Dataset: "kept"}) {
				t.Fatalf("%v, %v", s, err)
			}
			return
		}
		again, err := s.MarshalText()
		if err != nil || !bytes.Equal(again, bytes.TrimSpace(text)) {
			t.Fatalf("%q, again %q, %v", text, again, err)
		}
	})
}
