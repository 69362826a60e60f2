package legible

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode"
)

func TestText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct{ text, line string }{
		"plain":                 {"plain", "plain"},
		"größer als 3 µs, 日本":   {"größer als 3 µs, 日本", "größer als 3 µs, 日本"},
		"\x1b[2Jgone":           {"·[2Jgone", "·[2Jgone"},
		"\u009b31mred":          {"·31mred", "·31mred"},
		"a\u202eb\u2066c\ufeff": {"a·b·c·", "a·b·c·"},
		"one\ntwo\tthree":       {"one\ntwo\tthree", "one two three"},
		"over\rwritten\b\x7f":   {"over·written··", "over written··"},
		"bad \xff bytes":        {"bad \ufffd bytes", "bad \ufffd bytes"},
		"":                      {"", ""},
	} {
		if got := Text(in); got != want.text {
			t.Errorf("text of %q: %q, want %q", in, got, want.text)
		}
		if got := Line(in); got != want.line {
			t.Errorf("line of %q: %q, want %q", in, got, want.line)
		}
	}
}

// FuzzJSON: what JSON returns decodes to the very value, and has no rune that a terminal obeys.
func FuzzJSON(f *testing.F) {
	f.Add("a\u009b31m\u202e\U000e0001\x7f\x1b[2J")
	f.Fuzz(func(t *testing.T, s string) {
		data, err := json.Marshal([]string{s})
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		var out bytes.Buffer
		if _, err := JSONWriter(&out).Write(data); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got[0] != want[0] {
			t.Fatalf("%q became %q, %v", want, got, err)
		}
		for _, r := range out.String() {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q has %q", out.String(), r)
			}
		}
	})
}
