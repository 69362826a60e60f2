//go:build linux

package trainer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/bridge/trainer"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

// counting is a data set of batches that grow.
type counting struct{ Length int }

type position struct{ I int }

func (c counting) Start() (position, error) { return position{}, nil }

func (c counting) Next(p position) (int, position, error) {
	if p.I == c.Length {
		return 0, p, io.EOF
	}
	return p.I, position{p.I + 1}, nil
}

func (c counting) Materialize(_ context.Context, job int) (schema.Batch, error) {
	data := bytes.Repeat([]byte{byte(job)}, 1+job*3000)
	x, err := schema.NewTensor([]int{len(data)}, data)
	return schema.Batch{{Name: "x", Tensor: x}}, err
}

func definition() dataset.Definition {
	return dataset.Define("counting", func(_ context.Context, c counting) (counting, error) { return c, nil })
}

// peer is a trainer that speaks the protocol as docs/BRIDGE.md has it.
type peer struct {
	t      *testing.T
	conn   *bridge.Conn
	memory *os.File
	calls  uint64
	named  []any   // the state after the batch of the last answer
	passed []any   // the batch that lay ready and was looked at last, which is not freed yet
	news   [][]any // frames that are no answers, from their words on
	served chan error
}

func setup(t *testing.T, connect func(context.Context) (*nats.Conn, error)) *peer {
	t.Helper()
	return setupLogged(t, func(ctx context.Context, _ *slog.Logger) (*nats.Conn, error) { return connect(ctx) })
}

func setupLogged(t *testing.T, connect func(context.Context, *slog.Logger) (*nats.Conn, error)) *peer {
	t.Helper()
	return configured(t, trainer.Config{Connect: connect})
}

func configured(t *testing.T, cfg trainer.Config) *peer {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	own := os.NewFile(uintptr(fds[0]), "trainer")
	served, err := bridge.NewConn(os.NewFile(uintptr(fds[1]), "bridge"))
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, served: make(chan error, 1)}
	go func() { p.served <- trainer.Serve(context.Background(), served, cfg) }()
	p.memory = receive(t, own)
	if p.conn, err = bridge.NewConn(own); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.conn.Close()
		if err := <-p.served; err != nil {
			t.Errorf("serve: %v", err)
		}
		_ = p.memory.Close()
	})
	return p
}

