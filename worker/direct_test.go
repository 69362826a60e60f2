package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// reader fetches from workers as a client does.
type reader struct {
	t    *testing.T
	conn net.Conn
}

func newReader(t *testing.T, d *wire.Direct) *reader {
	t.Helper()
	conn, err := direct.Dial(t.Context(), d.Address, d.Pin, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // closed by the test, mostly
	return &reader{t, conn}
}

// fetch returns a payload; nil when the worker does not have it.
func (r *reader) fetch(attempt string) []byte {
	r.t.Helper()
	has, payload := r.ask(&wire.Fetch{Attempt: attempt})
	if has == wire.HasPart {
		r.t.Fatal("a part that was not asked for")
	}
	return payload
}

// ask returns what the worker has, and what follows the head of its answer; nil when that is nothing.
func (r *reader) ask(f *wire.Fetch) (wire.Has, []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(wire.AppendFetch(nil, f)); err != nil {
		r.t.Fatal(err)
	}
	var head [wire.AnswerHead]byte
	if _, err := io.ReadFull(r.conn, head[:]); err != nil {
		r.t.Fatal(err)
	}
	has, size, err := wire.ParseAnswer(head)
	if err != nil {
		r.t.Fatal(err)
	}
	if has == wire.HasNothing {
		return has, nil
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r.conn, payload); err != nil {
		r.t.Fatal(err)
	}
	return has, payload
}

func largeBatches() func(context.Context, int) (schema.Batch, error) {
	return func(_ context.Context, n int) (schema.Batch, error) { return values(n, large) }
}

// TestPipe has a reader in the worker's process, to whom a batch need not be large to be handed over directly.
func TestPipe(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	o := newOwner(t, s, "train", "mixed")
	length := func(n int) int { return keepFrom / 4 * (n - 1) } // of tensors of 4 bytes, besides what describes them
	start(t, s, Config{}, nil, define("mixed", func(_ context.Context, n int) (schema.Batch, error) { return values(n, length(n)) }))
	o.feed(1, 2)
	o.waitEmpty()
	if res, inline := o.result(1); res.Direct != nil || res.Chunks != 0 || len(inline) == 0 {
		t.Fatalf("small result %+v with %d bytes", res, len(inline))
	}
	res, inline := o.result(2)
	if res.Direct == nil || res.Chunks != 1 || inline != nil {
		t.Fatalf("result %+v with %d bytes", res, len(inline))
	}
	if got := newReader(t, res.Direct).fetch(res.Attempt); !bytes.Equal(got, payloadOf(t, 2, length(2))) {
		t.Fatalf("%d bytes", len(got))
	}
}

// kept waits until the shelf holds as much.
func kept(t *testing.T, w *Worker, what string, condition func(payloads int, bytes int64) bool) {
	t.Helper()
	natstest.Eventually(t, what, func() bool {
		w.shelf.mu.Lock()
		defer w.shelf.mu.Unlock()
		return condition(w.shelf.shelf.Len(), w.shelf.shelf.Bytes())
	})
}

func TestFetch(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	w, _ := start(t, s, Config{Slots: 2}, nil, define("large", largeBatches()))
	o.feed(1, 3)
	o.waitEmpty()
	var r *reader
	for seq := uint64(1); seq <= 3; seq++ {
		res, inline := o.result(seq)
		if res.Direct == nil || inline != nil || res.Chunks != 11 {
			t.Fatalf("result %+v", res)
		}
		if n, _ := o.chunks(seq, res.Attempt, int(res.Chunks)); n != 0 {
			t.Fatalf("%d chunks are stored as well", n)
		}
		if r == nil {
			r = newReader(t, res.Direct)
		}
		for range 2 { // it stays for readers that come back
			if got, want := r.fetch(res.Attempt), payloadOf(t, int(seq), large); !bytes.Equal(got, want) || wire.Sum(got) != res.Digest {
				t.Fatalf("%d bytes of batch %d, want %d", len(got), seq, len(want))
			}
		}
	}
	if got := r.fetch("NOBODY"); got != nil {
		t.Fatalf("%d bytes of an attempt that never was", len(got))
	}
	first, _ := o.result(1)
	o.mu.Lock()
	o.floor = 2
	o.mu.Unlock()
	kept(t, w, "what was dropped by the owner is gone", func(n int, bytes int64) bool { return n == 1 && bytes < 2*large*4 })
	if r.fetch(first.Attempt) != nil {
		t.Fatal("a dropped payload is here")
	}
	o.begin() // another generation
	kept(t, w, "what belongs to the one before is gone", func(n int, bytes int64) bool { return n == 0 && bytes == 0 })
}

// TestFetchNonsense says what is no request.
func TestFetchNonsense(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	start(t, s, Config{Slots: 1}, nil, define("large", largeBatches()))
	o.feed(1, 1)
	o.waitEmpty()
	res, _ := o.result(1)
	for _, nonsense := range []string{"GET / HTTP/1.1\r\n\r\n", "\x01\x00", "\x01\xff"} {
		r := newReader(t, res.Direct)
		if _, err := r.conn.Write([]byte(nonsense)); err != nil {
			t.Fatal(err)
		}
		if n, err := r.conn.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Fatalf("%q was answered", nonsense)
		}
	}
}

