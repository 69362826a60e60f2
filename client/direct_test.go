package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/direct"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// keeper plays a worker that keeps payloads.
type keeper struct {
	o *owner
	l *direct.Listener

	mu      sync.Mutex
	kept    map[string][]byte // by attempt
	results map[string]*wire.Result
	served  int
	conns   int
	asked   []wire.Upload
	stall   int  // so many bytes into each answer nothing more comes; 0 for never
	alien   bool // what listens is no worker
	small   bool // payloads are small enough to be asked for together
	gaps    bool // every fifth payload is in the store instead, or is another than announced

	content func(uint64) []byte                        // of payloads; big or small by default
	answer  func(f *wire.Fetch, payload []byte) []byte // to a fetch of a kept payload; nil closes the connection
}

func newKeeper(t *testing.T, o *owner) *keeper {
	t.Helper()
	l, err := direct.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{o: o, l: l, kept: make(map[string][]byte), results: make(map[string]*wire.Result)}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			k.mu.Lock()
			k.conns++
			k.mu.Unlock()
			tasks.Go(func() { k.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); tasks.Wait() }) // closed by the test, maybe
	o.locked(func() { o.make = k.make })
	return k
}

func (k *keeper) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }() // whatever becomes of it is the reader's problem
	for {
		fetch, err := wire.ReadFetch(conn)
		if err != nil {
			return
		}
		k.mu.Lock()
		payload, ok := k.kept[fetch.Attempt]
		stall, alien := k.stall, k.alien
		k.served++
		k.mu.Unlock()
		answer := append(wire.AppendAnswer(nil, has(ok), len(payload)), payload...)
		if ok && k.answer != nil {
			answer = k.answer(fetch, payload)
		}
		if alien {
			answer = []byte("HTTP/1.1 400 Bad Request\r\n\r\n")
		}
		if stall > 0 {
			answer = answer[:stall]
		}
		if _, err := conn.Write(answer); err != nil || answer == nil {
			return
		}
	}
}

// has is what a worker has of a payload that may be there.
func has(there bool) wire.Has {
	if there {
		return wire.HasWhole
	}
	return wire.HasNothing
}

// big is the payload of a state, small another one.
func big(n uint64) []byte   { return bytes.Repeat(content(n), 100_000) }
func small(n uint64) []byte { return bytes.Repeat(content(n), 5_000) }

// make keeps a payload of several chunks, or a small one. Called with the owner's mu held.
func (k *keeper) make(o *owner, seq uint64) (*wire.Result, []byte) {
	n := o.base + seq - 1
	k.mu.Lock()
	defer k.mu.Unlock()
	content := big
	if k.small {
		content = small
	}
	if k.content != nil {
		content = k.content
	}
	res, payload := result(seq, n, content(n))
	res.Direct = &wire.Direct{Address: k.l.Addr().String()}
	k.results[res.Attempt] = res
	switch {
	case k.gaps && n%10 == 3:
		res.Chunks = uint32((len(payload) + wire.ChunkSize - 1) / wire.ChunkSize)
		o.storeChunks(res, payload)
	case k.gaps && n%10 == 8:
		k.kept[res.Attempt] = make([]byte, len(payload))
		res.Chunks = uint32((len(payload) + wire.ChunkSize - 1) / wire.ChunkSize)
		o.storeChunks(res, payload)
	default:
		k.kept[res.Attempt] = payload
	}
	return res, payload
}

