//go:build linux

package process_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// What a data set in another process says of its data is in the origin, and every process that opens it later, in the
// place of one that died, must say the same.
func TestFingerprint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	t.Setenv("JETBATCH_TEST_DATA", path) // of the processes
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("93")
	s, _, err := open(t, "serve", 1)
	if err != nil {
		t.Fatal(err)
	}
	k := kind.Of(s.Definition())
	inst, release, err := k.Acquire(t.Context(), []byte(`{"dir":"/data"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if o := inst.Origin; o.Data == "" || len(o.Params) != 0 || len(o.Parts) != 1 ||
		o.Parts[0].Value != "93" || o.Summary != "kept all" {
		t.Fatalf("origin %+v", o)
	}
	kill := func() {
		t.Helper()
		pid, err := materialized(t.Context(), inst, jobPid)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	next := func() (err error) {
		for range 2 { // the first may meet the death itself
			if _, err = materialized(t.Context(), inst, 7); err == nil || errors.Is(err, kind.ErrUnopened) {
				break
			}
		}
		return err
	}
	kill()
	if err := next(); err != nil {
		t.Fatalf("the data are as before: %v", err)
	}
	kill()
	write("96")
	if err := next(); !errors.Is(err, kind.ErrUnopened) {
		t.Fatalf("a process that has opened other data makes a batch: %v", err)
	}
	changed, releaseChanged, err := k.Reopen(t.Context(), []byte(`{"dir":"/data"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer releaseChanged()
	if changed.Origin.Digest == inst.Origin.Digest {
		t.Error("the origin is as before")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, _, err = k.Acquire(t.Context(), []byte(`{"other":1}`))
	var missing *fs.PathError
	if !errors.As(err, &missing) || missing.Path != path || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is missing: %v", err)
	}
	write("93")
}
