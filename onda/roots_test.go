package onda

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
)

// What a trainer's parameters name is opened only where the process may: folder, URLs, copies, and what links lead to.
func TestDataRoot(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{})
	secret := t.TempDir()
	def := DefinitionWith(Name, Config{Remote: Dir(secret)}).WithRoots(dir, "https://data.example/eeg")
	open := func(params string) error {
		t.Helper()
		i, err := kind.Of(def).OpenFunc(t.Context(), []byte(params))
		if err == nil {
			err = i.Close()
		}
		return err
	}
	quoted := func(path string) string { return `"` + filepath.ToSlash(path) + `"` }
	if err := open(`{"dir":` + quoted(dir) + `}`); err != nil {
		t.Fatal(err)
	}
	for _, params := range []string{
		`{"dir":` + quoted(secret) + `}`, `{"dir":"/"}`, `{"dir":"s3://bucket/eeg"}`,
		`{"dir":"https://169.254.169.254/latest/meta-data"}`, `{"dir":"https://data.example/eeg2"}`,
		`{"dir":` + quoted(dir) + `,"allow_urls":["https://internal.example/"]}`,
		`{"dir":` + quoted(dir) + `,"cache_dir":` + quoted(secret) + `}`,
		`{"dir":` + quoted(dir) + `,"cache_dir":` + quoted(filepath.Join(dir, "..", "new")) + `}`,
	} {
		if err := open(params); !errors.Is(err, dataset.ErrOutside) {
			t.Errorf("%s: %v", params, err)
		}
	}
	table := filepath.Join(dir, "onda.signals.arrow")
	if err := os.Rename(table, filepath.Join(secret, "table")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(secret, "table"), table); err != nil {
		t.Fatal(err)
	}
	// However the link is spelled.
	for _, name := range []string{"onda.signals.arrow", table, "file://" + filepath.ToSlash(table)} {
		err := open(`{"dir":` + quoted(dir) + `,"allow_links":true,"signals":` + quoted(name) + `}`)
		if !errors.Is(err, dataset.ErrOutside) {
			t.Errorf("behind a link, as %s: %v", name, err)
		}
	}
}
