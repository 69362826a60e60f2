package wire

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"testing"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// untypedCost bounds the memory per byte of input that decoding takes, as in package msgp.
const untypedCost = 192

// Invariants:
//   - DecodeBatch never panics, its errors wrap ErrMalformed, and its memory is bounded by what a header can describe.
//   - What it accepts is the one payload of the batch that it returns, and every tensor in it is valid.
func FuzzDecodeBatch(f *testing.F) {
	f.Add(mustAppend(f, sampleBatch(f)))
	f.Add(mustAppend(f, nil))
	f.Add([]byte{0xdc, 1, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		var b schema.Batch
		var err error
		if got := allocated(func() { b, err = DecodeBatch(payload) }); got > 64*uint64(len(payload))+1<<17 {
			t.Fatalf("%d bytes of payload, %d allocated", len(payload), got)
		}
		if err != nil {
			if !errors.Is(err, msgp.ErrMalformed) {
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
//   - Bytes that anybody made decode into every type of this module with an encoding of its own without a panic.
//   - What decodes has a canonical encoding, which decodes and encodes to itself.
func FuzzValues(f *testing.F) {
	for _, v := range []any{
		schema.State{Dataset: "d", Data: []byte{1}}, Sum(nil), sampleBatch(f), sampleBatch(f)[0].Tensor,
	} {
		f.Add(mustMarshal(f, v))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, into := range []any{new(schema.State), new(schema.Tensor), new(Digest), new(schema.Batch)} {
			if msgp.Unmarshal(data, into) != nil {
				continue
			}
			first, err := msgp.Marshal(into)
			if err != nil {
				t.Fatalf("%T: %v", into, err)
			}
			again := reflect.New(reflect.TypeOf(into).Elem()).Interface()
			if err := msgp.Unmarshal(first, again); err != nil {
				t.Fatalf("%T: %v", into, err)
			}
			if second := mustMarshal(t, again); !bytes.Equal(first, second) {
				t.Fatalf("%T: % x, again % x", into, first, second)
			}
		}
	})
}
