//go:build linux

package process_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/bridge/process"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// TestMain is also the data set's process: a small one that speaks the protocol as docs/BRIDGE.md has it.
func TestMain(m *testing.M) {
	if os.Getenv("JETBATCH_PROTOCOL") != "" {
		if err := serve(os.Args[len(os.Args)-1]); err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// begin says that a process has begun, and waits for a byte.
func begin(gate string) error {
	f, err := os.OpenFile(gate+".begun", os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write([]byte{1})
	}
	if err != nil {
		return err
	}
	g, err := os.Open(gate)
	if err == nil {
		_, err = g.Read(make([]byte, 1))
	}
	return err
}

// serve counts to 100. Each batch is the job as text, a thousand times.
func serve(how string) error {
	if how == "mute" {
		fmt.Println("no luck today")
		os.Exit(7)
	}
	if gate, ok := strings.CutPrefix(how, "gate:"); ok {
		if err := begin(gate); err != nil {
			return err
		}
	}
	conn, err := bridge.NewConn(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	memory := os.NewFile(4, "memory")
	say := func(values ...any) error {
		return conn.Write(func(enc *msgpack.Encoder) error { return enc.Encode(values) })
	}
	release, version := wire.Release, 5
	switch how {
	case "old":
		release = "0.0.1"
	case "wide":
		version = 1 << 32
	}
	if err := say(0, "hello", bridge.Protocol, release, version); err != nil {
		return err
	}
	for {
		frame, err := conn.Read()
		if err != nil {
			return err
		}
		var request []any
		if err := msgpack.Unmarshal(frame, &request); err != nil {
			return err
		}
		answer := []any{"ok"}
		switch request[1] {
		case "open":
			if request[3] == `"bad"` {
				answer = fault("bad_params", "no such parameters")
			}
		case "fingerprint":
			answer = fingerprint(request[2])
		case "start":
			answer = append(answer, []byte{0})
		case "next":
			n := request[3].([]byte)[0]
			if n == 100 {
				answer = []any{"end"}
				break
			}
			var steps [][2][]byte
			for k := n; k < min(n+3, 100); k++ {
				steps = append(steps, [2][]byte{{k}, {k + 1}})
			}
			answer = append(answer, steps)
		case "progress":
			switch n := uint64(request[3].([]byte)[0]); {
			case how == "silent":
				answer = append(answer, nil)
			case how == "unknowing":
				answer = fault("bad_request", "unknown request progress")
			case n == 250:
				answer = fault("error", "no such place")
			case n == 251:
				answer = append(answer, []uint64{1, 2})
			default:
				answer = append(answer, []uint64{1, 1, n, 100})
			}
		case "materialize":
			answer = materialize(memory, request[3].([]byte)[0])
		}
		if err := say(append(request[:1], answer...)...); err != nil {
			return err
		}
	}
}

// fingerprint is the content of the file that the environment names, if it does.
func fingerprint(any) []any {
	path := os.Getenv("JETBATCH_TEST_DATA")
	if path == "" {
		return []any{"ok", nil}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return []any{"error", map[string]any{
			"code": "error", "message": "FileNotFoundError", "errno": int(syscall.ENOENT), "path": path,
		}}
	}
	return []any{"ok", map[string]any{
		"digest": string(data), "parts": [][2]string{{"recordings", string(data)}}, "ignore": []string{"dir"},
		"summary": "kept all",
	}}
}

// Jobs at which something happens.
const (
	jobSkip = iota + 200
	jobPermanent
	jobDie
	jobHang
	jobLie
	jobPid
)

func materialize(memory *os.File, job byte) []any {
	text := strings.Repeat(fmt.Sprint(job), 1000)
	switch job {
	case jobSkip:
		return fault("skip", "empty")
	case jobPermanent:
		return fault("permanent", "never")
	case jobDie:
		fmt.Println("farewell")
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case jobHang:
		select {}
	case jobLie:
		return []any{"ok", 1 << 30}
	case jobPid:
		text = fmt.Sprint(os.Getpid())
	}
	if _, err := memory.WriteAt([]byte(text), 0); err != nil {
		return fault("error", err.Error())
	}
	return []any{"ok", len(text)}
}

func fault(code, message string) []any {
	return []any{"error", map[string]string{"code": code, "message": message, "stack": "line 7"}}
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func open(t *testing.T, how string, slots int) (*process.Set, *lines, error) {
	t.Helper()
	log := &lines{}
	s, err := process.Open(t.Context(), process.Config{
		Name: "counting", Command: []string{os.Args[0], how}, Slots: slots, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err == nil {
		t.Cleanup(s.Close)
	}
	return s, log, err
}

func acquire(t *testing.T, params string) (kind.Instance, *lines) {
	t.Helper()
	s, log, err := open(t, "serve", 2)
	if err != nil {
		t.Fatal(err)
	}
	inst, release, err := kind.Of(s.Definition()).Acquire(t.Context(), json.RawMessage(params))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		release()
		kind.Of(s.Definition()).CloseIdle()
	})
	return inst, log
}

func materialized(ctx context.Context, inst kind.Instance, job byte) (string, error) {
	pieces, _, err := inst.Materialize(ctx, []byte{job}, nil)
	return string(bytes.Join(pieces, nil)), err
}

func TestIterates(t *testing.T) {
	t.Parallel()
	inst, _ := acquire(t, `{}`)
	state, err := inst.Start()
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(100) {
		for range 2 { // pure: from what was iterated ahead, too
			job, next, err := inst.Next(state)
			if err != nil || job[0] != n || next[0] != n+1 {
				t.Fatalf("%v, %v, %v after %d", job, next, err, n)
			}
			if n%2 == 0 {
				continue
			}
		}
		state = []byte{n + 1}
	}
	for range 2 {
		if _, _, err := inst.Next(state); err != io.EOF { //nolint:errorlint // exactly io.EOF is the contract
			t.Fatalf("%v, want exactly io.EOF", err)
		}
	}
	if job, _, err := inst.Next([]byte{50}); err != nil || job[0] != 50 {
		t.Fatalf("back at 50: %v, %v", job, err)
	}
}

// A data set in another process says how far a state is, if it knows; one that does not is asked once.
func TestProgress(t *testing.T) {
	t.Parallel()
	inst, _ := acquire(t, `{}`)
	at := func(state byte) (kind.Progress, error) {
		return inst.(*kind.Opened).Instance.(kind.Progresser).Progress([]byte{state})
	}
	if p, err := at(7); err != nil || p != (kind.Progress{Epoch: 1, Epochs: 1, Batch: 7, Batches: 100}) {
		t.Errorf("at 7: %+v, %v", p, err)
	}
	if _, err := at(250); err == nil || err.Error() != "no such place" {
		t.Errorf("a state that means nothing: %v", err)
	}
	if _, err := at(251); !errors.Is(err, bridge.ErrFrame) {
		t.Errorf("two numbers: %v", err)
	}
	if p, err := at(8); err != nil || p.Batch != 8 {
		t.Errorf("after errors: %+v, %v", p, err)
	}
	for _, how := range []string{"silent", "unknowing"} {
		s, _, err := open(t, how, 1)
		if err != nil {
			t.Fatal(err)
		}
		inst, release, err := kind.Of(s.Definition()).Acquire(t.Context(), json.RawMessage(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := inst.Instance.(kind.Progresser).Progress([]byte{7}); !errors.Is(err, kind.ErrNoProgress) {
				t.Errorf("%s: %v", how, err)
			}
			s.Close() // so that nobody can be asked any more
		}
		release()
	}
}

func TestMaterializesInSlots(t *testing.T) {
	t.Parallel()
	inst, _ := acquire(t, `{}`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	pids := map[string]bool{}
	for job := range byte(40) {
		wg.Go(func() {
			got, err := materialized(t.Context(), inst, job)
			if err != nil || got != strings.Repeat(fmt.Sprint(job), 1000) {
				t.Errorf("%d: %.20q, %v", job, got, err)
			}
			pid, err := materialized(t.Context(), inst, jobPid)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			pids[pid] = true
		})
	}
	wg.Wait()
	if len(pids) != 2 {
		t.Errorf("processes %v, want two", pids)
	}
}

func TestErrorsOfJobs(t *testing.T) {
	t.Parallel()
	inst, log := acquire(t, `{}`)
	if _, err := materialized(t.Context(), inst, jobSkip); err == nil || err.Error() != "skipped: empty" {
		t.Errorf("skip: %v", err)
	}
	if _, err := materialized(t.Context(), inst, jobPermanent); !dataset.IsPermanent(err) || err.Error() != "never" {
		t.Errorf("permanent: %v", err)
	}
	before, _ := materialized(t.Context(), inst, jobPid)
	_, err := materialized(t.Context(), inst, jobDie)
	var panicked *kind.PanicError
	if err == nil || !strings.Contains(err.Error(), "signal: killed") || !errors.As(err, &panicked) ||
		string(panicked.Stack) != "farewell" {
		t.Errorf("death: %v, %+v", err, panicked)
	}
	if _, err := materialized(t.Context(), inst, jobLie); !errors.Is(err, bridge.ErrFrame) {
		t.Errorf("a size that cannot be: %v", err)
	}
	if after, err := materialized(t.Context(), inst, jobPid); err != nil || after == before {
		t.Errorf("process %s after %s, %v", after, before, err)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if !strings.Contains(log.b.String(), "line=farewell") {
		t.Errorf("the log has no farewell: %s", log.b.String())
	}
}

func TestBadParams(t *testing.T) {
	t.Parallel()
	s, _, err := open(t, "serve", 1)
	if err != nil {
		t.Fatal(err)
	}
	if v := s.Definition().Version(); v != 5 {
		t.Errorf("version %d", v)
	}
	_, _, err = kind.Of(s.Definition()).Acquire(t.Context(), json.RawMessage(`"bad"`))
	if !errors.Is(err, kind.ErrBadParams) {
		t.Errorf("open: %v", err)
	}
}
