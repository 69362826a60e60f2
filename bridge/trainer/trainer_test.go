//go:build linux

package trainer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/bridge/trainer"
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
	served chan error
}

func setup(t *testing.T, connect func(context.Context) (*nats.Conn, error)) *peer {
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
	go func() { p.served <- trainer.Serve(context.Background(), served, trainer.Config{Connect: connect}) }()
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
		frame, err := p.conn.Read()
		var answer []any
		if err == nil {
			err = msgpack.Unmarshal(frame, &answer)
		}
		if err != nil {
			p.t.Fatalf("%s: %v", op, err)
		}
		if fmt.Sprint(answer[0]) == fmt.Sprint(p.calls) {
			return answer[1:]
		}
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
	for {
		want, err := reference.Take(t.Context(), schema.State{Data: state.Data})
		answer := p.call("take", handle, 30.0, []any{state.Dataset, state.Version, state.Data}, freed)
		if errors.Is(err, io.EOF) {
			if answer[0] != "end" {
				t.Fatalf("%v, where the data ends", answer)
			}
			break
		}
		if answer[0] != "step" {
			t.Fatal(answer...)
		}
		payload := make([]byte, number(t, answer[2]))
		if _, err := p.memory.ReadAt(payload, number(t, answer[1])); err != nil {
			t.Fatal(err)
		}
		expected, err := wire.AppendBatch(nil, want.Batch)
		if err != nil || !bytes.Equal(payload, expected) {
			t.Fatalf("batch %d differs from the reference (%v)", want.Seq, err)
		}
		next := answer[4].([]any)
		state = schema.State{Dataset: next[0].(string), Version: uint32(number(t, next[1])), Data: next[2].([]byte)}
		if !bytes.Equal(state.Data, want.Next.Data) {
			t.Fatalf("state %d differs from the reference", want.Seq)
		}
		states = append(states, state)
		freed = []any{p.calls}
	}
	if len(states) != 41 {
		t.Fatalf("%d states", len(states))
	}
	back := states[17]
	answer := p.call("take", handle, 30.0, []any{back.Dataset, back.Version, back.Data}, []any{})
	if answer[0] != "step" || !bytes.Equal(answer[4].([]any)[2].([]byte), states[18].Data) {
		t.Fatalf("going on from 17: %v", answer)
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
