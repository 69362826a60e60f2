package client

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// The lock of a process that ended, however, is free and holds its secret; that of one that lives is not.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	get := func() *lock {
		t.Helper()
		l, err := getLock(path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	free := func(want string) *lock {
		t.Helper()
		l := get()
		if l == nil {
			t.Fatal("somebody has the lock")
		}
		if got := l.ended(); got != want {
			t.Fatalf("found %q, want %q", got, want)
		}
		return l
	}
	first := free("")
	if l := get(); l != nil || l.ended() != "" {
		t.Fatal("two have the lock")
	}
	a, b := wire.NewSecret(), wire.NewSecret()
	first.sign(a)
	if get() != nil {
		t.Fatal("two have the lock")
	}
	_ = first.file.Close() // as the system does for a process that is killed
	free(a).abandon()      // it could not open the batcher
	second := free(a)
	second.sign(b)
	second.abandon() // nobody heard that it leaves
	third := free(b)
	third.sign(a)
	third.remove()
	free("").abandon()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a lock that says nothing is left: %v", err)
	}
	third.remove() // closing twice
}

// The files of readers that ended long ago go when another one begins, whatever its batcher. Those of readers that
// live, however old, and of ones that ended just now stay.
func TestOldLocksGo(t *testing.T) {
	dir := t.TempDir()
	get := func(name string) *lock {
		t.Helper()
		l, err := getLock(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		l.sign(wire.NewSecret())
		return l
	}
	old, recent, lives := get("old"), get("recent"), get("lives")
	defer lives.remove()
	old.abandon()
	recent.abandon()
	now := time.Now()
	for _, l := range []*lock{old, lives} {
		if err := os.Chtimes(l.path, time.Time{}, now.Add(-useless)); err != nil {
			t.Fatal(err)
		}
	}
	sweepLocks(dir, now)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != "lives" || entries[1].Name() != "recent" {
		t.Errorf("there are %v, %v", entries, err)
	}
}

// Of the batchers that one process opens within a minute, one looks through the files.
func TestLocksAreSweptOnceAMinute(t *testing.T) {
	var s sweep
	now := time.Now()
	sweeps := 0
	for i := range 100 {
		if s.due(now.Add(time.Duration(i) * touchEvery / 100)) {
			sweeps++
		}
	}
	if sweeps != 1 || !s.due(now.Add(touchEvery)) {
		t.Errorf("swept %d times within a minute", sweeps)
	}
}

// The file of a reader that lives is touched, so that it is known for how long the reader has not lived.
func TestLocksAreTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := getLock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.remove()
	l.sign(wire.NewSecret())
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*touchEvery/2)
		defer cancel()
		l.tend(ctx)
		if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) > touchEvery {
			t.Errorf("touched at %v, %v", info.ModTime(), err)
		}
	})
}

// Others' folders are not used: who writes there could have this user's secrets.
func TestLockFolderOfOthers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, err := lockFolder()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := lockFolder(); err != nil || again != dir {
		t.Fatalf("%s, %v", again, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := lockFolder(); err == nil {
		t.Error("a folder that others may read is used")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := lockFolder(); err == nil {
		t.Error("a link is used")
	}
}
