package cli

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
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
	cmd := exec.CommandContext(t.Context(), jetbatch, "version")
	cmd.Stdout = w
	err = cmd.Run()
	var exited *exec.ExitError
	if !errors.As(err, &exited) || exited.ExitCode() != exitFailed {
		t.Errorf("%v, want exit code %d", err, exitFailed)
	}
}
