package travel

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/schema"
)

type base struct{ A int }

// halfway encodes itself and does not decode itself.
type halfway struct{ n int }

func (h halfway) MarshalText() ([]byte, error) { return []byte{byte('0' + h.n)}, nil }

type node struct{ Next *node }

type tree struct{ Children []tree }

type level string

// whole encodes itself and an embedded generator besides.
type whole struct {
	rand.PCG
	N int
}

func (w *whole) EncodeMsgpack(enc *msgpack.Encoder) error {
	raw, err := w.PCG.MarshalBinary()
	if err != nil {
		return err
	}
	return errors.Join(enc.EncodeArrayLen(2), enc.EncodeInt(int64(w.N)), enc.EncodeBytes(raw))
}

func (w *whole) DecodeMsgpack(dec *msgpack.Decoder) error {
	if _, err := dec.DecodeArrayLen(); err != nil {
		return err
	}
	var err error
	if w.N, err = dec.DecodeInt(); err != nil {
		return err
	}
	raw, err := dec.DecodeBytes()
	if err != nil {
		return err
	}
	return w.PCG.UnmarshalBinary(raw)
}

func TestRefused(t *testing.T) {
	t.Parallel()
	type inner struct {
		Good int
		bad  int
	}
	for name, tc := range map[string]struct {
		v    any
		want []string
	}{
		"unexported":                      {struct{ name string }{}, []string{"state.name (string)", "not exported"}},
		"unexported, far below":           {struct{ M map[string][]inner }{map[string][]inner{"a": {{bad: 1}}}}, []string{"state.M[][].bad (int)", "not exported"}},
		"a lock":                          {struct{ Mu sync.Mutex }{}, []string{"state.Mu.", "not exported"}},
		"unexported embedded pointer":     {struct{ *base }{}, []string{"state.base (*travel.base)", "not exported"}},
		"func":                            {struct{ F func() }{}, []string{"state.F (func())"}},
		"channel":                         {struct{ C chan int }{}, []string{"state.C (chan int)"}},
		"complex":                         {[]complex128{}, []string{"state[] (complex128)"}},
		"any":                             {struct{ V any }{}, []string{"state.V (interface {})", "name a type"}},
		"any in a map":                    {map[string]any{}, []string{"state[] (interface {})"}},
		"error":                           {struct{ Err error }{}, []string{"state.Err (error)", "name a type"}},
		"a context":                       {struct{ Ctx context.Context }{}, []string{"state.Ctx (context.Context)"}},
		"numbers as keys":                 {map[int]string{}, []string{"state (map[int]string)", "keys"}},
		"keys that encode themselves":     {map[level2]string{}, []string{"keys"}},
		"pointers in a slice":             {[]*base{}, []string{"state[] (*travel.base)", "several pointers"}},
		"pointers in a map":               {map[string]*base{}, []string{"state[]"}},
		"pointers in structs, in a slice": {[]struct{ P *base }{}, []string{"state[].P"}},
		"two pointers":                    {struct{ A, B *rand.PCG }{}, []string{"state.B (*rand.PCG)", "the value of state.A"}},
		"a pointer to a pointer":          {struct{ P **int }{}, []string{"state.P"}},
		"a list":                          {node{}, []string{"state.Next"}},
		"a tree":                          {tree{}, []string{"state.Children[]", "its own type"}},
		"encodes itself only":             {struct{ H halfway }{}, []string{"state.H", "does not decode itself"}},
		"encoded by what is embedded": {struct {
			rand.PCG
			Index int
		}{}, []string{"state.Index (int)", "embedded PCG"}},
		"one name twice": {struct {
			A int `msgpack:"x"`
			B int `msgpack:"x"`
		}{}, []string{"state.B", "state.A"}},
		"a name twice, one embedded": {struct {
			base
			A int
		}{}, []string{"state.A", "state.base"}},
	} {
		err := Check(reflect.TypeOf(tc.v), "state")
		if !errors.Is(err, ErrType) {
			t.Errorf("%s: got %v, want a refusal", name, err)
			continue
		}
		for _, part := range tc.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
	}
}

// level2 is a string that encodes itself.
type level2 string

func (l level2) MarshalText() ([]byte, error)     { return []byte(l), nil }
func (l *level2) UnmarshalText(text []byte) error { *l = level2(text); return nil }

