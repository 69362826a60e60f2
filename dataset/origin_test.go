package dataset_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/schema"
)

type folderParams struct {
	Dir  string `json:"dir"`
	Seed int    `json:"seed"`
}

// folder is a data set with a fingerprint.
type folder struct {
	dataset.Funcs[int, int, []byte]
	print func() (dataset.Fingerprint, error)
}

func (f folder) Start() (int, error) { return 0, nil }

func (f folder) Fingerprint(context.Context) (dataset.Fingerprint, error) { return f.print() }

func folders(print func(dir string) (dataset.Fingerprint, error)) dataset.Definition {
	return dataset.Define("folder", func(_ context.Context, p folderParams) (folder, error) {
		return folder{dataset.Funcs[int, int, []byte]{
			NextFunc:        func(s int) (int, int, error) { return s, s + 1, nil },
			MaterializeFunc: func(context.Context, int) ([]byte, error) { return []byte(p.Dir), nil },
		}, func() (dataset.Fingerprint, error) { return print(p.Dir) }}, nil
	})
}

// The reference stamps its states as the service does, and refuses those of other parameters or data.
func TestSequentialOfOrigin(t *testing.T) {
	t.Parallel()
	def := folders(func(dir string) (dataset.Fingerprint, error) {
		n := strings.TrimSuffix(dir, "-copy")
		return dataset.Fingerprint{Digest: n, Parts: []dataset.Part{{Name: "recordings", Value: n}}, Ignore: []string{"dir"}}, nil
	})
	open := func(p folderParams) *dataset.Reference[[]byte] {
		t.Helper()
		ref, err := dataset.SequentialOf[[]byte](t.Context(), def, p)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	step, err := open(folderParams{"93", 1}).Take(t.Context(), schema.State{})
	if err != nil || step.Next.Origin == "" {
		t.Fatalf("%+v, %v", step, err)
	}
	inst, release, err := kind.Of(def).Acquire(t.Context(), []byte(`{"dir":"93","seed":1}`))
	if err != nil {
		t.Fatal(err)
	}
	defer kind.Of(def).CloseIdle()
	defer release()
	if inst.Origin.Digest != step.Next.Origin {
		t.Errorf("the service says %s, the reference %s", inst.Origin.Digest, step.Next.Origin)
	}
	if _, err := open(folderParams{"93-copy", 1}).Take(t.Context(), step.Next); err != nil {
		t.Errorf("the same elsewhere: %v", err)
	}
	for _, p := range []folderParams{{"96", 1}, {"93", 2}} {
		ref := open(p)
		if _, err := ref.Take(t.Context(), step.Next); !errors.Is(err, dataset.ErrWrongData) || !strings.Contains(err.Error(), "seed is ") {
			t.Errorf("%+v: %v", p, err)
		}
		state := step.Next
		state.Origin = ""
		again, err := ref.Take(t.Context(), state)
		if err != nil || again.Next.Origin == "" || again.Next.Origin == step.Next.Origin {
			t.Errorf("%+v without an origin: %+v, %v", p, again, err)
		}
	}
}

// known is a data set of bytes that only opens.
type known struct{ dataset.Bytes }

func (known) Close() error { return nil }

// trueByDefault does not read false again after it wrote it.
type trueByDefault struct {
	Shuffle bool `json:"shuffle,omitempty"`
	Seed    int  `json:"seed"`
}

func (p *trueByDefault) UnmarshalJSON(data []byte) error {
	type plain trueByDefault
	p.Shuffle = true
	return json.Unmarshal(data, (*plain)(p))
}

// Parameters are the same, to a running batcher and to the origin of a state, where the author gets the same.
func TestParametersThatAreTheSame(t *testing.T) {
	t.Parallel()
	type params struct {
		Seed    uint64          `json:"seed"`
		Rate    float64         `json:"rate"`
		All     bool            `json:"all"`
		Shuffle *bool           `json:"shuffle,omitempty"`
		Names   []string        `json:"names"`
		Raw     json.RawMessage `json:"raw,omitempty"`
	}
	byBytes := dataset.DefineBytes("bytes", 1, func(context.Context, json.RawMessage) (dataset.Bytes, error) {
		return known{}, nil
	})
	typed := dataset.Define("typed", opened[params])
	defaults := dataset.Define("defaults", opened[trueByDefault])
	for _, tt := range []struct {
		def  dataset.Definition
		a, b string
		same bool
	}{
		{byBytes, `{"seed":9007199254740992}`, `{"seed":9007199254740993}`, false},
		{byBytes, `{"shuffle":false}`, `{}`, false},
		{byBytes, `{"x":null}`, `{}`, false},
		{byBytes, `{"a":1,"b":1.0}`, `{"b":1e0,"a":1}`, true},
		{byBytes, ``, `null`, true},
		{typed, `{"seed":0,"rate":0,"all":false,"names":null,"shuffle":null}`, ``, true},
		{typed, `{"rate":1}`, `{"rate":1.0,"seed":0}`, true},
		{typed, `{"seed":9007199254740992}`, `{"seed":9007199254740993}`, false},
		{typed, `{"shuffle":false}`, `{}`, false},
		{typed, `{"shuffle":false}`, `{"seed":0,"shuffle":false,"all":false}`, true},
		{typed, `{"names":[]}`, `{}`, false},
		{typed, `{"raw":9007199254740992}`, `{"raw":9007199254740993}`, false},
		{typed, `{"raw":{"a":1,"b":2}}`, `{"raw":{"b":2,"a":1}}`, true},
		{typed, `{"raw":0}`, `{}`, false},
		{defaults, `{"shuffle":false}`, `{}`, false},
		{defaults, `{"seed":0}`, `{}`, true},
		{defaults, `{"shuffle":false}`, `{"shuffle":false,"seed":0}`, true},
		{dataset.Define("number", opened[int]), `0`, ``, true},
		{dataset.Define("number", opened[*int]), `0`, ``, false},
		{dataset.Define("map", opened[map[string]any]), `{"x":false}`, `{}`, false},
	} {
		k := kind.Of(tt.def)
		key := func(params string) string {
			normal, err := k.NormalFunc(json.RawMessage(params))
			if err != nil {
				t.Fatalf("%s: %v", params, err)
			}
			return string(normal)
		}
		if a, b := key(tt.a), key(tt.b); (a == b) != tt.same {
			t.Errorf("%s: %s and %s are %s and %s", k.Name, tt.a, tt.b, a, b)
		}
		if a, b := originOf(t, tt.def, tt.a), originOf(t, tt.def, tt.b); (a == b) != tt.same {
			t.Errorf("%s: %s and %s are of origins %s and %s", k.Name, tt.a, tt.b, a, b)
		}
	}
	for params, want := range map[string]string{ // of states that were saved
		``: "bd85bcdb8d4e613a79cb62d0903946ad", `{}`: "bd85bcdb8d4e613a79cb62d0903946ad",
		`{"b":[1.50,1e3,{"z":"<é>","a":true}],"a":12345678901}`: "4f71b70f669eb0162a0e767c750b7419",
		`{"lr":0.1,"x":1e22,"y":-1E-7}`:                         "6d95cd8e23a982632920996fc0e90f52",
	} {
		if got := originOf(t, byBytes, params); got != want {
			t.Errorf("%s is of origin %s and was of %s", params, got, want)
		}
	}
	if got, want := originOf(t, typed, `{"seed":9007199254740993}`), "fd53d4c2baaa791d587411fc76bde54e"; got != want {
		t.Errorf("origin %s, and it was %s", got, want)
	}
}

func originOf(t *testing.T, def dataset.Definition, params string) string {
	t.Helper()
	defer kind.Of(def).CloseIdle()
	inst, release, err := kind.Of(def).Acquire(t.Context(), json.RawMessage(params))
	if err != nil {
		t.Fatalf("%s: %v", params, err)
	}
	defer release()
	return inst.Origin.Digest
}

// A fingerprint that fails or panics is an opening that failed, wherever the data set is opened.
func TestFingerprintFails(t *testing.T) {
	t.Parallel()
	away := errors.New("the mount is away")
	for name, def := range map[string]dataset.Definition{
		"error": folders(func(string) (dataset.Fingerprint, error) { return dataset.Fingerprint{}, away }),
		"panic": folders(func(string) (dataset.Fingerprint, error) { panic("index out of range") }),
		"bytes": dataset.DefineBytes("folder", 1, func(context.Context, json.RawMessage) (dataset.Bytes, error) {
			return struct {
				known
				dataset.Fingerprinter
			}{}, nil
		}),
	} {
		var panicked *kind.PanicError
		check := func(where string, err error) {
			t.Helper()
			if !errors.Is(err, away) && !errors.As(err, &panicked) || !strings.Contains(err.Error(), "open data set folder") {
				t.Errorf("%s, %s: %v", name, where, err)
			}
		}
		_, err := dataset.SequentialOf[any](t.Context(), def, folderParams{})
		check("reference", err)
		_, _, err = kind.Of(def).Acquire(t.Context(), nil)
		check("service", err)
	}
}