// hear answers requests to store as long as it is subscribed; not at all if mute.
func (k *keeper) hear(t *testing.T, mute bool) *nats.Subscription {
	t.Helper()
	sub, err := k.o.nc.Subscribe(wire.UploadSubject("w1"), func(m *nats.Msg) {
		var request wire.Upload
		if err := json.Unmarshal(m.Data, &request); err != nil {
			t.Error(err)
		}
		k.mu.Lock()
		k.asked = append(k.asked, request)
		payload, res := k.kept[request.Attempt], k.results[request.Attempt]
		k.mu.Unlock()
		if mute {
			return
		}
		k.o.storeChunks(res, payload)
		k.o.respond(m, wire.UploadReply{})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.o.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

func TestFetchFromWorker(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	k := newKeeper(t, o)
	b, _ := setup(t, o, nil)
	takeAll(t, b, 20, big)
	natstest.Eventually(t, "fetches ahead are over, and leave their connections", func() bool {
		n := b.r.intake.fetcher.conns.len(k.l.Addr().String())
		return 0 < n && n <= idlePerWorker
	})
	k.mu.Lock()
	served := k.served
	k.mu.Unlock()
	b.r.line.mu.Lock()
	defer b.r.line.mu.Unlock()
	if c := b.r.line.tally; c.direct < 20 || c.stored != 0 || c.lost != 0 || served < 20 {
		t.Fatalf("%+v with %d fetches", c, served)
	}
}

// TestSmallPayloadsOfOneWorker has payloads be asked for together, some of which that worker does not have, or has
// wrong.
func TestSmallPayloadsOfOneWorker(t *testing.T) {
	t.Parallel()
	for name, gaps := range map[string]bool{"all there": false, "some not": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			k := newKeeper(t, o)
			k.small, k.gaps = true, gaps
			o.locked(func() { o.window = 16 })
			k.hear(t, false)
			b, _ := setup(t, o, nil)
			takeAll(t, b, 60, small)
			b.r.line.mu.Lock()
			defer b.r.line.mu.Unlock()
			if c := b.r.line.tally; c.lost != 0 || gaps == (c.stored == 0) || c.direct == 0 {
				t.Fatalf("%+v", c)
			}
		})
	}
}

// TestRunOfPayloads has a worker answer once all payloads of a run are asked for.
func TestRunOfPayloads(t *testing.T) {
	t.Parallel()
	const all = 5
	for _, c := range []struct {
		name string
		have int // so many of the first are there
		idle int // connections that are of use afterwards
	}{{"all", all, 1}, {"all but the last", all - 1, 1}, {"some", 2, 0}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, err := direct.Listen("127.0.0.1:0", false)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var server sync.WaitGroup
			server.Go(func() {
				conn, err := l.Accept()
				if err == nil {
					defer func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }() // until the reader leaves
					_, err = io.ReadFull(conn, make([]byte, all*len(wire.AppendFetch(nil, &wire.Fetch{Attempt: "attempt-0"}))))
				}
				var answers []byte
				for i := range all {
					if answers = wire.AppendAnswer(answers, has(i < c.have), 4*min(1, max(0, c.have-i))); i < c.have {
						answers = append(answers, fmt.Sprintf("pay%d", i)...)
					}
				}
				if err == nil {
					_, err = conn.Write(answers)
				}
				if err != nil {
					t.Error(err)
				}
			})
			f := &fetcher{secure: plainNATS, buffers: new(pool)}
			var run []*wire.Result
			for i := range all {
				run = append(run, &wire.Result{
					Seq: uint64(i + 1), Attempt: fmt.Sprintf("attempt-%d", i), Size: 4, Digest: wire.Sum(fmt.Appendf(nil, "pay%d", i)),
					Direct: &wire.Direct{Address: l.Addr().String()},
				})
			}
			var got []string
			err = f.fetch(t.Context(), run, func(i int, p payload) {
				if i != len(got) {
					t.Errorf("%d comes after %d", i, len(got))
				}
				got = append(got, string(p.bytes))
			})
			if want := []string{"pay0", "pay1", "pay2", "pay3", "pay4"}[:c.have]; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if (err != nil) != (c.have < all) || err != nil && !errors.Is(err, errNotKept) {
				t.Error(err)
			}
			if n := f.conns.len(l.Addr().String()); n != c.idle {
				t.Errorf("%d connections wait, want %d", n, c.idle)
			}
			f.conns.close()
			server.Wait()
		})
	}
}

func takeBig(t *testing.T, b *Batcher[[]byte], n uint64) {
	t.Helper()
	takeAll(t, b, n, big)
}

// takeAll takes n batches from the start and compares them.
func takeAll(t *testing.T, b *Batcher[[]byte], n uint64, want func(uint64) []byte) {
	t.Helper()
	var state schema.State
	for i := range n {
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(step.Batch, want(i)) {
			t.Fatalf("at %d: %d bytes, %.20q", i, len(step.Batch), step.Batch)
		}
		state = step.Next
		step.Release()
	}
}

// TestWorkerOutOfReach has a worker that can be spoken to by way of NATS only.
func TestWorkerOutOfReach(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	k := newKeeper(t, o)
	_ = k.l.Close()
	outOfReach(t, o, k)
	if k.served != 0 {
		t.Fatal("fetched from nowhere")
	}
}

// TestSomebodyElseListens has something at a worker's port that speaks another protocol, as a proxy does.
func TestSomebodyElseListens(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	k := newKeeper(t, o)
	k.alien = true
	outOfReach(t, o, k)
}

