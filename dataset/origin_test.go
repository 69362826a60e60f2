package dataset_test

import (
	"context"
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

// A fingerprint that fails or panics is an opening that failed, wherever the data set is opened.
func TestFingerprintFails(t *testing.T) {
	t.Parallel()
	away := errors.New("the mount is away")
	for name, def := range map[string]dataset.Definition{
		"error": folders(func(string) (dataset.Fingerprint, error) { return dataset.Fingerprint{}, away }),
		"panic": folders(func(string) (dataset.Fingerprint, error) { panic("index out of range") }),
	} {
		var panicked *kind.PanicError
		check := func(where string, err error) {
			t.Helper()
			if !errors.Is(err, away) && !errors.As(err, &panicked) || !strings.Contains(err.Error(), "open data set folder") {
				t.Errorf("%s, %s: %v", name, where, err)
			}
		}
		_, err := dataset.SequentialOf[[]byte](t.Context(), def, folderParams{})
		check("reference", err)
		_, _, err = kind.Of(def).Acquire(t.Context(), nil)
		check("service", err)
	}
}
