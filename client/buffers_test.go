package client

import (
	"testing"

	"github.com/jetbatch/jetbatch/schema"
)

// shelf lends one buffer of at least so many bytes.
type shelf struct {
	least int
	buf   []byte
	back  int
}

func (s *shelf) Get(n int) []byte {
	if n < s.least {
		return nil
	}
	s.buf = schema.AlignedBuffer(n)
	return s.buf
}

func (s *shelf) Put([]byte) { s.back++ }

// A payload lies in lent memory, behind room for an answer's head, and goes back once.
func TestBuffersAreLent(t *testing.T) {
	t.Parallel()
	s := &shelf{least: 1000}
	p := &pool{from: s}
	got := p.get(1000)
	if len(got.bytes) != 1000 || &got.bytes[0] != &s.buf[schema.Alignment] {
		t.Fatal("the payload is elsewhere")
	}
	got.release()
	got.release()
	if s.back != 1 || len(p.free) != 0 {
		t.Errorf("put back %d times, %d to the pool", s.back, len(p.free))
	}
	p.get(100).release()
	if s.back != 1 || len(p.free) != 1 {
		t.Error("what was not lent is put back")
	}
}
