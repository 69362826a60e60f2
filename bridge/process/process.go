//go:build linux

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sys/unix"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	greetTimeout = 2 * time.Minute // for the first word of a process, which may import a lot before it
	endTimeout   = 5 * time.Second // for a process to end by itself when its socket is closed
	outputDelay  = time.Second     // for what the children of a dead process may still write
)

// proc is a running process. One call at a time.
type proc struct {
	conn   *bridge.Conn
	region *bridge.Region
	output *output
	pid    int
	exited chan struct{} // closed when the process is gone, and status is set
	status error

	version uint32
	opened  map[uint64]bool // instances, by handle
	calls   uint64
}

// start starts a process and waits for its first word. Its end comes with that of the calling thread.
func start(cfg *Config, socket, memory *os.File, out *output) (*exec.Cmd, error) {
	cmd := exec.Command(cfg.Command[0], cfg.Command[1:]...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("JETBATCH_PROTOCOL=%d", bridge.Protocol))
	cmd.ExtraFiles = []*os.File{socket, memory} // descriptors 3 and 4
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = outputDelay
	// A group of its own: a Ctrl-C at the terminal is for the worker, which drains.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if cfg.Memory > 0 {
		limit := unix.Rlimit{Cur: uint64(cfg.Memory), Max: uint64(cfg.Memory)}
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_DATA, &limit, nil); err != nil {
			return cmd, fmt.Errorf("bound its memory: %w", err)
		}
	}
	return cmd, nil
}

// launch returns a process that has greeted.
func (s *Set) launch(ctx context.Context) (*proc, error) {
	p := &proc{exited: make(chan struct{}), opened: make(map[uint64]bool)}
	p.output = &output{log: s.cfg.Logger.With("dataset", s.cfg.Name)}
	region, err := bridge.NewRegion()
	if err != nil {
		return nil, err
	}
	conn, socket, err := bridge.Pair()
	if err != nil {
		return nil, errors.Join(err, region.Close())
	}
	p.conn, p.region = conn, region
	cmd, err := s.onThread(func() (*exec.Cmd, error) { return start(&s.cfg, socket, region.File(), p.output) })
	_ = socket.Close()
	if cmd != nil {
		p.pid = cmd.Process.Pid
		go func() {
			p.status = cmd.Wait()
			p.output.flush()
			close(p.exited)
		}()
	}
	if err != nil {
		err = fmt.Errorf("data set %s: start %s: %w", s.cfg.Name, s.cfg.Command[0], err)
		if cmd != nil {
			p.kill()
		}
		return nil, errors.Join(err, conn.Close(), region.Close())
	}
	ctx, cancel := context.WithTimeoutCause(ctx, greetTimeout, fmt.Errorf("it has not said a word for %v", greetTimeout))
	defer cancel()
	if err := p.greet(ctx); err != nil {
		p.kill()
		p.end()
		err = fmt.Errorf("data set %s: process %d: %w", s.cfg.Name, p.pid, err)
		if said := p.output.tail(); said != "" { // nobody is told of a start's stack
			err = fmt.Errorf("%w:\n%s", err, said)
		}
		return nil, err
	}
	s.cfg.Logger.Info("data set process started", "dataset", s.cfg.Name, "pid", p.pid)
	return p, nil
}

// greet reads the first frame: protocol, version of its package, version of its data set.
func (p *proc) greet(ctx context.Context) error {
	frame, err := p.exchange(ctx, func() error { return nil })
	if err != nil {
		return err
	}
	dec := msgpack.NewDecoder(bytes.NewReader(frame))
	if _, err := bridge.Array(dec, 5); err != nil {
		return err
	}
	var protocol, id, version uint64
	var word, release string
	for _, v := range []any{&id, &word, &protocol, &release, &version} {
		if err := dec.Decode(v); err != nil {
			return fmt.Errorf("%w: %w", bridge.ErrFrame, err)
		}
	}
	switch {
	case word != "hello" || protocol != bridge.Protocol:
		return fmt.Errorf("%w: %q of protocol %d, where hello of %d is due", bridge.ErrFrame, word, protocol, bridge.Protocol)
	case release != "" && release != wire.Release:
		return fmt.Errorf("its package is version %s, this binary %s: install them together", release, wire.Release)
	case version > math.MaxUint32:
		return fmt.Errorf("%w: the data set's version is %d; it has 32 bits", bridge.ErrFrame, int64(version))
	}
	p.version = uint32(version)
	return nil
}

