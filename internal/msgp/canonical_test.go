package msgp

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/internal/golden"
)

func mustMarshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

type position struct {
	PCG   rand.PCG `msgpack:"pcg"`
	Epoch int      `msgpack:"epoch"`
	Index uint64   `msgpack:"index"`
}

func samplePosition() position { return position{PCG: *rand.NewPCG(7, 9), Epoch: 3, Index: 1 << 40} }

type record struct {
	Zeta  string         `msgpack:"zeta"`
	Alpha map[string]int `msgpack:"alpha"`
	Mid   []any
	Keyed map[int]string
	When  time.Time
	PCG   rand.PCG
}

func sampleRecord() record {
	return record{
		Zeta:  "last",
		Alpha: map[string]int{"b": 2, "a": 1, "aa": -300, "": 70000},
		Mid:   []any{nil, true, 1.5, map[string]bool{"y": true, "x": false}},
		Keyed: map[int]string{200: "later", -1: "last", 1: "first"},
		When:  time.Date(2024, 2, 29, 12, 0, 0, 935_000_000, time.UTC),
		PCG:   *rand.NewPCG(1, 2),
	}
}

func TestMarshalGolden(t *testing.T) {
	t.Parallel()
	data := mustMarshal(t, sampleRecord())
	golden.Check(t, "canonical_map", golden.Hex(data))
	for range 50 {
		if again := mustMarshal(t, sampleRecord()); !bytes.Equal(data, again) {
			t.Fatalf("equal values, other bytes:\n% x\n% x", data, again)
		}
	}
	var back record
	if err := Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	back.When = back.When.UTC()
	if got := mustMarshal(t, &back); !bytes.Equal(got, data) {
		t.Errorf("decoded and encoded again:\n% x, want\n% x", got, data)
	}
	if back.PCG != sampleRecord().PCG || !back.When.Equal(sampleRecord().When) {
		t.Errorf("lost on the way: %+v", back)
	}
}

// The order of a struct's fields is not part of its canonical form.
func TestMarshalIgnoresFieldOrder(t *testing.T) {
	t.Parallel()
	a := mustMarshal(t, struct{ X, Y int }{1, 2})
	b := mustMarshal(t, struct{ Y, X int }{2, 1})
	if !bytes.Equal(a, b) {
		t.Errorf("% x, % x", a, b)
	}
}

// node is the dumb version of canonical order: a tree of values whose maps are sorted by what their keys hold.
type node struct {
	head, key []byte
	isString  bool
	children  []node
}

func parse(data []byte) (node, []byte) {
	h, _ := readHead(data)
	n := node{head: data[:h.size], key: data[h.header:h.size], isString: h.kind == kindString}
	data = data[h.size:]
	for range h.children {
		var c node
		c, data = parse(data)
		n.children = append(n.children, c)
	}
	if h.kind == kindMap {
		pairs := slices.Collect(slices.Chunk(n.children, 2))
		slices.SortFunc(pairs, func(a, b []node) int {
			if a[0].isString && b[0].isString {
				return bytes.Compare(a[0].key, b[0].key)
			}
			return bytes.Compare(a[0].bytes(), b[0].bytes())
		})
		n.children = slices.Concat(pairs...)
	}
	return n, data
}

func (n node) bytes() []byte {
	out := slices.Clone(n.head)
	for _, c := range n.children {
		out = append(out, c.bytes()...)
	}
	return out
}

func TestMarshalAgreesWithSortedTree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := drawValue(t, 4)
		var plain bytes.Buffer
		enc := msgpack.NewEncoder(&plain)
		enc.UseCompactInts(true)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		tree, _ := parse(plain.Bytes())
		got, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if want := tree.bytes(); !bytes.Equal(got, want) {
			t.Fatalf("%#v:\n got % x\nwant % x", v, got, want)
		}
		prefixed, err := Append([]byte("before"), v)
		if err != nil || string(prefixed) != "before"+string(got) {
			t.Fatalf("Append: %q, %v", prefixed, err)
		}
	})
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	deep := any(1)
	for range MaxDepth + 1 {
		deep = []any{deep}
	}
	for name, v := range map[string]any{
		"channel":         make(chan int),
		"function in map": map[string]any{"f": func() {}},
		"too deep":        deep,
		"interned string": &struct {
			A, B string `msgpack:",intern"`
		}{"same", "same"},
		"encoder that panics": panics{},
	} {
		if data, err := Marshal(v); !errors.Is(err, ErrEncode) || data != nil {
			t.Errorf("%s: %x, %v; want ErrEncode", name, data, err)
		}
		if dst, err := Append([]byte("kept"), v); err == nil || string(dst) != "kept" {
			t.Errorf("%s: Append gave %q, %v", name, dst, err)
		}
	}
}

type panics struct{}

func (panics) EncodeMsgpack(*msgpack.Encoder) error { panic("the author's mistake") }

type lazy struct{}

func (*lazy) DecodeMsgpack(*msgpack.Decoder) error { return nil }

type greedy struct{}

func (*greedy) DecodeMsgpack(d *msgpack.Decoder) error {
	for {
		if err := d.Skip(); err != nil {
			return err
		}
	}
}

func TestUnmarshalErrors(t *testing.T) {
	t.Parallel()
	stamp := mustMarshal(t, time.Unix(1, 0xdf<<22)) // the first byte of its body is 0xdf, a map header
	if err := Check(stamp); err != nil || stamp[2] != 0xdf {
		t.Fatalf("% x: %v", stamp, err)
	}
	for name, c := range map[string]struct {
		data []byte
		into any
		want error
	}{
		"malformed":                  {[]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, new(any), ErrMalformed},
		"trailing":                   {[]byte{1, 2}, new(int), ErrMalformed},
		"other type":                 {[]byte{0xa1, 'x'}, new(int), ErrDecode},
		"not a pointer":              {[]byte{1}, 1, ErrDecode},
		"nil":                        {[]byte{1}, nil, ErrDecode},
		"decoder that reads nothing": {[]byte{1}, new(lazy), ErrDecode},
		"decoder that wants more":    {[]byte{1}, new(greedy), ErrDecode},
		"timestamp as map":           {stamp, new(map[string]any), ErrDecode},
		"timestamp as typed map":     {stamp, new(map[string]string), ErrDecode},
		"interface with methods": {[]byte{0xa1, 'x'}, new(interface {
			Error() string
			More()
		}), ErrDecode},
	} {
		err := Unmarshal(c.data, c.into)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if errors.Is(err, io.EOF) {
			t.Errorf("%s: %v must not pass for the end of the data", name, err)
		}
	}
	var when time.Time
	if err := Unmarshal(stamp, &when); err != nil || when.Nanosecond() != 0xdf<<22 {
		t.Errorf("timestamp: %v, %v", when, err)
	}
	var mixed struct {
		When time.Time
		More map[string]time.Time
	}
	mixed.When, mixed.More = when, map[string]time.Time{"a": when, "b": when.Add(time.Hour)}
	got := mixed
	got.More = nil
	if err := Unmarshal(mustMarshal(t, mixed), &got); err != nil || !cmp.Equal(got, mixed) {
		t.Errorf("timestamps in maps: %v, %v", got, err)
	}
}

func TestMarshalConcurrently(t *testing.T) {
	t.Parallel()
	want := mustMarshal(t, sampleRecord())
	done := make(chan []byte)
	for range 8 {
		go func() {
			var last []byte
			for range 200 {
				last, _ = Marshal(sampleRecord())
			}
			done <- last
		}()
	}
	for range 8 {
		if got := <-done; !bytes.Equal(got, want) {
			t.Errorf("% x", got)
		}
	}
}
