package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/xxh3"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

// The bytes of requests and answers, which a worker and a reader of different builds must agree on.
func TestFetchGolden(t *testing.T) {
	t.Parallel()
	part := Part{Index: 2, Count: 300, Whole: []string{"table", "lr"}}
	for want, got := range map[string][]byte{
		"0107415454454d5054": AppendFetch(nil, &Fetch{Attempt: "ATTEMPT"}),
		"0207415454454d50540002012c0002057461626c65026c72": AppendFetch(nil, &Fetch{Attempt: "ATTEMPT", Part: part}),
		"000000000000000000": AppendAnswer(nil, HasNothing, 0),
		"010000000001400000": AppendAnswer(nil, HasWhole, 20<<20),
		"020000000000500000": AppendAnswer(nil, HasPart, 5<<20),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("%x, not %s", got, want)
		}
	}
}

func TestFetchRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range []*Fetch{
		{Attempt: "MFRGGZDFMZTWQ2LKNNWG23TPOB"},
		{Attempt: "a", Part: Part{Count: 1}},
		{Attempt: "a", Part: Part{Index: MaxParts - 1, Count: MaxParts, Whole: []string{strings.Repeat("x", schema.MaxTensorName)}}},
	} {
		request := AppendFetch([]byte("before"), want)[len("before"):]
		got, err := ReadFetch(iotest.OneByteReader(bytes.NewReader(request)))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v: %s", err, diff)
		}
		for n := range request {
			if _, err := ReadFetch(bytes.NewReader(request[:n])); (n == 0) != (err == io.EOF) || err == nil {
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
	for _, request := range []string{
		"\x00\x01a", "\x01\x00", "\x01\x41" + strings.Repeat("a", 65), "\x03\x01a", "\x02\x01a\x00\x00\x00\x00\x00\x00",
		"\x02\x01a\x00\x02\x00\x02\x00\x00", "\x02\x01a\x00\x00\x00\x02\x01\x01", "\x02\x01a\x00\x00\x00\x02\x00\x01\x00",
	} {
		if _, err := ReadFetch(strings.NewReader(request)); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("%q: %v", request, err)
		}
	}
}

func TestAnswerRoundTrip(t *testing.T) {
	t.Parallel()
	for _, want := range []struct {
		has  Has
		size int
	}{{HasWhole, 20 << 20}, {HasWhole, 0}, {HasPart, 5 << 20}, {HasNothing, 0}} {
		has, size, err := ParseAnswer([AnswerHead]byte(AppendAnswer(nil, want.has, want.size)))
		if err != nil || has != want.has || size != want.size {
			t.Errorf("%+v came back as %v, %d, %v", want, has, size, err)
		}
	}
	for _, head := range [][AnswerHead]byte{{3}, {0, 8: 1}, {1, 1}} {
		if _, _, err := ParseAnswer(head); !errors.Is(err, msgp.ErrMalformed) {
			t.Errorf("%x: %v", head, err)
		}
	}
}

// Invariants: what is neither one of our requests nor an answer's head is an end or ErrMalformed; what is, is written
// as it was read, and its part is one that a batch can be cut into.
func FuzzDirect(f *testing.F) {
	f.Add(append(AppendFetch(nil, &Fetch{Attempt: "attempt"}), AppendAnswer(nil, HasWhole, 1<<20)...))
	f.Add(AppendFetch(nil, &Fetch{Attempt: "attempt", Part: Part{Index: 1, Count: 2, Whole: []string{"x"}}}))
	f.Add(AppendAnswer(nil, HasNothing, 0))
	f.Add(AppendAnswer(nil, HasPart, 1<<20))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		switch fetch, err := ReadFetch(in); {
		case err == nil:
			read := data[:len(data)-in.Len()]
			if again := AppendFetch(nil, fetch); !bytes.Equal(again, read) || fetch.Part.Check() != nil {
				t.Fatalf("%x came back as %x, %v", read, again, fetch.Part.Check())
			}
		case err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, msgp.ErrMalformed):
			t.Fatal(err)
		}
		if len(data) >= AnswerHead {
			has, size, err := ParseAnswer([AnswerHead]byte(data))
			if err == nil {
				if again := AppendAnswer(nil, has, size); !bytes.Equal(again, data[:AnswerHead]) {
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
