package msgp

import (
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// Compare with BenchmarkLibraryMarshal, which neither sorts nor checks.
func BenchmarkMarshalState(b *testing.B) {
	v := samplePosition()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(&v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLibraryMarshal(b *testing.B) {
	v := samplePosition()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := msgpack.Marshal(&v); err != nil {
			b.Fatal(err)
		}
	}
}

// Compare with BenchmarkLibraryUnmarshal, which does not check.
func BenchmarkUnmarshalState(b *testing.B) {
	data := mustMarshal(b, samplePosition())
	b.ReportAllocs()
	for b.Loop() {
		var v position
		if err := Unmarshal(data, &v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLibraryUnmarshal(b *testing.B) {
	data := mustMarshal(b, samplePosition())
	b.ReportAllocs()
	for b.Loop() {
		var v position
		if err := msgpack.Unmarshal(data, &v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	data := mustMarshal(b, make([]float32, 1_000_000))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(data); err != nil {
			b.Fatal(err)
		}
	}
}
