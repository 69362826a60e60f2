package schema

import (
	"bytes"
	"errors"
	"testing"
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
		if _, err := ParseFetchHead(head); !errors.Is(err, ErrMalformed) {
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
		if _, _, err := ParseAnswer(head); !errors.Is(err, ErrMalformed) {
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
			} else if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
		}
		if len(data) >= AnswerHead {
			here, size, err := ParseAnswer([AnswerHead]byte(data))
			if err == nil {
				if again := AppendAnswer(nil, here, size); !bytes.Equal(again, data[:AnswerHead]) {
					t.Fatalf("%x came back as %x", data, again)
				}
			} else if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
		}
	})
}

func TestSummer(t *testing.T) {
	t.Parallel()
	payload := bytes.Repeat([]byte("0123456789abcdef!"), 5000)
	for _, piece := range []int{1, 7, 1024, 4096, 65536, len(payload)} {
		var s Summer
		for rest := payload; len(rest) > 0; {
			n := min(piece, len(rest))
			_, _ = s.Write(rest[:n]) // never fails
			rest = rest[n:]
		}
		if got := s.Sum(); got != Sum(payload) {
			t.Errorf("in pieces of %d: %v, whole %v", piece, got, Sum(payload))
		}
	}
	var none Summer
	if got := none.Sum(); got != Sum(nil) {
		t.Errorf("nothing: %v, not %v", got, Sum(nil))
	}
}
