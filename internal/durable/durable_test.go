package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// All files are on the disk before their folders, these before the new name, and that one when Rename returns.
func TestOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := errors.Join(os.MkdirAll(filepath.Join(from, "below"), 0o755),
		os.WriteFile(filepath.Join(from, "a"), nil, 0o644),
		os.WriteFile(filepath.Join(from, "below", "b"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	var synced []string
	there := func() bool { _, err := os.Stat(to); return err == nil }
	err := rename(from, to, func(f *os.File) error {
		name, err := filepath.Rel(dir, f.Name())
		synced = append(synced, name)
		if last := name == "."; last != there() {
			t.Errorf("%s is synced, and the new name is there: %v", name, there())
		}
		return err
	})
	want := []string{"from/below/b", "from/below", "from/a", "from", "."}
	if err != nil || !slices.Equal(synced, want) {
		t.Errorf("synced %v, %v; want %v", synced, err, want)
	}
}

// What cannot be brought to the disk does not get the name.
func TestSyncFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.WriteFile(from, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space")
	if err := rename(from, to, func(*os.File) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has the name: %v", err)
	}
	if err := Rename(from, to); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(to); string(got) != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
