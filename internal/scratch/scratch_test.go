//go:build linux

package scratch

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func create(t *testing.T, name string) *Folder {
	t.Helper()
	f, err := New(name)
	if err == nil {
		err = os.MkdirAll(filepath.Join(f.Path, "a", "b"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func there(t *testing.T, dir string) bool {
	t.Helper()
	_, err := os.Lstat(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// The folder of a process that was killed goes when another process makes one of any name; one that is in use stays,
// and so does what is not ours.
func TestFoldersOfKilledProcesses(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	killed := create(t, "embedded")
	_ = killed.lock.Close() // as the kernel does
	used := create(t, "demo")
	if there(t, killed.Path) {
		t.Error("the folder of a killed process is left")
	}
	other := filepath.Join(tmp, "jetbatch-data-1")
	if err := os.MkdirAll(filepath.Join(other, "recordings"), 0o700); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(t.TempDir(), "jetbatch-of-somebody")
	gone := create(t, "demo")
	_ = gone.lock.Close()
	if err := os.Rename(gone.Path, linked); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(linked, filepath.Join(tmp, "jetbatch-link-1")); err != nil {
		t.Fatal(err)
	}
	last := create(t, "embedded")
	for _, dir := range []string{used.Path, other, linked, filepath.Join(linked, "a"), last.Path} {
		if !there(t, dir) {
			t.Errorf("%s is gone", dir)
		}
	}
	for range 2 {
		if err := last.Close(); err != nil || there(t, last.Path) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// A process may be killed before its folder has the file that it locks, or when it has removed that file.
func TestEmptyFoldersOfKilledProcesses(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	empty, kept := create(t, "demo"), create(t, "demo")
	for _, f := range []*Folder{empty, kept} {
		if err := os.Remove(filepath.Join(f.Path, inUse)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(empty.Path, "a")); err != nil {
		t.Fatal(err)
	}
	sweep()
	if !there(t, empty.Path) {
		t.Fatal("a folder that is just being made is gone")
	}
	before := time.Now().Add(-2 * young)
	for _, f := range []*Folder{empty, kept} {
		if err := os.Chtimes(f.Path, before, before); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if there(t, empty.Path) || !there(t, kept.Path) {
		t.Error("what is empty and old goes, and nothing else")
	}
}
