package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/internal/golden"
	"github.com/jetbatch/jetbatch/internal/msgp"
)

type position struct {
	PCG   rand.PCG `msgpack:"pcg"`
	Epoch int      `msgpack:"epoch"`
	Index uint64   `msgpack:"index"`
}

func samplePosition() position { return position{PCG: *rand.NewPCG(7, 9), Epoch: 3, Index: 1 << 40} }

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := msgp.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustState(t testing.TB, v any) State {
	t.Helper()
	s, err := NewState(v)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewState(t *testing.T) {
	t.Parallel()
	for _, v := range []any{
		nil, 0, -1, "", "text", []byte{1}, 1.5, true, struct{}{}, [2]int{1, 2}, samplePosition(), new(position),
		(*position)(nil), map[string]int{"b": 1, "a": 2}, []any{int8(1), uint64(1 << 63)}, State{Dataset: "inner"},
	} {
		s, err := NewState(v)
		if err != nil {
			t.Errorf("%T: %v", v, err)
		}
		if s.Dataset != "" || s.Version != 0 || !bytes.Equal(s.Data, mustMarshal(t, v)) {
			t.Errorf("%T: %+v", v, s)
		}
	}
	var back position
	if err := mustState(t, samplePosition()).Decode(&back); err != nil || back != samplePosition() {
		t.Errorf("Decode: %+v, %v", back, err)
	}
}

// fickle encodes to other bytes after every decoding.
type fickle struct{ N int }

func (f fickle) MarshalBinary() ([]byte, error) { return fmt.Append(nil, f.N), nil }
func (f *fickle) UnmarshalBinary(b []byte) error {
	_, err := fmt.Sscan(string(b), &f.N)
	f.N++
	return err
}

type oneWay struct{ V fmt.Stringer }

func TestNewStateRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		v    any
		want error
	}{
		"keys of numbers":     {map[int]int{1: 1, 2: 2}, ErrStateNotCanonical},
		"one key of numbers":  {struct{ M map[uint8]bool }{map[uint8]bool{1: true}}, ErrStateNotCanonical},
		"changes each time":   {fickle{1}, ErrStateNotCanonical},
		"cannot come back":    {oneWay{Float32}, ErrStateNotCanonical},
		"channel":             {make(chan int), ErrStateNotCanonical},
		"a byte too large":    {make([]byte, MaxState), ErrStateTooLarge},
		"larger than allowed": {strings.Repeat("x", 1<<20), ErrStateTooLarge},
	} {
		if s, err := NewState(c.v); !errors.Is(err, c.want) || !s.IsZero() {
			t.Errorf("%s: %v, %v; want %v", name, s, err, c.want)
		}
	}
	mustState(t, make([]byte, MaxState-3)) // exactly the limit, with its header
}

func TestStateText(t *testing.T) {
	t.Parallel()
	saved := mustState(t, samplePosition())
	saved.Dataset, saved.Version = "ecg-windows", 2
	odd := State{Dataset: "a:b c/%é\n", Version: 1<<32 - 1, Data: []byte{0xff}}
	var lines strings.Builder
	placed, placedOdd := saved, odd
	placed.Origin, placedOdd.Origin = "5f1c09a2b7d04e66", "no:digest %"
	for _, s := range []State{{}, saved, odd, placed, placedOdd} {
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		lines.Write(text)
		lines.WriteByte('\n')
		got := State{Dataset: "overwritten", Data: []byte("too")}
		if err := got.UnmarshalText([]byte(" " + string(text) + "\n")); err != nil || !cmp.Equal(got, s) {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, s)
		}
		asJSON, err := json.Marshal(map[string]State{"state": s})
		if err != nil {
			t.Fatal(err)
		}
		var fromJSON map[string]State
		if err := json.Unmarshal(asJSON, &fromJSON); err != nil || !fromJSON["state"].Equal(s) {
			t.Errorf("JSON %s: %v, %v", asJSON, fromJSON, err)
		}
	}
	golden.Check(t, "state_text", lines.String())
}

