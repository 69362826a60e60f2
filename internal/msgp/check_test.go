package msgp

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"
)

func nested(open byte, depth int) []byte {
	return append(bytes.Repeat([]byte{open}, depth), 0xc0)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := map[string][]byte{
		"nil":                {0xc0},
		"negative fixint":    {0xff},
		"float64":            {0xcb, 0, 0, 0, 0, 0, 0, 0, 0},
		"fixstr":             {0xa2, 'h', 'i'},
		"str8":               {0xd9, 1, 'x'},
		"str16":              {0xda, 0, 1, 'x'},
		"str32":              {0xdb, 0, 0, 0, 1, 'x'},
		"bin8 empty":         {0xc4, 0},
		"bin16":              {0xc5, 0, 1, 9},
		"bin32":              {0xc6, 0, 0, 0, 1, 9},
		"array of array":     {0x92, 0x91, 1, 2},
		"array16":            {0xdc, 0, 2, 1, 2},
		"array32 empty":      {0xdd, 0, 0, 0, 0},
		"map16":              {0xde, 0, 1, 0xa0, 1},
		"map32":              {0xdf, 0, 0, 0, 1, 0xa0, 1},
		"timestamp 32":       {0xd6, 0xff, 1, 2, 3, 4},
		"timestamp 64":       {0xd7, 0xff, 1, 2, 3, 4, 5, 6, 7, 8},
		"timestamp 96":       {0xc7, 12, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		"as deep as allowed": nested(0x91, MaxDepth),
		"empty at the limit": append(bytes.Repeat([]byte{0x91}, MaxDepth-1), 0x90),
	}
	for name, data := range good {
		if err := Check(data); err != nil {
			t.Errorf("%s: % x: %v", name, data, err)
		}
		if n, err := CheckPrefix(append(slices.Clone(data), 0xc1, 0xc1)); err != nil || n != len(data) {
			t.Errorf("%s: CheckPrefix = %d, %v; want %d", name, n, err, len(data))
		}
	}

	bad := map[string][]byte{
		"nothing":                       {},
		"trailing byte":                 {0xc0, 0xc0},
		"reserved":                      {0xc1},
		"cut number":                    {0xcd, 1},
		"cut length":                    {0xda, 1},
		"cut count":                     {0xdf, 0xff, 0xff},
		"string too long":               {0xd9, 2, 'x'},
		"4 GiB of binary":               {0xc6, 0xff, 0xff, 0xff, 0xff},
		"map of 4 billion":              {0xdf, 0xff, 0xff, 0xff, 0xff},
		"array of 4 billion":            {0xdd, 0xff, 0xff, 0xff, 0xff, 1, 2, 3},
		"map of half an entry":          {0x81, 0xa0},
		"count that eats an outer one":  {0x92, 0x92, 1, 2},
		"too deep":                      nested(0x91, MaxDepth+1),
		"too deep in maps":              append(bytes.Repeat([]byte{0x81, 0xa0}, MaxDepth+1), 0xc0),
		"too deep and empty":            nested(0x91, MaxDepth)[:MaxDepth:MaxDepth],
		"two megabytes deep":            nested(0x91, 2<<20),
		"foreign extension":             {0xd4, 5, 1},
		"interned string":               {0xd4, 0x80, 0},
		"timestamp of 1 byte":           {0xd4, 0xff, 1},
		"timestamp of 16 bytes":         append([]byte{0xd8, 0xff}, make([]byte, 16)...),
		"timestamp cut":                 {0xd7, 0xff, 1, 2},
		"extension cut before its type": {0xc7, 4},
		"extension cut in its length":   {0xc8, 0},
		"fixext cut before its type":    {0xd6},
	}
	bad["too deep and empty"] = append(bad["too deep and empty"], 0x90)
	for name, data := range bad {
		if err := Check(data); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: error %v, want ErrMalformed", name, err)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	data, err := Marshal(map[string]any{"a": []int{1, 2, 3}, "b": map[string]string{"c": "d"}})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := Check(data); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// msgpackBytes draws valid msgpack with, often, some of its bytes changed, cut or doubled.
func msgpackBytes(t *rapid.T) []byte {
	data, err := msgpack.Marshal(drawValue(t, 4))
	if err != nil {
		t.Fatal(err)
	}
	for range rapid.IntRange(0, 3).Draw(t, "changes") {
		at := rapid.IntRange(0, len(data)).Draw(t, "at")
		switch c := rapid.Byte().Draw(t, "byte"); rapid.IntRange(0, 2).Draw(t, "change") {
		case 0:
			data = slices.Insert(data, at, c)
		case 1:
			data = data[:at]
		case 2:
			if at < len(data) {
				data[at] = c
			}
		}
	}
	return data
}

func drawValue(t *rapid.T, depth int) any {
	most := 8
	if depth == 0 {
		most = 5
	}
	switch rapid.IntRange(0, most).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Int64().Draw(t, "int")
	case 2:
		return rapid.Float64().Draw(t, "float")
	case 3:
		return rapid.StringN(0, 40, 80).Draw(t, "string")
	case 4:
		return rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes")
	case 5:
		return rapid.Bool().Draw(t, "bool")
	case 6:
		s := make([]any, rapid.IntRange(0, 20).Draw(t, "len"))
		for i := range s {
			s[i] = drawValue(t, depth-1)
		}
		return s
	case 7:
		m := map[string]any{}
		for range rapid.IntRange(0, 20).Draw(t, "len") {
			m[rapid.StringN(0, 3, 9).Draw(t, "key")] = drawValue(t, depth-1)
		}
		return m
	default:
		return rapid.MapOfN(rapid.Int16(), rapid.String(), 0, 5).Draw(t, "map")
	}
}

// The library's own Skip, which walks values without decoding them, is the dumb version of Check; it knows neither
// depth nor extensions.
func TestCheckAgreesWithSkip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := msgpackBytes(t)
		r := bytes.NewReader(data)
		skipErr := msgpack.NewDecoder(r).Skip()
		n, err := CheckPrefix(data)
		if err == nil && (skipErr != nil || n != len(data)-r.Len()) {
			t.Fatalf("% x: Check says %d bytes, Skip %d, %v", data, n, len(data)-r.Len(), skipErr)
		}
		if err != nil && skipErr == nil && !bytes.ContainsAny(data, "\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8") {
			t.Fatalf("% x: Skip accepts it, Check says %v", data, err)
		}
	})
}
