package msgp

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
	for _, v := range []any{nil, sampleRecord(), samplePosition()} {
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
		for _, into := range []any{new(any), new(record), new(position), new(time.Time)} {
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
