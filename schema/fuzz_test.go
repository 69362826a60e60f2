package schema

import (
	"bytes"
	"errors"
	"testing"
)

// Invariants:
//   - UnmarshalText never panics, its errors wrap ErrBadStateText and leave the state as it was.
//   - A state has one text: what is accepted is, but for white space around it, what MarshalText writes.
func FuzzStateText(f *testing.F) {
	saved := mustState(f, samplePosition())
	saved.Dataset, saved.Version = "ecg", 2
	for _, s := range []State{{}, saved, {Dataset: "a:b", Data: []byte{0}}, {Dataset: "a", Origin: "5f:1c", Data: []byte{0}}} {
		text, err := s.MarshalText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("jb1:::"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := State{Dataset: "kept"}
		if err := s.UnmarshalText(text); err != nil {
			if !errors.Is(err, ErrBadStateText) || !s.Equal(State{Dataset: "kept"}) {
				t.Fatalf("%v, %v", s, err)
			}
			return
		}
		again, err := s.MarshalText()
		if err != nil || !bytes.Equal(again, bytes.TrimSpace(text)) {
			t.Fatalf("%q, again %q, %v", text, again, err)
		}
	})
}
