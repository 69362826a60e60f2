package onda

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDir(t *testing.T) {
	t.Parallel()
	root, outside := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(root, "sub", "a b.lpcm"), filepath.Join(outside, "secret")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	src := Dir(root)
	for _, path := range []string{
		"sub/a b.lpcm", "./sub/a b.lpcm", "sub/../sub/a b.lpcm", filepath.Join(root, "sub", "a b.lpcm"),
		"file://" + filepath.ToSlash(root) + "/sub/a%20b.lpcm", "file://localhost" + filepath.ToSlash(root) + "/sub/a%20b.lpcm",
	} {
		obj, err := src.Open(t.Context(), path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		buf := make([]byte, 2)
		if _, err := obj.ReadAt(buf, 1); err != nil || string(buf) != "bc" || obj.Size() != 3 {
			t.Errorf("%s: %q of %d bytes, %v", path, buf, obj.Size(), err)
		}
		if err := obj.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{
		"", "..", "../x", "sub/../../x", filepath.Join(outside, "secret"), "file://" + filepath.ToSlash(outside) + "/secret",
		"s3://bucket/key", "file://elsewhere/a", "https://example.org/a",
	} {
		_, err := src.Open(t.Context(), path)
		if !errors.Is(err, ErrPath) {
			t.Errorf("%q: got %v", path, err)
		}
	}
	if _, err := src.Open(t.Context(), "link"); err == nil {
		t.Error("a link out of the root was followed")
	}
	if _, err := src.Open(t.Context(), "sub"); err == nil {
		t.Error("a folder was opened")
	}
	if _, err := src.Open(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := src.Open(ctx, "sub/a b.lpcm"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A worker tells a mount that is away from a file that is missing by the whole path in the error.
func TestErrorsHaveTheWholePath(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	for _, dir := range []string{root, filepath.Join(root, "away"), "."} {
		for _, src := range []Source{Dir(dir), DirWithLinks(dir)} {
			_, err := src.Open(t.Context(), "rec/a.lpcm")
			whole, failed := filepath.Abs(filepath.Join(dir, "rec", "a.lpcm"))
			var missing *fs.PathError
			if failed != nil || !errors.As(err, &missing) || missing.Path != whole || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want an error that names %s", dir, err, whole)
			}
		}
	}
}

// A path that can lead to no file is bad by itself: its recording is dropped, and the others are not.
func TestPathsOfNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink("round", filepath.Join(dir, "round")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"0.lpcm/x.lpcm", strings.Repeat("a", 300) + ".lpcm", "a\x00b", "round"} {
		m := newMade(t).add(1, nil).add(2, func(s *Signal) { s.Path = path }).labelled()
		m.source()
		for _, name := range []string{"onda.signals.arrow", "onda.annotations.arrow", "0.lpcm"} {
			write(t, dir, name, string(m.files[name]))
		}
		for _, links := range []bool{false, true} {
			p := Params{Dir: dir, AllowLinks: links}
			_, err := New(t.Context(), p, Config{})
			mention(t, err, ErrPath, id(2).String())
			p.OnBad = OnBadDrop
			if got := open(t, p, Config{}).Report(); got.Kept != 1 {
				t.Errorf("%.20q: %v", path, got)
			}
		}
	}
}