// upload asks a worker to store a payload.
func (o *owner) upload(worker, attempt string, avoid time.Duration) *schema.Fault {
	o.t.Helper()
	body, err := json.Marshal(wire.Upload{Attempt: attempt, Avoid: int64(avoid)})
	if err != nil {
		o.t.Fatal(err)
	}
	msg, err := o.nc.Request(wire.UploadSubject(worker), body, 10*time.Second)
	if err != nil {
		o.t.Fatal(err)
	}
	var reply wire.UploadReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		o.t.Fatal(err)
	}
	return reply.Fault
}

func TestUpload(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	w, _ := start(t, s, Config{Name: "w1", Slots: 1}, nil, define("large", largeBatches()))
	o.feed(1, 2)
	o.waitEmpty()
	check := func(seq uint64) {
		t.Helper()
		res, _ := o.result(seq)
		n, got := o.chunks(seq, res.Attempt, int(res.Chunks))
		if n != int(res.Chunks) || !bytes.Equal(got, payloadOf(t, int(seq), large)) {
			t.Fatalf("%d chunks with %d bytes", n, len(got))
		}
	}
	first, _ := o.result(1)
	if fault := o.upload("w1", first.Attempt, 0); fault != nil {
		t.Fatal(fault)
	}
	check(1)
	if fault := o.upload("w1", first.Attempt, 0); fault == nil || fault.Code != wire.CodeNotKept {
		t.Fatalf("stored, and kept: %v", fault)
	}
	// One who cannot reach the worker at all gets the next ones by the store.
	second, _ := o.result(2)
	if fault := o.upload("w1", second.Attempt, math.MaxInt64); fault != nil {
		t.Fatal(fault)
	}
	check(2)
	o.feed(3, 3)
	o.waitEmpty()
	if res, _ := o.result(3); res.Direct != nil {
		t.Fatalf("result %+v", res)
	}
	check(3)
	kept(t, w, "nothing is kept", func(n int, bytes int64) bool { return n == 0 && bytes == 0 })
}

// TestShelfIsFull has room for two payloads.
func TestShelfIsFull(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	w, _ := start(t, s, Config{Slots: 1, KeepBytes: 12 << 20}, nil, define("large", largeBatches()))
	o.feed(1, 3)
	o.waitEmpty()
	first, _ := o.result(1)
	third, _ := o.result(3)
	if first.Direct == nil || third.Direct != nil {
		t.Fatalf("results %+v and %+v", first, third)
	}
	if n, _ := o.chunks(3, third.Attempt, int(third.Chunks)); n != 11 {
		t.Fatalf("%d chunks", n)
	}
	r := newReader(t, first.Direct)
	if r.fetch(first.Attempt) == nil {
		t.Fatal("the first is not here")
	}
	kept(t, w, "the worker knows that it was fetched", func(int, int64) bool { return w.shelf.fetched == 1 })
	o.feed(4, 4)
	o.waitEmpty()
	if res, _ := o.result(4); res.Direct == nil {
		t.Fatalf("what was fetched made no room for %+v", res)
	}
	if r.fetch(first.Attempt) != nil {
		t.Fatal("there is room for three")
	}
}

// TestLeavingWorkerStores ends a worker that keeps what nobody has fetched.
func TestLeavingWorkerStores(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	w, stop := start(t, s, Config{Slots: 1}, nil, define("large", largeBatches()))
	o.feed(1, 2)
	o.waitEmpty()
	first, _ := o.result(1)
	r := newReader(t, first.Direct)
	if r.fetch(first.Attempt) == nil {
		t.Fatal("the first is not here")
	}
	kept(t, w, "the worker knows that it was fetched", func(int, int64) bool { return w.shelf.fetched == 1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for seq, want := range map[uint64]int{1: 0, 2: 11} {
		res, _ := o.result(seq)
		if n, _ := o.chunks(seq, res.Attempt, int(res.Chunks)); n != want {
			t.Errorf("%d chunks of batch %d are stored", n, seq)
		}
	}
}

// TestRefusedIsNotKept has another attempt's record there first.
func TestRefusedIsNotKept(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	r := &wire.Result{Seq: 1, Attempt: "other", Worker: "w0", Digest: wire.Sum(payloadOf(t, 1, large)), Prev: []byte{1},
		Next: []byte{2}, Spec: (&wire.Record{Spec: o.spec}).SpecDigest()}
	data, err := wire.AppendResult(nil, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.js.Publish(t.Context(), wire.ResultSubject(o.batcher, o.gen, 1), data); err != nil {
		t.Fatal(err)
	}
	w, _ := start(t, s, Config{Slots: 1}, nil, define("large", largeBatches()))
	o.feed(1, 1)
	natstest.Eventually(t, "the job is done", func() bool { return w.Status().Done == 1 })
	kept(t, w, "it is not kept", func(n int, bytes int64) bool { return n == 0 && bytes == 0 })
}
