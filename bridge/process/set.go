//go:build linux

// Package process runs a data set in other processes, one for each batch that is made at a time, over the local
// protocol. A process that dies takes with it the attempt that it was at, and nothing else; another is started in its
// place.
package process

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Config of a data set in other processes.
type Config struct {
	// Name of the data set.
	Name string

	// Command starts a process that speaks the local protocol on descriptors 3 and 4.
	Command []string

	// Slots is how many processes materialize at a time. Another one iterates. Defaults to GOMAXPROCS.
	Slots int

	// Memory bounds the data of one process in bytes, by the kernel's RLIMIT_DATA. Defaults to no bound.
	Memory int64

	// NextTimeout is how long Next and Start may take until the process is killed. Defaults to 30 s: a coordinator has
	// given up by then.
	NextTimeout time.Duration

	// Logger hears what the processes print. Defaults to discarding.
	Logger *slog.Logger
}

// ErrBadConfig is returned by Open for a Config that cannot work.
var ErrBadConfig = errors.New("bad configuration of a data set in another process")

// Set is a data set's processes. Its methods are safe for concurrent use.
type Set struct {
	cfg     Config
	version uint32

	slots  chan struct{} // a token for each materialization under way
	iterer chan struct{} // a token for the iteration under way
	starts chan func()   // run by the thread that processes live with

	launches sync.WaitGroup
	life     context.Context // of launches
	end      context.CancelFunc

	mu      sync.Mutex
	idle    []*proc
	handles uint64
	closed  bool
}

// Open starts the first process, which says the data set's version. Close ends all of them.
func Open(ctx context.Context, cfg Config) (*Set, error) {
	cfg.Slots = cmp.Or(cfg.Slots, runtime.GOMAXPROCS(0))
	cfg.NextTimeout = cmp.Or(cfg.NextTimeout, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := wire.CheckName("data set", cfg.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	if len(cfg.Command) == 0 || cfg.Slots < 0 || cfg.Memory < 0 || cfg.NextTimeout < 0 {
		return nil, fmt.Errorf("%w: %+v", ErrBadConfig, cfg)
	}
	s := &Set{
		cfg: cfg, slots: make(chan struct{}, cfg.Slots), iterer: make(chan struct{}, 1), starts: make(chan func()),
	}
	s.life, s.end = context.WithCancel(context.Background())
	go s.thread()
	p, err := s.launch(s.life)
	if err != nil {
		s.Close()
		return nil, err
	}
	s.version = p.version
	s.idle = append(s.idle, p)
	return s, nil
}

// thread starts processes. The kernel ends them with the thread that started them, so that one must live until they
// have ended.
func (s *Set) thread() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for f := range s.starts {
		f()
	}
}

var errClosed = errors.New("the data set's processes have ended")

func (s *Set) onThread(f func() (*exec.Cmd, error)) (cmd *exec.Cmd, err error) {
	done := make(chan struct{})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errClosed
	}
	s.starts <- func() { // the thread takes it at once, or after another start
		defer close(done)
		cmd, err = f()
	}
	s.mu.Unlock()
	<-done
	return cmd, err
}

// Definition is what coordinators and workers are given.
func (s *Set) Definition() dataset.Definition {
	return dataset.DefineBytes(s.cfg.Name, s.version, s.open)
}

// Close ends the processes, which have nothing to do any more, and waits for them.
func (s *Set) Close() {
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	if !s.closed {
		s.closed = true
		defer close(s.starts)
	}
	s.mu.Unlock()
	s.end()
	s.launches.Wait()
	var ending sync.WaitGroup
	for _, p := range idle {
		ending.Go(p.end)
	}
	ending.Wait()
}