// exchange sends a request and reads the frame that follows. When ctx ends first the process is killed: nothing else
// ends what it is at.
func (p *proc) exchange(ctx context.Context, send func() error) (frame []byte, err error) {
	stop := context.AfterFunc(ctx, p.kill)
	if err = send(); err == nil {
		frame, err = p.conn.Read()
	}
	if !stop() {
		<-p.exited
		return nil, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, bridge.ErrFrame) {
		return nil, p.death()
	}
	return frame, err
}

// call sends a request and returns its reply, from the third element on. A process that does not answer as the protocol
// has it, or not before ctx ends, is killed.
func (p *proc) call(ctx context.Context, op string, args ...any) (dec *msgpack.Decoder, err error) {
	p.calls++
	frame, err := p.exchange(ctx, func() error {
		return p.conn.Write(func(enc *msgpack.Encoder) error {
			if err := enc.EncodeArrayLen(2 + len(args)); err != nil {
				return err
			}
			for _, v := range append([]any{p.calls, op}, args...) {
				if err := enc.Encode(v); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, &brokenError{err}
	}
	dec = msgpack.NewDecoder(bytes.NewReader(frame))
	if _, err := bridge.Array(dec, 2); err != nil {
		return nil, &brokenError{err}
	}
	id, err := dec.DecodeUint64()
	if err != nil || id != p.calls {
		return nil, &brokenError{fmt.Errorf("%w: an answer to call %d, not %d", bridge.ErrFrame, id, p.calls)}
	}
	word, err := dec.DecodeString()
	if err != nil {
		return nil, &brokenError{err}
	}
	switch word {
	case "ok":
		return dec, nil
	case "end":
		return nil, errEnd
	case "error":
		return nil, readFault(dec)
	}
	return nil, &brokenError{fmt.Errorf("%w: an answer %q", bridge.ErrFrame, word)}
}

// kill ends the process and its children at once.
func (p *proc) kill() {
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // it may have ended already
}

// death says how the process ended, which it has: its socket is closed.
func (p *proc) death() error {
	select {
	case <-p.exited:
	case <-time.After(endTimeout):
		p.kill() // it closed its socket and lives on
		<-p.exited
	}
	how := "it ended with status 0 under way"
	if p.status != nil {
		how = p.status.Error()
	}
	text := fmt.Sprintf("the data set's process %d died: %s", p.pid, how)
	return &brokenError{&failure{text: text, stack: p.output.tail()}}
}

// end closes the socket, upon which the process ends by itself, or is killed.
func (p *proc) end() {
	_ = p.conn.Close()
	select {
	case <-p.exited:
	case <-time.After(endTimeout):
		p.kill()
		<-p.exited
	}
	p.kill() // children that it left in its group
	_ = p.region.Close()
}

const (
	maxLine  = 4 << 10
	maxLines = 20 // of the tail
)

// output logs what a process prints, line by line, and remembers the last lines for the error of its death.
type output struct {
	log *slog.Logger

	mu    sync.Mutex
	begun []byte // of a line
	last  []string
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		part = part[:min(len(part), maxLine-len(o.begun))]
		o.begun = append(o.begun, part...)
		switch {
		case i >= 0:
			o.line()
			p = p[i+1:]
		case len(o.begun) == maxLine: // the rest of an endless line is more lines
			p = p[len(part):]
			o.line()
		default:
			p = nil
		}
	}
	return n, nil
}

// line ends a line. Called with mu held.
func (o *output) line() {
	text := strings.ToValidUTF8(strings.TrimRight(string(o.begun), "\r"), "�")
	o.begun = o.begun[:0]
	if o.last = append(o.last, text); len(o.last) > maxLines {
		o.last = o.last[1:]
	}
	o.log.Info("data set output", "line", text)
}

func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.begun) > 0 {
		o.line()
	}
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.last, "\n")
}
