package wire

import (
	"testing"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// megabytes20 is a batch of 20 MB, the large case of the service's own measurements.
func megabytes20(b *testing.B) schema.Batch {
	return schema.Batch{
		named("x", mustTensor(b, make([]float32, 5_000_000), 100, 50, 1000)),
		named("y", mustTensor(b, make([]uint8, 1000), 100, 1, 10)),
	}
}

// Compare with BenchmarkFieldDecode: the same tensors as fields of a struct, which copies them.
func BenchmarkDecodeBatch(b *testing.B) {
	payload := mustAppend(b, megabytes20(b))
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBatch(payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFieldDecode(b *testing.B) {
	payload := mustMarshal(b, megabytes20(b))
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		var got []schema.Named
		if err := msgp.Unmarshal(payload, &got); err != nil {
			b.Fatal(err)
		}
	}
}

// Compare with BenchmarkCopy: one copy of the same bytes is all that encoding should cost.
func BenchmarkAppendBatch(b *testing.B) {
	batch := megabytes20(b)
	buf := schema.AlignedBuffer(EncodedSize(batch))
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := AppendBatch(buf[:0], batch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCopy(b *testing.B) {
	batch := megabytes20(b)
	buf := schema.AlignedBuffer(len(batch[0].Tensor.Data))
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		copy(buf, batch[0].Tensor.Data)
	}
}

func BenchmarkSum(b *testing.B) {
	payload := mustAppend(b, megabytes20(b))
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		Sum(payload)
	}
}