// with calls f with a process of its own that has the instance open, when tokens has room.
func (s *Set) with(ctx context.Context, tokens chan struct{}, i *instance, f func(*proc) error) error {
	select {
	case tokens <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	p := s.acquire(i)
	if p == nil {
		var err error
		if p, err = s.hire(ctx, tokens); p == nil {
			return err
		}
	}
	defer func() { <-tokens }()
	err := s.ready(ctx, p, i)
	if err == nil {
		err = f(p)
	}
	s.release(p, broken(err))
	return err
}

// hire starts a process. What it imports may take longer than a job may: when ctx ends it goes on, keeps its token, and
// is there for the next job. Without a process the token is given back, now or by then.
func (s *Set) hire(ctx context.Context, tokens chan struct{}) (*proc, error) {
	type launched struct {
		p   *proc
		err error
	}
	started := make(chan launched)
	s.launches.Go(func() {
		p, err := s.launch(s.life)
		select {
		case started <- launched{p, err}:
			if err == nil {
				return // it has the token now
			}
		case <-ctx.Done():
			if err != nil {
				s.cfg.Logger.Warn("data set process not started", "dataset", s.cfg.Name, "error", err)
			} else {
				s.release(p, false)
			}
		}
		<-tokens
	})
	select {
	case l := <-started:
		return l.p, l.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pureTries is how many processes may die at what is a pure function, and can be asked for again.
const pureTries = 3

// pure is with for opening and iterating, with another process where one dies.
func (s *Set) pure(ctx context.Context, i *instance, f func(*proc) error) (err error) {
	for range pureTries {
		if err = s.with(ctx, s.iterer, i, f); !died(err) {
			break
		}
		s.cfg.Logger.Warn("data set process died", "dataset", s.cfg.Name, "error", err)
	}
	return err
}

// acquire returns an idle process, one with the instance open if there is one, or nil.
func (s *Set) acquire(i *instance) *proc {
	s.bury()
	s.mu.Lock()
	defer s.mu.Unlock()
	best := len(s.idle) - 1
	for k := best; k >= 0; k-- {
		if s.idle[k].opened[i.handle] {
			best = k
			break
		}
	}
	if best < 0 {
		return nil
	}
	p := s.idle[best]
	s.idle = append(s.idle[:best], s.idle[best+1:]...)
	return p
}

// bury takes the idle processes out that somebody killed.
func (s *Set) bury() {
	var dead []*proc
	s.mu.Lock()
	s.idle = slices.DeleteFunc(s.idle, func(p *proc) bool {
		select {
		case <-p.exited:
			dead = append(dead, p)
			return true
		default:
			return false
		}
	})
	s.mu.Unlock()
	for _, p := range dead {
		p.end()
	}
}

func (s *Set) release(p *proc, useless bool) {
	s.mu.Lock()
	useless = useless || s.closed
	if !useless {
		s.idle = append(s.idle, p)
	}
	s.mu.Unlock()
	if useless {
		p.kill()
		p.end()
	}
}

// ready opens the instance in the process, on the data that it was opened on first.
func (s *Set) ready(ctx context.Context, p *proc, i *instance) error {
	if p.opened[i.handle] {
		return nil
	}
	_, err := p.call(ctx, "open", i.handle, i.params)
	if err == nil {
		p.opened[i.handle] = true
		err = s.look(ctx, p, i)
	}
	if err == nil || broken(err) {
		return err
	}
	return fmt.Errorf("%w: %w", kind.ErrUnopened, err)
}

// look asks a process that has opened the instance for its fingerprint, and has it closed there if that is another than
// before.
func (s *Set) look(ctx context.Context, p *proc, i *instance) error {
	dec, err := p.call(ctx, "fingerprint", i.handle)
	var print dataset.Fingerprint
	if err == nil {
		print, err = readFingerprint(dec)
	} else if f := (*failure)(nil); errors.As(err, &f) && f.code == "bad_request" {
		err = nil // a program that knows of no fingerprints
	}
	if err == nil {
		err = i.sees(print)
	}
	if err == nil || broken(err) {
		return err
	}
	delete(p.opened, i.handle)
	_, failed := p.call(ctx, "close", i.handle)
	return errors.Join(err, failed)
}

func (s *Set) open(ctx context.Context, params json.RawMessage) (dataset.Bytes, error) {
	s.mu.Lock()
	s.handles++
	i := &instance{set: s, handle: s.handles, params: string(params), ahead: make(map[string]following)}
	s.mu.Unlock()
	// Parameters that the data set refuses are refused here, where a trainer's open asks.
	if err := s.pure(ctx, i, func(*proc) error { return nil }); err != nil {
		return nil, err
	}
	return i, nil
}

// shut closes an instance in every idle process that has it open.
func (s *Set) shut(ctx context.Context, i *instance) error {
	s.mu.Lock()
	var having []*proc
	rest := s.idle[:0:0]
	for _, p := range s.idle {
		if p.opened[i.handle] {
			having = append(having, p)
		} else {
			rest = append(rest, p)
		}
	}
	s.idle = rest
	s.mu.Unlock()
	var errs []error
	for _, p := range having {
		delete(p.opened, i.handle)
		_, err := p.call(ctx, "close", i.handle)
		s.release(p, broken(err))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
