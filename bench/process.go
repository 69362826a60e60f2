package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A process is a role of its own process, as its parent sees it. Its methods are for one goroutine.
type process struct {
	role string // as reports call it
	name string // side and role, for errors
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
}

// call asks the process and waits for the answer. A context that ends kills the process, whose state would be unknown.
func (p *process) call(ctx context.Context, op string, arg, result any) error {
	raw, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	var answer reply
	if err = p.enc.Encode(call{op, raw}); err == nil {
		err = p.dec.Decode(&answer)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%s: the process is gone: %w", p.name, err)
	case answer.Error != "":
		return fmt.Errorf("%s: %s: %s", p.name, op, answer.Error)
	case result == nil:
		return nil
	}
	return json.Unmarshal(answer.Result, result)
}

// endTimeout is how long a process may take to end by itself.
const endTimeout = 10 * time.Second

func (p *process) end() error {
	_ = p.in.Close() // its sign to end
	kill := time.AfterFunc(endTimeout, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// A side is one of those that are compared: the service, or a floor. All that it does happens in its processes.
type side struct {
	b        *bench
	name     string
	procs    []*process
	profiles map[string]int // files by name
}

// side begins a side without processes; bench.close ends it, unless it is ended before.
func (b *bench) side(name string) *side {
	s := &side{b: b, name: name, profiles: make(map[string]int)}
	b.sides = append(b.sides, s)
	return s
}

// start starts a process of this side. answer is filled with what the role tells.
func (s *side) start(ctx context.Context, role string, arg, answer any) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{os.Args[0]}, s.b.opts.roleArgs...) // a program that asks for its own name finds it
	cmd.Stderr = s.b.opts.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	short := strings.TrimPrefix(role, "floor ")
	p := &process{role: short, name: s.name + " " + short, cmd: cmd, in: in, enc: json.NewEncoder(in), dec: json.NewDecoder(out)}
	s.procs = append(s.procs, p)
	raw, err := json.Marshal(arg)
	if err != nil {
		return nil, err
	}
	return p, p.call(ctx, opStart, startArg{Role: role, Profile: s.profile(short), Arg: raw}, answer)
}

// profile is the file for the CPU profile of the next process.
func (s *side) profile(role string) string {
	if s.b.opts.profileDir == "" {
		return ""
	}
	name := strings.ReplaceAll(s.b.current+"-"+s.name+"-"+role, " ", "-")
	s.profiles[name]++
	if n := s.profiles[name]; n > 1 {
		name = fmt.Sprintf("%s-%d", name, n)
	}
	return filepath.Join(s.b.opts.profileDir, name+".pprof")
}

// end ends the processes, the first one, on which the others rely, last.
func (s *side) end() error {
	var errs []error
	for _, p := range slices.Backward(s.procs) {
		errs = append(errs, p.end())
	}
	s.procs = nil
	return errors.Join(errs...)
}

// kill kills one of the processes, which has no last word.
func (s *side) kill(p *process) error {
	s.procs = slices.DeleteFunc(s.procs, func(q *process) bool { return q == p })
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = p.cmd.Wait() // it says that it was killed
	return nil
}

// usage asks all processes at once, by role.
func (s *side) usage(ctx context.Context) (map[string]usage, error) {
	var (
		mu    sync.Mutex
		wait  sync.WaitGroup
		total = make(map[string]usage)
		errs  error
	)
	for _, p := range s.procs {
		wait.Go(func() {
			var u usage
			err := p.call(ctx, opUsage, nil, &u)
			mu.Lock()
			defer mu.Unlock()
			errs = errors.Join(errs, err)
			total[p.role] = total[p.role].plus(u)
		})
	}
	wait.Wait()
	return total, errs
}