// outOfReach takes batches that can be had by way of NATS only.
func outOfReach(t *testing.T, o *owner, k *keeper) {
	t.Helper()
	k.hear(t, false)
	b, log := setup(t, o, nil)
	takeBig(t, b, 6)
	k.mu.Lock()
	defer k.mu.Unlock()
	avoid := func(u wire.Upload) bool { return u.Avoid >= int64(firstAvoid) }
	if len(k.asked) < 6 || !slices.ContainsFunc(k.asked, avoid) || slices.ContainsFunc(k.asked[idlePerWorker:], avoid) {
		t.Fatalf("the worker was asked %+v", k.asked)
	}
	if !log.has("large batches of a worker come through NATS") {
		t.Fatal("that is not said")
	}
}

// TestTransferStalls has a worker that stops in the middle of an answer.
func TestTransferStalls(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	k := newKeeper(t, o)
	k.stall = 100_000
	k.hear(t, false)
	b, _ := setup(t, o, nil)
	takeBig(t, b, 3)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.served == 0 || len(k.asked) < 3 || k.asked[0].Avoid != 0 {
		t.Fatalf("%d answers, asked %+v", k.served, k.asked)
	}
}

// TestPayloadIsLost has a worker die that keeps payloads which nobody has fetched.
func TestPayloadIsLost(t *testing.T) {
	t.Parallel()
	for name, mute := range map[string]bool{"dead": false, "paused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			k := newKeeper(t, o)
			_ = k.l.Close()
			if mute {
				k.hear(t, true)
			}
			b, _ := setup(t, o, nil)
			if err := b.Start(deadline(t), schema.State{}); err != nil {
				t.Fatal(err)
			}
			var lost wire.Lost
			natstest.Eventually(t, "the owner hears of it", func() (found bool) {
				o.locked(func() {
					for _, c := range o.credits {
						if found = len(c.Lost) > 0; found {
							lost = c.Lost[0]
						}
					}
				})
				return found
			})
			k.mu.Lock()
			if res := k.results[lost.Attempt]; res == nil || res.Seq != lost.Seq {
				t.Errorf("%+v is lost", lost)
			}
			k.mu.Unlock()
			// The owner has all that is lost made again, by somebody who stores it.
			o.locked(func() {
				o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
					n := o.base + seq - 1
					return result(seq, n, big(n))
				}
				o.remake = true
			})
			takeBig(t, b, 6)
			b.r.line.mu.Lock()
			defer b.r.line.mu.Unlock()
			if n := len(b.r.line.lost); n > 0 {
				t.Errorf("%d results count as lost still", n)
			}
			if b.r.line.tally.repairs > 0 {
				t.Errorf("%d seats were asked for", b.r.line.tally.repairs)
			}
		})
	}
}

// TestPausedWorkerIsNotAskedForEach has a worker that is paused keep a window of small payloads: they are given up
// together, and not one by one after a wait for each.
func TestPausedWorkerIsNotAskedForEach(t *testing.T) {
	t.Parallel()
	const window = 16
	o := newOwner(t)
	k := newKeeper(t, o)
	k.small, k.stall = true, 1
	o.locked(func() { o.window = window })
	k.hear(t, true)
	b, _ := setup(t, o, nil)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the owner hears of all that is lost", func() bool {
		lost := make(map[uint64]bool)
		o.locked(func() {
			for _, c := range o.credits {
				for _, l := range c.Lost {
					lost[l.Seq] = true
				}
			}
		})
		return len(lost) == window
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.asked) > fetchers || k.conns > 2*fetchers {
		t.Errorf("it was asked %d times by NATS and on %d connections, want %d and %d at most",
			len(k.asked), k.conns, fetchers, 2*fetchers)
	}
}

func TestAvoidance(t *testing.T) {
	t.Parallel()
	var a avoided
	now := time.Now()
	if a.has("w", now) {
		t.Fatal("at first")
	}
	for _, want := range []time.Duration{firstAvoid, 2 * firstAvoid, 4 * firstAvoid, 8 * firstAvoid, 16 * firstAvoid,
		mostAvoid, mostAvoid} {
		if got := a.double("w", now); got != want || !a.has("w", now) || a.has("v", now) {
			t.Fatalf("%v, not %v", got, want)
		}
	}
}

// TestLostPayloadIsAnother has a payload that was lost come back as another: some rank may have had rows of the first.
func TestLostPayloadIsAnother(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	k := newKeeper(t, o)
	_ = k.l.Close()
	b, _ := setup(t, o, nil)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "payloads are lost", func() bool {
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.tally.lost > 0
	})
	o.locked(func() {
		o.make = func(o *owner, seq uint64) (*wire.Result, []byte) { return result(seq, o.base+seq-1, []byte("another")) }
		o.remake = true
	})
	if step, err := b.Take(deadline(t), schema.State{}); !errors.Is(err, ErrNondeterministic) {
		t.Errorf("%.20q, %v", step.Batch, err)
	}
	o.locked(func() { o.remake = false })
}
