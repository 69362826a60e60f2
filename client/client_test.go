package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

// journal collects log lines.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.buf.String(), text)
}

// setup opens a batcher of the owner's that is closed when the test ends.
func setup(t *testing.T, o *owner, change func(*Config)) (*Batcher[[]byte], *journal) {
	t.Helper()
	log := new(journal)
	cfg := Config{Name: o.name, Dataset: "count", Logger: slog.New(slog.NewTextHandler(log, nil))}
	if change != nil {
		change(&cfg)
	}
	b, err := Open[[]byte](deadline(t), o.srv.Connect(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the owner may be off the air by then
	return b, log
}

// deadline is a context that no wait of a test that passes runs into.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// take takes n batches from state on and checks every one. It returns the state after them.
func take(t *testing.T, b *Batcher[[]byte], state schema.State, n int) schema.State {
	t.Helper()
	for range n {
		at := number(state)
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatalf("Take at %d: %v", at, err)
		}
		if !bytes.Equal(step.Batch, content(at)) && !bytes.HasPrefix(step.Batch, content(at)) {
			t.Fatalf("at %d: got %.20q", at, step.Batch)
		}
		if !step.Prev.Equal(state) || !step.Next.Equal(stateOf(at+1)) {
			t.Fatalf("at %d: from %v to %v", at, step.Prev, step.Next)
		}
		state = step.Next
		step.Release()
		step.Release()
	}
	return state
}

func TestTakeInOrder(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.end = 40
	b, _ := setup(t, o, nil)
	var steps []Step[[]byte]
	for step, err := range b.All(deadline(t), schema.State{}) {
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	if len(steps) != 40 {
		t.Fatalf("%d batches", len(steps))
	}
	for i, s := range steps {
		if s.Seq != uint64(i+1) || string(s.Batch) != fmt.Sprintf("batch %d", i) || s.Worker != "w1" || s.Deliveries != 1 {
			t.Errorf("step %d: %+v", i, s)
		}
		if s.Timing.Materialize != time.Millisecond || s.Timing.Transfer < 0 || s.Timing.Wait <= 0 ||
			(s.Timing.Trainer <= 0) != (i == 0) {
			t.Errorf("step %d: %+v", i, s.Timing)
		}
	}
	// The end is the end for its own state, and known at once to Status.
	if _, err := b.Take(deadline(t), steps[39].Next); !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %v", err)
	}
	if s, err := b.Status(deadline(t)); err != nil || s.Phase != schema.PhaseDone {
		t.Fatalf("status %+v, %v", s, err)
	}
	natstest.Eventually(t, "the owner knows, too", func() (done bool) {
		o.locked(func() { done = o.rec.Phase == schema.PhaseDone })
		return done
	})
	// Another state begins there, without a new generation while it is held.
	take(t, b, stateOf(37), 3)
	if len(o.gens) != 1 {
		t.Errorf("%d generations", len(o.gens))
	}
}

// TestRangeOverAllTwice breaks a range, and begins each at the state that was given.
func TestRangeOverAllTwice(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.end = 9
	b, _ := setup(t, o, nil)
	all := b.All(deadline(t), stateOf(4))
	for _, most := range []uint64{2, 9, 9} {
		n := uint64(0)
		for step, err := range all {
			if err != nil || number(step.Prev) != 4+n {
				t.Fatalf("step %d: after %v, %v", n, step.Prev, err)
			}
			if n++; n == most {
				break
			}
		}
		if want := min(most, 5); n != want {
			t.Errorf("%d batches, want %d", n, want)
		}
	}
}

func TestStartThenTake(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	if err := b.Start(deadline(t), stateOf(5)); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(deadline(t), stateOf(9)); err != nil {
		t.Fatal(err)
	}
	if !log.has("changes nothing") {
		t.Error("no warning of the second Start")
	}
	take(t, b, stateOf(5), 10)
	if n := o.count(wire.ModeStart); n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestMoveToAnotherState(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	state := take(t, b, schema.State{}, 6)
	take(t, b, stateOf(2), 3)   // held
	take(t, b, stateOf(6), 2)   // held, ahead
	take(t, b, stateOf(100), 3) // not held
	take(t, b, schema.State{}, 6)
	take(t, b, state, 1)
	if !log.has("moving to another state") {
		t.Error("no warning")
	}
	if len(o.gens) != 3 { // 0, 100, 0
		t.Errorf("%d generations", len(o.gens))
	}
	// A state that the user made carries no data set.
	bare, err := schema.NewState(uint64(7))
	if err != nil {
		t.Fatal(err)
	}
	seeks := o.count(wire.ModeSeek)
	step, err := b.Take(deadline(t), bare)
	if err != nil || string(step.Batch) != "batch 7" || o.count(wire.ModeSeek) != seeks {
		t.Errorf("%q, %v, %d seeks more", step.Batch, err, o.count(wire.ModeSeek)-seeks)
	}
}

func TestWrongState(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	other := stateOf(1)
	other.Dataset = "other"
	if _, err := b.Take(deadline(t), other); !errors.Is(err, ErrWrongState) {
		t.Errorf("other data set: %v", err)
	}
	if err := b.Start(deadline(t), other); !errors.Is(err, ErrWrongState) {
		t.Errorf("other data set: %v", err)
	}
	huge := schema.State{Data: make([]byte, schema.MaxState+1)}
	if _, err := b.Take(deadline(t), huge); !errors.Is(err, ErrStateTooLarge) {
		t.Errorf("huge state: %v", err)
	}
	o.locked(func() {
		o.onSeat = func(req *wire.SeatRequest) *wire.SeatReply {
			if req.State.Version != 2 {
				return nil
			}
			return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeWrongState, Message: "version 2"}}
		}
	})
	old := stateOf(1)
	old.Version = 2
	if _, err := b.Take(deadline(t), old); !errors.Is(err, ErrWrongState) {
		t.Errorf("other version: %v", err)
	}
	take(t, b, stateOf(3), 2) // nothing is lost by it
}

