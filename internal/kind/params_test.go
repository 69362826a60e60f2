package kind

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

func exact(t *testing.T, params string) string {
	t.Helper()
	text, err := Exact(json.RawMessage(params))
	if err != nil {
		t.Fatalf("%s: %v", params, err)
	}
	return string(text)
}

// The first of each line is the form of all of them.
func TestExact(t *testing.T) {
	t.Parallel()
	lines := [][]string{
		{``, `null`, ` null `},
		{`{"a":1,"b":{"c":2,"d":[3,null]}}`, ` { "b" : {"d":[3,null],"c":2}, "a":1 }`},
		{`1`, `1.0`, `1e0`, `10E-1`, `0.1e+1`, `1e000000000000000000000000`},
		{`0`, `0.0`, `0e99999999999999999999`},
		{`-0`, `-0.0`}, {`0.1`, `0.10`}, {`-1e-7`, `-1E-7`}, {`1e+22`, `1e22`, `10000000000000000000000`},
		{`9007199254740992`, `9007199254740992.0`}, {`9007199254740993`, `9007199254740993.0`, `9.007199254740993e15`},
		{`18446744073709551615`}, {`18446744073709552000`, `1.8446744073709552e19`},
		{`90071992547409930`}, {`-9007199254740993`},
		{`1000000000000000055511151231257827e-34`, `0.1000000000000000055511151231257827`},
		{`1e999`, `10e998`}, {`1e-999`, `0.1e-998`}, {`1e99999999999999999999`}, {`1e-99999999999999999999`},
		{`[]`}, {`{}`}, {`""`}, {`false`}, {`{"x":null}`}, {`{"x":false}`},
		{`"\ud800"`}, {`"\udc80"`}, {"\"\x80\""}, {"\"\x81\""}, {`{"\ud800":1}`}, {`{"\ud801":1}`},
	}
	forms := make(map[string]string) // by the parts that the origin has
	for _, line := range lines {
		for _, params := range line {
			if got := exact(t, params); got != line[0] {
				t.Errorf("%s became %s, want %s", params, got, line[0])
			}
		}
		parts := fmt.Sprintf("%q", partsOf(json.RawMessage(line[0])))
		if other, ok := forms[parts]; ok && parts != "[]" { // no parameters at all
			t.Errorf("%s and %s have the parts %s", other, line[0], parts)
		}
		forms[parts] = line[0]
	}
	for _, params := range []string{`{`, `1 2`, `01`, `[1,]`, `NaN`} {
		if got, err := Exact(json.RawMessage(params)); err == nil {
			t.Errorf("%s became %s", params, got)
		}
	}
}

// FuzzExact writes anything as parameters, which come from trainers:
//   - what is accepted is JSON, and has the form that it became;
//   - a number has its value afterwards.
func FuzzExact(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1.0,2e3]}`, `9007199254740993`, `-0.00012e-3`, `0E40749407407494074974`, `1e400`, `"\ud800"`,
		`{"a":1,"a":2}`, `[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		once, err := Exact(data)
		if err != nil || len(once) == 0 {
			return
		}
		twice, err := Exact(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%q became %q, and then %q, %v", data, once, twice, err)
		}
		var was, is json.Number
		if len(data) > 64 || strings.ContainsAny(string(data), `"`) || json.Unmarshal(data, &was) != nil {
			return
		}
		if d, ok := decimalOf(string(was)); !ok || d.exp > 1000 || d.exp < -1000 {
			return
		}
		if err := json.Unmarshal(once, &is); err != nil {
			t.Fatal(err)
		}
		a, ok := new(big.Rat).SetString(string(was))
		if !ok { // a zero with an exponent that Rat has no room for
			return
		}
		b, ok := new(big.Rat).SetString(string(is))
		if !ok || a.Cmp(b) != 0 {
			t.Fatalf("%s became %s", was, is)
		}
	})
}