// What is accepted comes back as it was sent.
func TestAcceptedComesBack(t *testing.T) {
	t.Parallel()
	seven := 7
	tensor, err := schema.NewTensor([]int{2}, []float32{1, float32(math.NaN())})
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"number":   7,
		"text":     level("high"),
		"bytes":    []byte("abc"),
		"array":    [3]uint8{1, 2, 3},
		"duration": time.Second,
		"time":     time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		"struct":   struct{ A, B float64 }{1, math.Inf(1)},
		"generator": struct {
			Index int
			PCG   rand.PCG
		}{3, *rand.NewPCG(1, 2)},
		"a pointer to a generator": struct{ PCG *rand.PCG }{rand.NewPCG(1, 2)},
		"absent":                   struct{ A, B *int }{nil, &seven},
		"maps":                     map[level]map[string]int{"a": {"b": 1}},
		"slices of slices":         [][]int{{1}, nil, {2, 3}},
		"embedded": struct {
			base
			B int
		}{base{1}, 2},
		"embedded, shadowed": struct {
			A int
			Base
		}{1, Base{2}},
		"left out on purpose": struct {
			A     int
			cache int `msgpack:"-"`
		}{A: 1},
		"as an array": struct {
			_msgpack struct{} `msgpack:",as_array"`
			A, B     int
		}{A: 1, B: 2},
		"omitted when empty": struct {
			A, B int `msgpack:",omitempty"`
		}{A: 1},
		"a state":               schema.State{Dataset: "a", Version: 1, Data: []byte("x")},
		"a batch":               schema.Batch{{Name: "x", Tensor: tensor}},
		"encodes all of itself": whole{*rand.NewPCG(1, 2), 3},
	} {
		if err := Check(reflect.TypeOf(v), "value"); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, err := msgp.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back := reflect.New(reflect.TypeOf(v))
		if err := msgp.Unmarshal(data, back.Interface()); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := Diff(v, back.Elem().Interface(), "value"); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	for name, typ := range map[string]reflect.Type{"by a pointer": reflect.TypeFor[*base](), "a generator": reflect.TypeFor[*rand.PCG]()} {
		if err := Check(typ, "value"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Base is exported, as what is embedded and shadowed has to be.
type Base struct{ A int }

func TestDiff(t *testing.T) {
	t.Parallel()
	one, two := 1, 2
	for name, tc := range map[string]struct {
		a, b any
		want string // the path; empty for no difference
	}{
		"equal":              {[]int{1}, []int{1}, ""},
		"nil and empty":      {[]int(nil), []int{}, ""},
		"an element":         {[]int{1, 2}, []int{1, 3}, "v[1]"},
		"the length":         {[]int{1, 2}, []int{1}, "v"},
		"bytes":              {[]byte{1, 2}, []byte{1, 3}, "v[1]"},
		"a field":            {struct{ A, B int }{1, 2}, struct{ A, B int }{1, 3}, "v.B"},
		"an entry":           {map[string]int{"a": 1}, map[string]int{"a": 2}, "v[a]"},
		"another key":        {map[string]int{"a": 1}, map[string]int{"b": 1}, "v[a]"},
		"a pointer's value":  {struct{ P *int }{&one}, struct{ P *int }{&two}, "v.P"},
		"a missing pointer":  {struct{ P *int }{&one}, struct{ P *int }{}, "v.P"},
		"the sign of a zero": {0.0, math.Copysign(0, -1), "v"},
		"not a number":       {math.NaN(), math.NaN(), ""},
		"another type":       {any(1), any("1"), "v"},
		"nothing":            {nil, nil, ""},
		"left out on purpose": {struct {
			A int `msgpack:"-"`
		}{1}, struct {
			A int `msgpack:"-"`
		}{2}, ""},
		"a generator":          {*rand.NewPCG(1, 2), *rand.NewPCG(1, 3), "v"},
		"one time, two places": {time.Unix(1, 0), time.Unix(1, 0).UTC(), ""},
		"a field beside what encodes the struct": {struct {
			rand.PCG
			N int
		}{N: 1}, struct {
			rand.PCG
			N int
		}{N: 2}, "v.N"},
	} {
		got := Diff(tc.a, tc.b, "v")
		if path, _, _ := strings.Cut(got, ":"); path != tc.want {
			t.Errorf("%s: got %q, want a difference at %q", name, got, tc.want)
		}
	}
}