// receive reads the bridge's first frame and the descriptor that comes with it.
func receive(t *testing.T, socket *os.File) *os.File {
	t.Helper()
	c, err := net.FileConn(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // a duplicate
	frame, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := c.(*net.UnixConn).ReadMsgUnix(frame, rights)
	if err != nil {
		t.Fatal(err)
	}
	var hello []any
	err = msgpack.Unmarshal(frame[4:n], &hello)
	if err != nil || fmt.Sprint(hello[1:4]) != "[hello 1 "+wire.Release+"]" {
		t.Fatalf("%v, %v", hello, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "memory")
}

// call sends a request and returns what its answer has after the id.
func (p *peer) call(op string, args ...any) []any {
	p.t.Helper()
	p.calls++
	p.send(p.calls, op, args...)
	for {
		frame := p.read()
		if fmt.Sprint(frame[0]) == fmt.Sprint(p.calls) {
			if frame[1] == "step" {
				p.named = frame[7].([]any)
			}
			return frame[1:]
		}
		p.hear(frame)
	}
}

// hear notes a frame that is no answer, one for each batch of several.
func (p *peer) hear(frame []any) {
	if frame[1] != "ready" {
		p.news = append(p.news, frame[1:])
		return
	}
	for _, b := range frame[3].([]any) {
		fields := b.([]any) // with the state's data only
		next := append([]any{}, p.named...)
		next[2] = fields[4]
		p.news = append(p.news, append(append([]any{"ready", frame[2]}, fields[:4]...), next, fields[5]))
	}
}

// read returns the next frame.
func (p *peer) read() (frame []any) {
	p.t.Helper()
	data, err := p.conn.Read()
	if err == nil {
		err = msgpack.Unmarshal(data, &frame)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return frame
}

// next returns the next frame of that word that is no answer.
func (p *peer) next(word string) []any {
	p.t.Helper()
	for {
		for len(p.news) > 0 {
			frame := p.news[0]
			p.news = p.news[1:]
			if frame[0] == word {
				return frame
			}
		}
		p.hear(p.read())
	}
}

func (p *peer) send(id uint64, op string, args ...any) {
	p.t.Helper()
	err := p.conn.Write(func(enc *msgpack.Encoder) error { return enc.Encode(append([]any{id, op}, args...)) })
	if err != nil {
		p.t.Fatal(err)
	}
}

func number(t *testing.T, v any) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscan(fmt.Sprint(v), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func start(t *testing.T) *embedded.Service {
	t.Helper()
	service, err := embedded.Start(context.WithoutCancel(t.Context()), embedded.Config{Workers: 2}, definition())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Close() })
	return service
}

func (p *peer) open(name string) any {
	p.t.Helper()
	answer := p.call("open", map[string]any{"name": name, "dataset": "counting", "params": `{"Length":40}`})
	if answer[0] != "ok" {
		p.t.Fatal(answer)
	}
	return answer[1]
}

// What lies in the shared memory, and every state, is what the loop of one process yields (P1); any state goes on (P2).
func TestEqualsReference(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := setup(t, func(context.Context) (*nats.Conn, error) { return service.Conn(), nil })
	handle := p.open("reference")
	reference := dataset.Sequential(counting{Length: 40})
	var state schema.State
	states := []schema.State{state}
	freed := []any{}
	asked := 0
	for {
		want, err := reference.Take(t.Context(), schema.State{Data: state.Data})
		// Every third is taken of what lies ready, or about to.
		var answer []any
		if n := len(states); n%3 == 2 && err == nil {
			answer = p.next("ready")
			p.send(0, "took", handle, answer[2], freed)
		} else if answer = p.call("take", handle, 30.0, wire3(state), freed); answer[0] == "ready" {
			answer = p.next("ready")
			p.send(0, "took", handle, answer[2], []any{})
		} else {
			p.news = nil // withdrawn by the answer
			asked++
		}
		if errors.Is(err, io.EOF) {
			if answer[0] != "end" {
				t.Fatalf("%v, where the data ends", answer)
			}
			break
		}
		if answer[0] != "step" && answer[0] != "ready" {
			t.Fatal(answer...)
		}
		payload := make([]byte, number(t, answer[4]))
		if _, err := p.memory.ReadAt(payload, number(t, answer[3])); err != nil {
			t.Fatal(err)
		}
		expected, err := wire.AppendBatch(nil, want.Batch)
		if err != nil || !bytes.Equal(payload, expected) {
			t.Fatalf("batch %d differs from the reference (%v)", want.Seq, err)
		}
		state = after(t, answer)
		if !bytes.Equal(state.Data, want.Next.Data) {
			t.Fatalf("state %d differs from the reference", want.Seq)
		}
		states = append(states, state)
		freed = []any{answer[2]}
	}
	if len(states) != 41 || asked > 40 {
		t.Fatalf("%d states, %d asked for", len(states), asked)
	}
	answer := p.call("take", handle, 30.0, wire3(states[17]), []any{})
	if answer[0] != "step" || !bytes.Equal(after(t, answer).Data, states[18].Data) {
		t.Fatalf("going on from 17: %v", answer)
	}
}

// wire3 is a state as it travels.
func wire3(s schema.State) []any { return []any{s.Dataset, s.Version, s.Data} }

// after is the state after the batch of a frame.
func after(t *testing.T, frame []any) schema.State {
	t.Helper()
	next := frame[6].([]any)
	return schema.State{Dataset: next[0].(string), Version: uint32(number(t, next[1])), Data: next[2].([]byte)}
}

// Ready batches count as taken when the trainer says so, and not before.
func TestReadyIsNotTaken(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := setup(t, func(context.Context) (*nats.Conn, error) { return service.Conn(), nil })
	handle := p.open("ready")
	first := []any{"", 0, nil}
	if answer := p.call("take", handle, 30.0, first, []any{}); answer[0] != "step" {
		t.Fatal(answer...)
	}
	second, third := p.next("ready"), p.next("ready")
	taken := func() uint64 {
		t.Helper()
		var status schema.Status
		if err := json.Unmarshal([]byte(p.call("status", handle, 30.0)[1].(string)), &status); err != nil {
			t.Fatal(err)
		}
		return status.Taken
	}
	if n := taken(); n != 1 {
		t.Errorf("%d are taken, 1 was", n)
	}
	p.send(0, "took", handle, third[2], []any{second[2]})
	if n := taken(); n != 3 {
		t.Errorf("%d are taken, 3 were", n)
	}
	// What lies ready is the answer to a take that has not seen it.
	p.next("ready")
	if answer := p.call("take", handle, 30.0, wire3(after(t, third)), []any{}); answer[0] != "ready" {
		t.Errorf("the fourth: %v", answer)
	}
	// A state elsewhere withdraws it.
	if answer := p.call("take", handle, 30.0, first, []any{}); answer[0] != "step" || number(t, answer[5]) != 1 {
		t.Errorf("back to the first: %v", answer)
	}
	p.news = nil
	if again := p.next("ready"); number(t, again[5]) != 2 || again[2] == second[2] {
		t.Errorf("after the first: %v", again)
	}
	if n := taken(); n != 1 {
		t.Errorf("%d are taken, after going back to the first", n)
	}
}

// The end of a run that the trainer did not ask for withdraws what lies ready.
func TestWithdrawn(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := setup(t, func(context.Context) (*nats.Conn, error) { return service.Conn(), nil })
	handle := p.open("withdrawn")
	if answer := p.call("take", handle, 30.0, []any{"", 0, nil}, []any{}); answer[0] != "step" {
		t.Fatal(answer...)
	}
	ready := p.next("ready")
	cfg := client.Config{Name: "withdrawn", Dataset: "counting", Params: counting{Length: 40}, TakeOver: true}
	other, err := client.Open[schema.Batch](t.Context(), service.Conn(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() //nolint:errcheck // it has the batcher for nothing
	p.next("withdrawn")
	answer := p.call("take", handle, 30.0, wire3(after(t, ready)), []any{})
	if fault, _ := answer[1].(map[string]any); answer[0] != "error" || fault["code"] != "superseded" {
		t.Fatal(answer...)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := setup(t, func(context.Context) (*nats.Conn, error) { return service.Conn(), nil })
	first := []any{"", 0, nil}
	code := func(answer []any) any { return answer[1].(map[string]any)["code"] }
	unknown := map[string]any{"name": "e", "dataset": "none", "timeout": 30.0}
	if got := code(p.call("open", unknown)); got != "unknown_dataset" {
		t.Errorf("open: %v", got)
	}
	if got := code(p.call("take", 77, 0.0, first, []any{})); got != "closed" {
		t.Errorf("no handle: %v", got)
	}
	handle := p.open("e")
	if got := code(p.call("take", handle, 30.0, []any{"counting", 9, []byte{0x80}}, []any{})); got != "wrong_state" {
		t.Errorf("wrong state: %v", got)
	}
	p.call("stop", handle, 30.0)
	if got := code(p.call("take", handle, 30.0, first, []any{})); got != "stopped" {
		t.Errorf("stopped: %v", got)
	}
	if got := p.call("close", handle, 30.0); got[0] != "ok" {
		t.Errorf("close: %v", got)
	}
}

// The trainer hears with its next call what the service says to the log that Connect is given, in lines that a socket
// has room for.
func TestLogOfTheService(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := setupLogged(t, func(_ context.Context, log *slog.Logger) (*nats.Conn, error) {
		log.Debug("below the level")
		log.Warn("long", "text", strings.Repeat("ü", 10_000))
		return service.Conn(), nil
	})
	p.open("logged")
	line := p.next("log")
	text, ok := line[2].(string)
	if !ok || number(t, line[1]) != int64(slog.LevelWarn) || !strings.HasPrefix(text, "msg=long text=ü") ||
		len(text) > 1100 || !utf8.ValidString(text) {
		t.Errorf("%q", line)
	}
}

// A trainer that does not speak the protocol is told so, and served no more.
func TestNonsense(t *testing.T) {
	t.Parallel()
	service := start(t)
	p := setup(t, func(context.Context) (*nats.Conn, error) { return service.Conn(), nil })
	p.send(1, "dance", 1)
	frame, err := p.conn.Read()
	if err != nil || !bytes.Contains(frame, []byte("bye")) {
		t.Fatalf("%q, %v", frame, err)
	}
	if err := <-p.served; !errors.Is(err, bridge.ErrFrame) {
		t.Fatalf("served: %v", err)
	}
	p.served <- nil
}
