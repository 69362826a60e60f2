package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
)

// A terminal that is closed ends a command in good order, and a reader that has gone does not end it at all. It runs by
// itself: signals are the whole process's.
func TestSignals(t *testing.T) {
	ctx, stop := untilSignal(t.Context())
	defer stop()
	if !signal.Ignored(syscall.SIGPIPE) {
		t.Error("a write to a pipe without a reader kills")
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

// What is written to a reader that has gone is an error of the command, which has ended in its own way by then.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	jetbatch, err := exec.LookPath("jetbatch") // this test binary, see TestMain
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, arg := range []string{"version", "--help"} {
		cmd := exec.CommandContext(t.Context(), jetbatch, arg)
		cmd.Stdout = w
		err = cmd.Run()
		var exited *exec.ExitError
		if !errors.As(err, &exited) || exited.ExitCode() != exitFailed {
			t.Errorf("%s: %v, want exit code %d", arg, err, exitFailed)
		}
	}
}

// A command that a signal ends while it tries to connect, or asks, says so by its exit code, whichever command it is.
func TestEndedBySignal(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	server := natstest.Run(t).URL()
	for _, url := range []string{"nats://127.0.0.1:9", server} {
		for _, command := range []string{"status", "health", "ls", "events", "check"} {
			args := []string{command, "--server", url}
			if code := run(ended, args, io.Discard, io.Discard, nil); code != exitInterrupted {
				t.Errorf("%q: exit code %d", args, code)
			}
		}
	}
}
