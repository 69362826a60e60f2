package wire

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/schema"
)

// TestPieces compares payloads in pieces with whole ones.
func TestPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var b schema.Batch
		for i := range rapid.IntRange(0, 4).Draw(t, "tensors") {
			n := rapid.SampledFrom([]int{0, 1, 63, 64, 65, viewLimit - 1, viewLimit, viewLimit + 1, 3*viewLimit + 5}).Draw(t, "size")
			data := bytes.Repeat([]byte{byte(i + 1)}, n)
			b = append(b, schema.Named{Name: string(rune('a' + i)), Tensor: schema.Tensor{DType: schema.Uint8, Shape: []int{n}, Data: data}})
		}
		want, err := AppendPayload(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		scratch := make([]byte, rapid.IntRange(0, 1000).Draw(t, "used"), 1000)
		got, grown, err := PayloadPieces(scratch, b)
		if err != nil || !bytes.Equal(got.AppendTo(nil), want) {
			t.Fatalf("pieces are another payload: %v", err)
		}
		if got.Size() != len(want) || got.Sum() != Sum(want) {
			t.Fatalf("%d bytes, %v; want %d, %v", got.Size(), got.Sum(), len(want), Sum(want))
		}
		if len(grown) > (len(b)+1)*(viewLimit+1000) {
			t.Fatalf("%d bytes were copied", len(grown))
		}
		from := rapid.IntRange(0, len(want)).Draw(t, "from")
		to := rapid.IntRange(from, len(want)).Draw(t, "to")
		if part := got.Range(from, to); !bytes.Equal(part.AppendTo(nil), want[from:to]) {
			t.Fatalf("%d to %d is another part", from, to)
		}
	})
}

func TestPiecesOfOtherTypes(t *testing.T) {
	t.Parallel()
	own := []byte("bytes")
	pieces, _, err := PayloadPieces(make([]byte, 100), own)
	if err != nil || len(pieces) != 1 || &pieces[0][0] != &own[0] {
		t.Fatalf("%q, %v: bytes are copied", pieces, err)
	}
	scratch := make([]byte, 100)
	pieces, grown, err := PayloadPieces(scratch, "text")
	if err != nil || string(pieces.AppendTo(nil)) != "\xa4text" || &grown[0] != &scratch[0] {
		t.Fatalf("%q, %v", pieces, err)
	}
	if _, _, err := PayloadPieces(nil, schema.Batch{{}}); err == nil {
		t.Fatal("a batch without a name was encoded")
	}
}
