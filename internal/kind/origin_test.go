package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// printed is an instance that has a fingerprint alone.
type printed struct {
	Instance
	print Fingerprint
	err   error
}

func (p printed) Fingerprint(context.Context) (Fingerprint, error) { return p.print, p.err }

func originOf(t *testing.T, params string, print Fingerprint) Origin {
	t.Helper()
	k := &Kind{Name: "ecg", NormalFunc: Exact}
	o, err := k.OriginOf(t.Context(), printed{print: print}, json.RawMessage(params))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOriginDifferences(t *testing.T) {
	t.Parallel()
	print := func(digest string, parts ...string) Fingerprint {
		f := Fingerprint{Digest: digest, Ignore: []string{"dir"}}
		for i := 0; i < len(parts); i += 2 {
			f.Parts = append(f.Parts, Part{parts[i], parts[i+1]})
		}
		return f
	}
	long := strings.Repeat("é", 200)
	const digestA, digestB = "0123456789abcdef0123456789abcdef", "1123456789abcdef0123456789abcdef"
	base := print("a", "recordings", "93", "signals", digestA)
	for _, tt := range []struct {
		name, was, is string
		before, after Fingerprint
		want          []string
	}{
		{"nothing", `{"seed":1,"n":18446744073709551615}`, ` {"n":18446744073709551615, "seed":1}`, base, base, nil},
		{"a zero", `{"seed":0}`, `{}`, base, base, []string{"parameter seed was 0 and is not set"}},
		{"no parameters", ``, `null`, base, base, nil},
		{"a parameter that does not matter", `{"dir":"/a"}`, `{"dir":"/b"}`, base, base, nil},
		{"keys of an object", `{"split":{"a":1,"b":2}}`, `{"split":{"b":2,"a":1}}`, base, base, nil},
		{"parameters", `{"stride":"10s","seed":1,"old":true}`, `{"stride":"5s","seed":1,"new":[1]}`, base, base, []string{
			"parameter old was true and is not set", "parameter stride was 10s and is 5s", "parameter new was not set and is [1]"}},
		{"a large number", `{"n":18446744073709551615}`, `{"n":18446744073709551614}`, base, base, []string{
			"parameter n was 18446744073709551615 and is 18446744073709551614"}},
		{"a scalar", `1`, `2`, base, base, []string{"parameter parameters was 1 and is 2"}},
		{"parts", `{}`, `{}`, base, print("b", "recordings", "96", "signals", digestB),
			[]string{"recordings was 93 and is 96", "signals differ"}},
		{"no part", `{}`, `{}`, print("a"), print("b"), []string{"the fingerprint of the data differs"}},
		{"a fingerprint that is new", `{}`, `{}`, Fingerprint{}, print("b"), []string{"the fingerprint of the data differs"}},
	} {
		was, is := originOf(t, tt.was, tt.before), originOf(t, tt.is, tt.after)
		if got := is.Differences(&was); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if (was.Digest == is.Digest) != (tt.want == nil) {
			t.Errorf("%s: digests %s and %s", tt.name, was.Digest, is.Digest)
		}
	}
	unknown := originOf(t, `{"seed":1}`, base).Differences(nil)
	if want := []string{"what it was is not known any more", "parameter seed is 1", "recordings is 93",
		"signals is " + digestA}; !slices.Equal(unknown, want) {
		t.Errorf("%q", unknown)
	}
	a, b := originOf(t, fmt.Sprintf(`{"x":%q}`, long+"1"), base), originOf(t, fmt.Sprintf(`{"x":%q}`, long+"2"), base)
	if got := b.Differences(&a); len(got) != 1 || len(got[0]) > 2*maxText+64 || !utf8.ValidString(got[0]) {
		t.Errorf("%q", got)
	}
}

// Files that have a part of their own, or are in ranges, are named in the place of "files differ".
func TestOriginNamesFiles(t *testing.T) {
	t.Parallel()
	sum := func(n int) string { return fmt.Sprintf("%031xa", n) }
	print := func(all int, parts ...any) Fingerprint {
		f := Fingerprint{Digest: sum(all), Parts: []Part{{"recordings", "3"}, {"files", sum(all)}}}
		for i := 0; i < len(parts); i += 2 {
			f.Parts = append(f.Parts, Part{parts[i].(string), sum(parts[i+1].(int))})
		}
		return f
	}
	var many, others []any
	for i := range 20 {
		many, others = append(many, fmt.Sprint("file ", i), i), append(others, fmt.Sprint("file ", i), i+100)
	}
	ranges := print(1, "files before b", 1, "files from b to before e", 2, "files from e on", 3)
	for _, tt := range []struct {
		name    string
		was, is Fingerprint
		want    []string
	}{
		{"each", print(1, "file a", 1, "file b c", 2, "file d", 3), print(2, "file a", 4, "file d", 3, "file e", 5),
			[]string{"file a changed", "file b c is gone", "file e is new"}},
		{"a range", ranges, print(2, "files before b", 1, "files from b to before e", 4, "files from e on", 3),
			[]string{"files from b to before e differ"}},
		{"a range that lost its beginning, and one that was split", ranges,
			print(2, "files before e", 1, "files from e on", 3), []string{"files before e differ"}},
		{"every range", ranges, print(2, "files before c", 7, "files from c on", 8), []string{"files differ"}},
		{"few that have become many", print(2, "file a", 1), ranges, []string{"files differ"}},
		{"a description without files", print(2), ranges, []string{"files differ"}},
		{"no file any more", print(1, "file a", 1), print(2), []string{"files differ"}},
		{"what is no file", print(1), Fingerprint{Digest: sum(2), Parts: []Part{
			{"recordings", "3"}, {"files", sum(1)}, {"file size", "7"}}}, []string{"file size was not set and is 7"}},
		{"more than anybody reads", print(1, many...), print(2, others...), []string{"file 0 changed", "file 1 changed",
			"file 2 changed", "file 3 changed", "file 4 changed", "file 5 changed", "file 6 changed", "file 7 changed",
			"and 12 more"}},
	} {
		was, is := originOf(t, ``, tt.was), originOf(t, ``, tt.is)
		if got := is.Differences(&was); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	o := originOf(t, ``, ranges)
	if got, want := o.Differences(nil)[1:], []string{"recordings is 3", "files is " + sum(1)}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Whatever an author says, a description is small.
func TestOriginIsBounded(t *testing.T) {
	t.Parallel()
	f := Fingerprint{Digest: strings.Repeat("d", 1<<20)}
	params := map[string]string{}
	for i := range 500 {
		f.Parts = append(f.Parts, Part{fmt.Sprint(i, strings.Repeat("n", 1000)), strings.Repeat("v\xff", 1000)})
		params[fmt.Sprint("p", i)] = strings.Repeat("w", 1000)
	}
	raw, err := json.Marshal(params)
	if err != nil {
		t.Fatal(err)
	}
	o := originOf(t, string(raw), f)
	data, err := json.Marshal(o)
	if err != nil || len(data) > 128<<10 || len(o.Digest) != 32 || len(o.Parts) != maxParts || len(o.Params) != maxParts {
		t.Fatalf("%d bytes, %d and %d parts, %v", len(data), len(o.Params), len(o.Parts), err)
	}
	params["p99"] = "another" // beyond the first, by name
	if raw, err = json.Marshal(params); err != nil {
		t.Fatal(err)
	}
	other := originOf(t, string(raw), f)
	if got := other.Differences(&o); other.Digest == o.Digest || len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func TestOriginErrors(t *testing.T) {
	t.Parallel()
	failed := errors.New("the mount is away")
	k := &Kind{Name: "ecg"}
	if _, err := k.OriginOf(t.Context(), printed{err: failed}, nil); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if _, err := k.OriginOf(t.Context(), printed{print: Fingerprint{Parts: []Part{{"a", "b"}}}}, nil); err == nil {
		t.Error("parts without a digest were accepted")
	}
}
