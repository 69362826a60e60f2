package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/pprof"
)

// A role is what one process of a benchmark does. It answers its parent's requests, one at a time.
type role struct {
	ops   map[string]op
	close func()
}

// An op is one kind of request. Its result travels as JSON.
type op func(ctx context.Context, arg json.RawMessage) (any, error)

// handle is an op whose argument is an A.
func handle[A, R any](f func(ctx context.Context, arg A) (R, error)) op {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var arg A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &arg); err != nil {
				return nil, err
			}
		}
		return f(ctx, arg)
	}
}

// A starter begins a role with what the parent said of it. What the parent is to know goes into the answer.
type starter func(ctx context.Context, log *slog.Logger, arg json.RawMessage) (r *role, answer any, err error)

// begin is a starter whose argument is an A.
func begin[A any](f func(ctx context.Context, log *slog.Logger, arg A) (*role, any, error)) starter {
	return func(ctx context.Context, log *slog.Logger, raw json.RawMessage) (*role, any, error) {
		var arg A
		if err := json.Unmarshal(raw, &arg); err != nil {
			return nil, nil, err
		}
		return f(ctx, log, arg)
	}
}

// roles are all that a process can be told to be.
var roles = map[string]starter{
	"broker":      begin(startBroker),
	"member":      begin(startMember),
	"coordinator": begin(startCoordinator),
	"worker":      begin(startWorker),
	"newcomer":    begin(startWorker),
	"trainer":     begin(startTrainer),

	"onda service": begin(startOndaService),
	"onda loop":    begin(startOndaLoop),
	"onda labels":  begin(startLabels),
	"store":        begin(startStore),
	"range reads":  begin(startRanges),

	"floor feeder":   begin(startFloorFeeder),
	"floor worker":   begin(startFloorWorker),
	"floor consumer": begin(startFloorConsumer),
	"floor listener": begin(startFloorListeners),
	"floor crew":     begin(startFloorCrew),
	"floor asker":    begin(startFloorAsker),
	"floor echo":     begin(startFloorEcho),

	"stream publisher": begin(startStreamPublisher),
	"stream consumer":  begin(startStreamConsumer),
	"tcp server":       begin(startTCPServer),
	"tcp client":       begin(startTCPClient),
	"torch":            begin(startTorch),
}

// call is one request of the parent; reply is the answer to it.
type call struct {
	Op  string          `json:"op"`
	Arg json.RawMessage `json:"arg,omitempty"`
}

type reply struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Requests that every role answers.
const (
	opStart = "start" // the first one
	opUsage = "usage"

	opCollect = "collect" // garbage
)

// serveRole is a process of a benchmark: it reads its parent's requests from in, one JSON object after another, and
// writes the answers to out, until in ends.
func serveRole(ctx context.Context, in io.Reader, out io.Writer, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		r       *role
		profile func()
	)
	defer func() {
		if r != nil {
			r.close()
		}
		if profile != nil {
			profile()
		}
	}()
	requests := json.NewDecoder(bufio.NewReader(in))
	answers := json.NewEncoder(out)
	for {
		var c call
		if err := requests.Decode(&c); errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		var result any
		var err error
		switch {
		case c.Op == opStart && r == nil:
			var s startArg
			if err = json.Unmarshal(c.Arg, &s); err != nil {
				break
			}
			if s.Profile != "" {
				if profile, err = startProfile(s.Profile); err != nil {
					break
				}
			}
			start, ok := roles[s.Role]
			if !ok {
				err = fmt.Errorf("there is no role %q", s.Role)
				break
			}
			r, result, err = start(ctx, log, s.Arg)
		case c.Op == opUsage:
			result = usageNow()
		case c.Op == opCollect:
			debug.FreeOSMemory()
		case r != nil && r.ops[c.Op] != nil:
			result, err = r.ops[c.Op](ctx, c.Arg)
		default:
			err = fmt.Errorf("no such request: %q", c.Op)
		}
		var answer reply
		if err == nil {
			answer.Result, err = json.Marshal(result)
		}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
}

// startArg is the argument of opStart.
type startArg struct {
	Role    string          `json:"role"`
	Profile string          `json:"profile,omitempty"` // file for a CPU profile
	Arg     json.RawMessage `json:"arg"`
}

func startProfile(path string) (stop func(), err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // a profile that is cut short is seen by who reads it
	}, nil
}
