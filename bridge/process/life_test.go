//go:build linux

package process_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/bridge/process"
	"github.com/jetbatch/jetbatch/internal/kind"
)

func TestDeadlineKills(t *testing.T) {
	t.Parallel()
	inst, _ := acquire(t, `{}`)
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, late)
	defer cancel()
	if _, err := materialized(ctx, inst, jobHang); !errors.Is(err, late) {
		t.Fatalf("%v, want the context's cause", err)
	}
	if got, err := materialized(t.Context(), inst, 7); err != nil || !strings.HasPrefix(got, "777") {
		t.Fatalf("after it: %.20q, %v", got, err)
	}
}

// A process that takes longer to begin than a job may take is there for the next one, and not begun once more for each.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	gate := filepath.Join(t.TempDir(), "gate")
	pipe := func(path string) *os.File {
		t.Helper()
		err := syscall.Mkfifo(path, 0o600)
		f, failed := os.OpenFile(path, os.O_RDWR, 0)
		if err = errors.Join(err, failed); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	in, begun := pipe(gate), pipe(gate+".begun")
	let := func() {
		if _, err := in.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	let()
	s, _, err := open(t, "gate:"+gate, 1)
	if err != nil {
		t.Fatal(err)
	}
	inst, release, err := kind.Of(s.Definition()).Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := materialized(t.Context(), inst, jobDie); err == nil {
		t.Fatal("it lives")
	}
	late := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		_, err := io.ReadFull(begun, make([]byte, 2)) // that of the first, which is gone, and that of the second
		cancel(errors.Join(late, err))
	}()
	if _, err := materialized(ctx, inst, 7); !errors.Is(err, late) {
		t.Fatalf("%v, want the context's cause", err)
	}
	let()
	if got, err := materialized(t.Context(), inst, 7); err != nil || !strings.HasPrefix(got, "777") {
		t.Fatalf("%.20q, %v", got, err)
	}
	raw, err := begun.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	err = raw.Read(func(fd uintptr) bool { // without waiting
		n, _ = syscall.Read(int(fd), make([]byte, 1))
		return true
	})
	if err != nil || n > 0 {
		t.Errorf("a third process was begun (%v)", err)
	}
}

// A process that reads nothing holds up neither a large job nor its deadline.
func TestDeadlineKillsWhileWriting(t *testing.T) {
	t.Parallel()
	inst, _ := acquire(t, `{}`)
	pid, err := materialized(t.Context(), inst, jobPid)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(pid, &n); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, late)
	defer cancel()
	if _, _, err := inst.Materialize(ctx, make([]byte, 1<<20), nil); !errors.Is(err, late) {
		t.Fatalf("%v, want the context's cause", err)
	}
}

// A process that is killed while it has nothing to do, or iterates, is not missed: iterating is pure.
func TestKilledBetweenCalls(t *testing.T) {
	t.Parallel()
	s, _, err := open(t, "serve", 1)
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(20) {
		inst, release, err := kind.Of(s.Definition()).Acquire(t.Context(), json.RawMessage(fmt.Sprint(n)))
		if err != nil {
			t.Fatalf("open after a kill: %v", err)
		}
		pid, err := materialized(t.Context(), inst, jobPid)
		if err != nil {
			t.Fatalf("materialize: %v", err)
		}
		var p int
		if _, err := fmt.Sscan(pid, &p); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if job, _, err := inst.Next([]byte{n}); err != nil || job[0] != n {
			t.Fatalf("next after a kill: %v, %v", job, err)
		}
		pid, err = materialized(t.Context(), inst, jobPid)
		if err != nil {
			t.Fatalf("materialize: %v", err)
		}
		if _, err := fmt.Sscan(pid, &p); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		release() // the next opening is by other parameters
	}
}

func TestProcessesThatDoNotStart(t *testing.T) {
	t.Parallel()
	for how, want := range map[string]string{
		"mute": "exit status 7:\nno luck today", "old": "install them together", "wide": "4294967296; it has 32 bits",
	} {
		if _, _, err := open(t, how, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", how, err, want)
		}
	}
	command := []string{"x"}
	for _, cfg := range []process.Config{
		{}, {Name: "x"}, {Name: "no name", Command: command}, {Name: "x", Command: command, Slots: -1},
	} {
		if _, err := process.Open(t.Context(), cfg); !errors.Is(err, process.ErrBadConfig) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	_, err := process.Open(t.Context(), process.Config{Name: "x", Command: []string{"/nonexistent"}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}