func TestStateTextRefuses(t *testing.T) {
	t.Parallel()
	saved := mustState(t, samplePosition())
	saved.Dataset, saved.Version = "ecg", 1
	token, err := saved.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	signed := func(s string) string { return fmt.Sprintf("%s:%08x", s, crc32.Checksum([]byte(s), castagnoli)) }
	texts := []string{
		"", "jb1", "jb1:", "jb2" + string(token[3:]), "jb3" + string(token[3:]), signed("jb2:ecg:1::wA"), signed("jb2:ecg:1:%6a:wA"),
		signed("jb2:ecg:1:%zz:wA"), signed("jb2:ecg:1:" + strings.Repeat("a", MaxOrigin+1) + ":wA"),
		string(token) + "x", string(token) + " " + string(token),
		strings.ToUpper(string(token)), signed("jb1:ecg:1:wA"[:10] + "==:"), signed("jb1:ecg:4294967296:wA"),
		signed("jb1:ecg:-1:wA"), signed("jb1:ecg:+1:wA"), signed("jb1:ecg:01:wA"), signed("jb1:%zz:1:wA"),
		signed("jb1:%65cg:1:wA"), signed("jb1:ecg:1:wB"), signed("jb1:ecg:1:w A"), signed("jb1:ecg:1:!!"),
		signed("jb1:ecg:1:" + strings.Repeat("A", 2*MaxState)),
	}
	for i := range token { // cut anywhere, changed anywhere
		texts = append(texts, string(token[:i]), string(token[:i])+"~"+string(token[i+1:]))
	}
	for _, text := range texts {
		s := State{Dataset: "kept"}
		if err := s.UnmarshalText([]byte(text)); !errors.Is(err, ErrBadStateText) || s.Dataset != "kept" {
			t.Errorf("%q: %v, %v; want ErrBadStateText", text, s, err)
		}
	}
	if _, err := (State{Data: make([]byte, MaxState+1)}).MarshalText(); !errors.Is(err, ErrStateTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if _, err := (State{Origin: strings.Repeat("a", MaxOrigin+1)}).MarshalText(); !errors.Is(err, ErrStateTooLarge) {
		t.Errorf("an origin too large: %v", err)
	}
}

func TestStateMethods(t *testing.T) {
	t.Parallel()
	a := State{Dataset: "d", Version: 1, Data: []byte{1}}
	b := a.Clone()
	if !a.Equal(b) || a.IsZero() || !(State{}).IsZero() || !(State{Data: []byte{}}).Equal(State{}) {
		t.Error("Equal or IsZero")
	}
	b.Data[0] = 2
	if a.Data[0] != 1 || a.Equal(b) {
		t.Error("Clone shares its data")
	}
	if c := (State{"d", 1, "o", []byte{1}}); !c.Equal(State{"d", 1, "", []byte{1}}) || !(State{Origin: "o"}).IsZero() {
		t.Error("the origin is taken for a part of the position")
	}
	for _, o := range []State{{Dataset: "e", Version: 1, Data: a.Data}, {Dataset: "d", Version: 2, Data: a.Data}} {
		if a.Equal(o) {
			t.Errorf("%v equals %v", a, o)
		}
	}
	if got := a.String(); got != "d@1#a016d052 (1 bytes)" {
		t.Errorf("String: %q", got)
	}
	if got := (State{}).String(); got != "start" {
		t.Errorf("String: %q", got)
	}
}

func TestStateRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := State{
			Dataset: rapid.String().Draw(t, "dataset"),
			Version: rapid.Uint32().Draw(t, "version"),
			Origin:  rapid.StringN(-1, -1, MaxOrigin).Draw(t, "origin"),
			Data:    rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data"),
		}
		text, err := s.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range text {
			if c <= ' ' || c > '~' {
				t.Fatalf("%q is not printable", text)
			}
		}
		var fromText, fromBytes State
		if err := fromText.UnmarshalText(text); err != nil || !fromText.Equal(s) || fromText.Origin != s.Origin {
			t.Fatalf("%v, %v", fromText, err)
		}
		data, err := msgp.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := msgp.Unmarshal(data, &fromBytes); err != nil || !fromBytes.Equal(s) || fromBytes.Origin != s.Origin {
			t.Fatalf("%v, %v", fromBytes, err)
		}
	})
}

// States of the form that had no origin are read, and written again as they were.
func TestStateWithoutOrigin(t *testing.T) {
	t.Parallel()
	const token = "jb1:counting:1:gqFpCaRzZWVkBQ:8fd4038d"
	var s State
	if err := s.UnmarshalText([]byte(token)); err != nil || s.Origin != "" || s.Dataset != "counting" {
		t.Fatalf("%+v, %v", s, err)
	}
	if text, err := s.MarshalText(); err != nil || string(text) != token {
		t.Fatalf("%s, %v", text, err)
	}
	three, err := msgp.Marshal([]any{"counting", 1, s.Data})
	if err != nil {
		t.Fatal(err)
	}
	var got State
	if err := msgp.Unmarshal(three, &got); err != nil || !cmp.Equal(got, s) {
		t.Fatalf("%+v, %v", got, err)
	}
	if again, err := msgp.Marshal(got); err != nil || !bytes.Equal(again, three) {
		t.Fatalf("%x, %v; want %x", again, err, three)
	}
	for name, fields := range map[string][]any{
		"two fields": {"d", 1}, "five fields": {"d", 1, s.Data, "o", "p"}, "an empty origin": {"d", 1, s.Data, ""},
		"a long origin":        {"d", 1, s.Data, strings.Repeat("a", MaxOrigin+1)},
		"a version of 33 bits": {"d", 1<<32 + 1, s.Data}, "a negative version": {"d", -1, s.Data},
	} {
		data, err := msgp.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := msgp.Unmarshal(data, &got); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}
