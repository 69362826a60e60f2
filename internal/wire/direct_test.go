package wire

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"

	"github.com/jetbatch/jetbatch/internal/msgp"
)

func TestFetchRoundTrip(t *testing.T) {
	t.Parallel()
	const attempt = "MFRGGZDFMZTWQ2LKNNWG23TPOB"
	request := AppendFetch([]byte("before"), attempt)[len("before"):]
	n, err := ParseFetchHead([FetchHead]byte(request))
	if err != nil || string(request[FetchHead:]) != attempt || n != len(attempt) {
		t.Fatalf("%q: a name of %d bytes, %v", request, n, err)
	}
	for _, head := range [][FetchHead]byte{{}, {fetchVersion, 0}, {fetchVersion, MaxName + 1}, {fetchVersion + 1, 26}} {
		if _, err := ParseFetchHead(head); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("%x: %v", head, err)
		}
	}
}

func TestAnswerRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range []struct {
		here bool
		size uint64
	}{{true, 20 << 20}, {true, 0}, {false, 0}} {
		here, size, err := ParseAnswer([AnswerHead]byte(AppendAnswer(nil, want.here, want.size)))
		if err != nil || here != want.here || size != want.size {
			t.Errorf("%+v came back as %v, %d, %v", want, here, size, err)
		}
	}
	for _, head := range [][AnswerHead]byte{{2}, {0, 1}} {
		if _, _, err := ParseAnswer(head); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("%x: %v", head, err)
		}
	}
}

// Invariants: what is not one of our heads is ErrMalformed; what is, is written as it was read.
func FuzzDirect(f *testing.F) {
	f.Add(append(AppendFetch(nil, "attempt"), AppendAnswer(nil, true, 1<<20)...))
	f.Add(AppendAnswer(nil, false, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= FetchHead {
			n, err := ParseFetchHead([FetchHead]byte(data))
			if err == nil && len(data) >= FetchHead+n {
				if again := AppendFetch(nil, string(data[FetchHead:FetchHead+n])); !bytes.Equal(again, data[:FetchHead+n]) {
					t.Fatalf("%x came back as %x", data, again)
				}
			} else if err != nil && !errors.Is(err, msgp.ErrMalformed) {
				t.Fatal(err)
			}
		}
		if len(data) >= AnswerHead {
			here, size, err := ParseAnswer([AnswerHead]byte(data))
			if err == nil {
				if again := AppendAnswer(nil, here, size); !bytes.Equal(again, data[:AnswerHead]) {
					t.Fatalf("%x came back as %x", data, again)
				}
			} else if !errors.Is(err, msgp.ErrMalformed) {
				t.Fatal(err)
			}
		}
	})
}

func TestSummer(t *testing.T) {
	t.Parallel()
	const block = 64 << 10
	for _, size := range []int{0, 1, block - 1, block, block + 1, 2*block - 1, 2 * block, 5*block + 17} {
		payload := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		want := xxh3.Hash128(payload).Bytes()
		if size > block {
			var hashes []byte
			for b := range slices.Chunk(payload, block) {
				hash := xxh3.Hash128(b).Bytes()
				hashes = append(hashes, hash[:]...)
			}
			want = xxh3.Hash128(hashes).Bytes()
		}
		if got := Sum(payload); got != want {
			t.Errorf("%d bytes: %v, want %x", size, got, want)
		}
		for _, piece := range []int{1, 1000, block - 1, block, block + 1, 4 * block} {
			var s Summer
			for p := range slices.Chunk(payload, piece) {
				_, _ = s.Write(p) // never fails
			}
			if got := s.Sum(); got != want {
				t.Errorf("%d bytes in pieces of %d: %v, want %x", size, piece, got, want)
			}
			if got := s.Sum(); got != want {
				t.Errorf("%d bytes, asked again: %v, want %x", size, got, want)
			}
		}
	}
}
