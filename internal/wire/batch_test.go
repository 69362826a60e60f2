package wire

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/internal/golden"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

func sampleBatch(t testing.TB) schema.Batch {
	return schema.Batch{
		named("x", mustTensor(t, []float32{1, 2, 3, 4, 5, 6}, 1, 2, 3)),
		named("y", mustTensor(t, []uint8{1, 0}, 2)),
		named("a name of more than thirty-one bytes", mustTensor(t, []int64{-1})),
		named("none", mustTensor(t, []float64{}, 0, 70000)),
	}
}

func mustTensor[T schema.Element](t testing.TB, data []T, shape ...int) schema.Tensor {
	t.Helper()
	x, err := schema.NewTensor(shape, data)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func named(name string, x schema.Tensor) schema.Named { return schema.Named{Name: name, Tensor: x} }

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := msgp.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustAppend(t testing.TB, b schema.Batch) []byte {
	t.Helper()
	payload, err := AppendBatch(schema.AlignedBuffer(EncodedSize(b))[:0], b)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func TestBatchPayload(t *testing.T) {
	t.Parallel()
	in := sampleBatch(t)
	payload := mustAppend(t, in)
	golden.Check(t, "batch_payload", golden.Hex(payload))
	if len(payload) != EncodedSize(in) {
		t.Errorf("%d bytes, EncodedSize says %d", len(payload), EncodedSize(in))
	}
	out, err := DecodeBatch(payload)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	x, _ := out.Get("x")
	at := uintptr(unsafe.Pointer(&x.Data[0])) - uintptr(unsafe.Pointer(&payload[0]))
	if at == 0 || at%schema.Alignment != 0 || at > uintptr(len(payload)) {
		t.Errorf("x is at %d", at)
	}
	if v, err := schema.View[float32](x); err != nil || v[5] != 6 {
		t.Errorf("%v, %v", v, err)
	}
	if cap(x.Data) != len(x.Data) {
		t.Error("an append to x would write over y")
	}
	if _, ok := out.Get("z"); ok {
		t.Error("there is no z")
	}
	for _, empty := range []schema.Batch{nil, {}} {
		if p := mustAppend(t, empty); !bytes.Equal(p, []byte{0x90}) {
			t.Errorf("empty: % x", p)
		}
	}
	if b, err := DecodeBatch([]byte{0x90}); err != nil || len(b) != 0 {
		t.Errorf("empty: %v, %v", b, err)
	}
}

func TestAppendBatchRefuses(t *testing.T) {
	t.Parallel()
	one := mustTensor(t, []int8{1})
	for name, b := range map[string]schema.Batch{
		"same name": {named("a", one), named("a", one)}, "bad tensor": {{Name: "a"}},
	} {
		if dst, err := AppendBatch([]byte("kept"), b); !errors.Is(err, schema.ErrBadBatch) || string(dst) != "kept" {
			t.Errorf("%s: %q, %v", name, dst, err)
		}
		if _, _, err := PayloadPieces(nil, b); !errors.Is(err, schema.ErrBadBatch) {
			t.Errorf("%s, in pieces: %v", name, err)
		}
	}
}

// dumbPayload writes the format as its description reads: the library for the header, again and again until the
// offsets in it are right.
func dumbPayload(t *rapid.T, b schema.Batch) []byte {
	offsets := make([]int, len(b))
	for {
		var header bytes.Buffer
		enc := msgpack.NewEncoder(&header)
		enc.UseCompactInts(true)
		err := errors.Join(enc.EncodeArrayLen(len(b)))
		for i, n := range b {
			err = errors.Join(err, enc.EncodeArrayLen(5), enc.EncodeString(n.Name), enc.EncodeUint(uint64(n.Tensor.DType)),
				enc.EncodeArrayLen(len(n.Tensor.Shape)))
			for _, d := range n.Tensor.Shape {
				err = errors.Join(err, enc.EncodeInt(int64(d)))
			}
			err = errors.Join(err, enc.EncodeUint64(uint64(offsets[i])), enc.EncodeUint64(uint64(len(n.Tensor.Data))))
		}
		if err != nil {
			t.Fatal(err)
		}
		payload, right := header.Bytes(), true
		for i, n := range b {
			for len(payload)%64 != 0 {
				payload = append(payload, 0)
			}
			right = right && offsets[i] == len(payload)
			offsets[i] = len(payload)
			payload = append(payload, n.Tensor.Data...)
		}
		if right {
			return payload
		}
	}
}

func drawBatch(t *rapid.T) schema.Batch {
	names := rapid.SliceOfNDistinct(rapid.StringN(1, 60, schema.MaxTensorName), 0, 20, rapid.ID[string]).Draw(t, "names")
	b := make(schema.Batch, len(names))
	for i, name := range names {
		dtype := schema.DType(rapid.IntRange(1, int(schema.Float64)).Draw(t, "dtype"))
		shape := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 4).Draw(t, "shape")
		if rapid.Bool().Draw(t, "long") {
			shape = append(make([]int, 0, schema.MaxRank), 1, 1, rapid.SampledFrom([]int{127, 128, 255, 256}).Draw(t, "long dimension"))
		}
		if rapid.Bool().Draw(t, "huge and empty") {
			shape = []int{int(min(rapid.SampledFrom([]uint64{1 << 16, 1<<32 - 1, 1 << 32, math.MaxInt}).Draw(t, "huge"), math.MaxInt)), 0}
		}
		data := bytes.Repeat([]byte{byte(i + 1)}, schema.Tensor{Shape: shape}.Len()*dtype.Size())
		b[i] = named(name, schema.Tensor{DType: dtype, Shape: shape, Data: data})
	}
	return b
}

func TestBatchAgreesWithDumbEncoder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := drawBatch(t)
		want := dumbPayload(t, in)
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 70).Draw(t, "prefix")
		got, err := AppendBatch(slices.Clip(prefix), in)
		if err != nil {
			t.Fatal(err)
		}
		if got = got[len(prefix):]; !bytes.Equal(got, want) {
			t.Fatalf("%v\n got % x\nwant % x", in, got, want)
		}
		if EncodedSize(in) != len(got) {
			t.Fatalf("%d bytes, EncodedSize says %d", len(got), EncodedSize(in))
		}
		out, err := DecodeBatch(got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(in, out, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A changed byte is refused, or is a payload of its own (another name, other data); it never reads as two things.
func TestDecodeBatchMutations(t *testing.T) {
	t.Parallel()
	payload := mustAppend(t, sampleBatch(t))
	for i := range payload {
		for _, flip := range []byte{1, 0x10, 0x80, 0xff} {
			changed := slices.Clone(payload)
			changed[i] ^= flip
			b, err := DecodeBatch(changed)
			if err == nil && !bytes.Equal(mustAppend(t, b), changed) {
				t.Errorf("byte %d ^ %#x: two payloads, one batch", i, flip)
			}
			if err != nil && !errors.Is(err, msgp.ErrMalformed) {
				t.Errorf("byte %d ^ %#x: %v", i, flip, err)
			}
		}
		if _, err := DecodeBatch(payload[:i]); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := DecodeBatch(append(payload, 0)); !errors.Is(err, msgp.ErrMalformed) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestDecodeBatchRefuses(t *testing.T) {
	t.Parallel()
	// One tensor "a" of uint8 in a payload of 128 bytes, with header fields as given.
	payload := func(dtype byte, dim byte, offset, length uint64) []byte {
		h := []byte{0x91, 0x95, 0xa1, 'a', dtype, 0x91, dim, 0xcf}
		h = append(h, 0, 0, 0, 0, 0, 0, byte(offset>>8), byte(offset), 0xcf)
		h = append(h, byte(length>>56), 0, 0, 0, 0, 0, byte(length>>8), byte(length))
		return append(h, make([]byte, 128-len(h))...)
	}
	if _, err := DecodeBatch(payload(byte(schema.Uint8), 64, 64, 64)); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string][]byte{
		"outside":          payload(byte(schema.Uint8), 64, 128, 64),
		"too long":         payload(byte(schema.Uint8), 64, 64, 1<<56|64),
		"over the header":  payload(byte(schema.Uint8), 64, 0, 64),
		"misaligned":       payload(byte(schema.Uint8), 63, 65, 63),
		"shape and length": payload(byte(schema.Uint8), 63, 64, 64),
		"type and length":  payload(byte(schema.Uint16), 64, 64, 64),
		"unknown type":     payload(77, 64, 64, 64),
		"no type":          payload(0, 64, 64, 64),
		"negative":         payload(byte(schema.Uint8), 0xff, 64, 64),
		"4 billion":        {0xdd, 0xff, 0xff, 0xff, 0xff},
		"257 tensors":      append([]byte{0xdc, 1, 1}, make([]byte, 4096)...),
		"rank 17":          append([]byte{0x91, 0x95, 0xa1, 'a', 1, 0xdc, 0, 17}, make([]byte, 64)...),
		"long name":        append([]byte{0x91, 0x95, 0xda, 1, 0}, make([]byte, 400)...),
		"two fields":       {0x91, 0x92, 0xa1, 'a', 1},
		"not an array":     {0x80},
		"nothing":          {},
	} {
		if b, err := DecodeBatch(p); !errors.Is(err, msgp.ErrMalformed) || b != nil {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
}

func TestPayload(t *testing.T) {
	t.Parallel()
	type point struct{ X, Y int }
	type ownBytes []byte
	testPayload(t, sampleBatch(t), true)
	testPayload(t, []byte("raw"), true)
	testPayload(t, point{1, 2}, false)
	testPayload(t, &point{1, 2}, false)
	testPayload(t, ownBytes("x"), false)
	testPayload(t, map[string]int{"a": 1}, false)
	testPayload[any](t, "dynamic", false)
	if _, err := DecodePayload[schema.Batch]([]byte{0xc1}); !errors.Is(err, msgp.ErrMalformed) {
		t.Error(err)
	}
	if p, err := DecodePayload[point]([]byte{0x81, 0xa1, 'X', 7, 0xc0}); !errors.Is(err, msgp.ErrMalformed) || p != (point{}) {
		t.Error(p, err)
	}
}

func testPayload[B any](t *testing.T, in B, aliases bool) {
	t.Helper()
	payload, err := AppendPayload(nil, in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := DecodePayload[B](payload)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%T: %s", in, diff)
	}
	if PayloadAliases[B]() != aliases {
		t.Errorf("%T: PayloadAliases = %v", in, !aliases)
	}
	for i := range payload {
		payload[i] ^= 0xff
	}
	if changed := !cmp.Equal(in, out, cmpopts.EquateEmpty()); changed != aliases {
		t.Errorf("%T: aliases = %v", in, changed)
	}
}