func TestStoredBeforeSubscribed(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	// The first results are stored before the seat is answered, so no live message of them reaches the reader.
	o.window = 100
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 100)
}

func TestLiveMessageLost(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.window = 8
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	b.r.line.mu.Lock()
	sub := b.r.line.sess.sub
	b.r.line.mu.Unlock()
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	take(t, b, state, 20)
	t.Logf("20 batches by looking alone in %v", time.Since(began))
	if o.count(wire.ModeSeek) != 0 {
		t.Error("asked for another seat; reading was enough")
	}
}

func TestHoles(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		res, payload := o.batch(seq)
		if seq%3 != 0 {
			return res, payload
		}
		res.Kind, res.Size, res.Digest, res.Fault = wire.KindHole, 0, wire.Digest{}, &schema.Fault{Message: "no label"}
		return res, nil
	}
	b, _ := setup(t, o, nil)
	var got []uint64
	state := schema.State{}
	for range 8 {
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, step.Seq)
		state = step.Next
	}
	if want := "[1 2 4 5 7 8 10 11]"; fmt.Sprint(got) != want {
		t.Errorf("took %v, want %v", got, want)
	}
}

func large(n uint64, size int) []byte {
	payload := bytes.Repeat([]byte{byte(n)}, size)
	copy(payload, content(n))
	return payload
}

func TestChunkedPayloads(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		n := o.base + seq - 1
		return result(seq, n, large(n, 5*wire.ChunkSize+int(n)))
	}
	b, _ := setup(t, o, func(c *Config) { c.WindowBytes = 8 << 20 })
	state := schema.State{}
	for n := range uint64(12) {
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(step.Batch, large(n, 5*wire.ChunkSize+int(n))) {
			t.Fatalf("batch %d differs", n)
		}
		b.r.line.mu.Lock()
		held := b.r.line.buf.Bytes()
		b.r.line.mu.Unlock()
		if held > 8<<20 {
			t.Errorf("%d bytes held ahead", held)
		}
		state = step.Next
		step.Release()
	}
	b.r.intake.buffers.mu.Lock()
	defer b.r.intake.buffers.mu.Unlock()
	// Three batches fit into the window, one is with the trainer, and one may be on its way to be released.
	if n := len(b.r.intake.buffers.free); n == 0 || n > 5 {
		t.Errorf("%d buffers in the pool", n)
	}
}

func TestPool(t *testing.T) {
	t.Parallel()
	var p pool
	expect := func(buffers int) {
		t.Helper()
		if len(p.free) != buffers {
			t.Fatalf("%d buffers, want %d", len(p.free), buffers)
		}
	}
	get := func(n, size int) (got []payload) {
		for range n {
			got = append(got, p.get(size))
		}
		return got
	}
	release := func(payloads []payload) {
		for _, p := range payloads {
			p.release()
		}
	}
	many := get(8, 1000)
	release(many)
	release(many) // again does nothing
	expect(8)
	last := &many[7].bytes[0]
	if p := p.get(900); &p.bytes[0] != last || len(p.bytes) != 900 {
		t.Error("it is not the one that was released last")
	} else {
		p.release()
	}
	others := get(6, 5000) // none of the small ones will do, and as many go
	expect(2)
	release(others)
	expect(8)
}

func TestPayloadLargerThanWindowBytes(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		n := o.base + seq - 1
		return result(seq, n, large(n, 3<<20))
	}
	b, _ := setup(t, o, func(c *Config) { c.WindowBytes = 1 })
	take(t, b, schema.State{}, 5)
}

func TestTensorsAreAligned(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	x, err := schema.NewTensor([]int{3}, []float64{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		payload, err := wire.AppendPayload(nil, schema.Batch{{Name: "x", Tensor: x}})
		if err != nil {
			t.Error(err)
		}
		return result(seq, o.base+seq-1, payload)
	}
	b, err := Open[schema.Batch](deadline(t), o.srv.Connect(), Config{Name: o.name, Dataset: "count"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	state := schema.State{}
	for range 10 {
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := step.Batch.Get("x")
		if v, err := schema.View[float64](got); err != nil || v[2] != 3 {
			t.Fatalf("%v, %v", v, err)
		}
		step.Release()
		state = step.Next
	}
}
