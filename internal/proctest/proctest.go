// Package proctest runs every role of the service as a process of its own: the running test binary started again with
// a role in its environment, so that kill -9 is kill -9. Nothing but tests imports it.
//
// A test binary that uses it calls [Main] first thing in TestMain, and [Start] from its tests.
package proctest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// RoleEnv is the variable that tells a test binary which role to run.
const RoleEnv = "JETBATCH_TEST_ROLE"

// terminateTimeout is above the time that a worker drains for.
const terminateTimeout = 40 * time.Second

// A Role is what a process does until ctx ends, which is at SIGTERM.
type Role func(ctx context.Context, log *slog.Logger) error

// Main runs the role that the environment asks for, and exits; without one it returns at once.
func Main(roles map[string]Role) {
	name := os.Getenv(RoleEnv)
	if name == "" {
		return
	}
	role := roles[name]
	if role == nil {
		fmt.Fprintf(os.Stderr, "unknown role %q\n", name)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the parent holds the other end of stdin: no role outlives a test that was killed
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := role(ctx, log); err != nil {
		fmt.Fprintln(os.Stderr, name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// IsRole reports whether this process runs the role of that name.
func IsRole(name string) bool { return os.Getenv(RoleEnv) == name }

// Process is a role that runs, or ran. Its methods are for the goroutine of the test.
type Process struct {
	t     testing.TB
	role  string
	cmd   *exec.Cmd
	stdin io.WriteCloser // the role ends when this closes
	log   lockedBuffer
	ended chan struct{}
}

// Start starts a role with further variables of its environment. It is killed when the test ends, and its log is
// shown if the test failed. A data race that it found fails the test.
func Start(t testing.TB, role string, env ...string) *Process {
	t.Helper()
	return start(t, role, own(t, role, env), nil)
}

// StartCommand is Start for any other program, such as the roles of an earlier release.
func StartCommand(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	return start(t, cmd.String(), cmd, nil)
}

// longestLine is what a role may say at once.
const longestLine = 16 << 20

// StartLines is Start for a role that speaks: line is called with each line of its standard output, from one goroutine,
// and the process counts as ended only after the last call.
func StartLines(t testing.TB, role string, line func([]byte), env ...string) *Process {
	t.Helper()
	return start(t, role, own(t, role, env), line)
}

// own is a role of this test binary.
func own(t testing.TB, role string, env []string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), RoleEnv+"="+role), env...)
	return cmd
}

func start(t testing.TB, role string, cmd *exec.Cmd, line func([]byte)) *Process {
	t.Helper()
	var err error
	p := &Process{t: t, role: role, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	var stdout io.ReadCloser
	if line != nil {
		p.cmd.Stdout = nil
		if stdout, err = p.cmd.StdoutPipe(); err != nil {
			t.Fatal(err)
		}
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		if stdout != nil {
			lines := bufio.NewScanner(stdout)
			for lines.Buffer(nil, longestLine); lines.Scan(); {
				line(lines.Bytes())
			}
		}
		_ = p.cmd.Wait() // killed on purpose, mostly
	}()
	t.Cleanup(func() {
		p.Kill()
		if log := p.log.String(); strings.Contains(log, "DATA RACE") {
			t.Errorf("%s: data race:\n%s", role, log)
		}
		if t.Failed() {
			t.Logf("log of %s %d:\n%s", role, p.cmd.Process.Pid, p.Tail())
		}
	})
	return p
}

// Kill is kill -9 and returns when the process is gone. Killing twice is fine.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails if it is gone
	<-p.ended
}

// Retire is SIGTERM. Ended says when the process has done what it does then.
func (p *Process) Retire() { _ = p.cmd.Process.Signal(syscall.SIGTERM) } // fails if it is gone

// Terminate is SIGTERM and waits for the process to end by itself.
func (p *Process) Terminate() {
	p.t.Helper()
	p.Retire()
	select {
	case <-p.ended:
	case <-time.After(terminateTimeout):
		p.t.Fatalf("%s did not end after SIGTERM", p.role)
	}
}

// Pause stops the process as a whole, which cannot know; Resume lets it go on. On a process that ended they do nothing.
func (p *Process) Pause()  { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *Process) Resume() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Log is all that the process wrote, but for what StartLines takes.
func (p *Process) Log() string { return p.log.String() }

// Tail is the end of the log.
func (p *Process) Tail() string {
	s := p.log.String()
	return s[max(0, len(s)-4000):]
}

// FreeAddr returns a loopback address that was free a moment ago, for a server that comes and goes. Its port is below
// those that systems give to outgoing connections, which would take it while the server is away.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const from, to, tries = 12000, 32000, 100
	var err error
	for range tries {
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("%s:%d", Loopback(), from+rand.IntN(to-from))); err == nil {
			defer l.Close() //nolint:errcheck // nothing was written to it
			return l.Addr().String()
		}
	}
	t.Fatal(err)
	return ""
}

// Loopback returns a host for a server of one test. Where all of 127.0.0.0/8 is the machine's own it is drawn: a role
// of another test, whose server is away for a moment, never finds this server at the address that it comes back to.
func Loopback() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
