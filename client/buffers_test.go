package client

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/jetbatch/jetbatch/internal/lend"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// ledger lends buffers and keeps account of them. It overwrites a buffer that is put back.
type ledger struct {
	t     *testing.T
	least int // that it lends

	mu   sync.Mutex
	gets int
	out  map[*byte]bool
}

func (l *ledger) Get(n int) []byte {
	if n < l.least {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	buf := schema.AlignedBuffer(n)
	l.out[&buf[0]] = true
	l.gets++
	return buf
}

func (l *ledger) Put(buf []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.out[&buf[0]] {
		l.t.Errorf("%d bytes are put back that are not out", len(buf))
	}
	delete(l.out, &buf[0])
	for i := range buf {
		buf[i] = 0xee
	}
}

// count returns how many buffers were lent, and how many of them are out.
func (l *ledger) count() (gets, out int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gets, len(l.out)
}

// borrow opens a batcher whose payloads are in buffers of a ledger.
func borrow[B any](t *testing.T, o *owner) (*Batcher[B], *ledger) {
	t.Helper()
	l := &ledger{t: t, out: make(map[*byte]bool)}
	cfg := Config{Name: o.name, Dataset: "count", Logger: slog.New(slog.DiscardHandler)}
	b, err := Open[B](lend.With(deadline(t), l), o.srv.Connect(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b, l
}

// full waits until as many buffers are out as records are held, and those are n.
func full(t *testing.T, b *Batcher[[]byte], l *ledger, n int) {
	t.Helper()
	natstest.Eventually(t, fmt.Sprintf("%d payloads are here and no more", n), func() bool {
		_, out := l.count()
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return out == n && b.r.line.buf.Len() == n
	})
}

// begin has the window be here.
func begin(t *testing.T, b *Batcher[[]byte], l *ledger, o *owner) {
	t.Helper()
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	full(t, b, l, o.window)
}

// Every buffer goes back once, in whatever way its payload leaves.
func TestBuffersGoBack(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(t *testing.T, o *owner, k *keeper, b *Batcher[[]byte], l *ledger){
		"taken": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			take(t, b, schema.State{}, 30)
			full(t, b, l, o.window)
		},
		"moves": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			for i := range uint64(4) {
				take(t, b, stateOf(10*i), 6)
				full(t, b, l, o.window)
				take(t, b, stateOf(10*i+2), 3)   // back, where it is held
				take(t, b, stateOf(10*i+6), 2)   // ahead, where it is held
				take(t, b, stateOf(100+10*i), 2) // where it is not
				full(t, b, l, o.window)
			}
		},
		"a chain that breaks": func(t *testing.T, o *owner, k *keeper, b *Batcher[[]byte], _ *ledger) {
			o.locked(func() {
				o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
					res, payload := k.make(o, seq)
					if len(o.gens) == 1 && seq == 4 {
						res.Prev = stateOf(77).Data
					}
					return res, payload
				}
			})
			take(t, b, schema.State{}, 10)
			if len(o.gens) != 2 {
				t.Errorf("%d generations", len(o.gens))
			}
		},
		"damage": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], _ *ledger) {
			o.locked(func() {
				o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
					n := o.base + seq - 1
					res, payload := result(seq, n, large(n, 3*wire.ChunkSize))
					if len(o.gens) == 1 && seq == 3 {
						res.Digest[0]++
					}
					return res, payload
				}
			})
			take(t, b, schema.State{}, 6)
		},
		"not kept, or kept as another": func(t *testing.T, o *owner, k *keeper, b *Batcher[[]byte], l *ledger) {
			k.mu.Lock()
			k.gaps = true
			k.mu.Unlock()
			k.hear(t, false)
			o.locked(func() { o.window = 16 })
			take(t, b, schema.State{}, 30)
			full(t, b, l, o.window)
		},
		"lost with its worker": func(t *testing.T, o *owner, k *keeper, b *Batcher[[]byte], l *ledger) {
			_ = k.l.Close()
			o.locked(func() {
				o.remake = true
				o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
					if first := o.attempts[seq] == ""; first {
						return k.make(o, seq)
					}
					n := o.base + seq - 1
					return result(seq, n, small(n))
				}
			})
			take(t, b, schema.State{}, 6)
		},
		"a failure before what is here": func(t *testing.T, o *owner, k *keeper, b *Batcher[[]byte], l *ledger) {
			o.locked(func() {
				o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
					if len(o.gens) == 1 && seq == 4 {
						return failAt(seq, schema.CodeMaterialize)(o, seq)
					}
					return k.make(o, seq)
				}
			})
			if err := b.Start(deadline(t), schema.State{}); err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, "three payloads are here, and the failure", func() bool {
				_, out := l.count()
				b.r.line.mu.Lock()
				defer b.r.line.mu.Unlock()
				return out == 3 && b.r.line.buf.Len() == 4
			})
			if _, err := b.Take(deadline(t), schema.State{}); !errors.Is(err, ErrMaterialize) {
				t.Fatal(err)
			}
			begin(t, b, l, o)
		},
		"Stop": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			for range 3 {
				begin(t, b, l, o)
				if err := b.Stop(deadline(t)); err != nil {
					t.Fatal(err)
				}
			}
			begin(t, b, l, o)
		},
		"the owner moves on": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			state := take(t, b, schema.State{}, 3)
			full(t, b, l, o.window)
			o.moveOn(b)
			take(t, b, state, 10)
			full(t, b, l, o.window)
		},
		"superseded": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			begin(t, b, l, o)
			o.locked(func() { o.rec.Reader = "another"; o.rec.Seat++ })
			o.notice()
			natstest.Eventually(t, "the reader knows", func() bool { return b.r.run.err() != nil })
		},
		"seen": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			state := take(t, b, schema.State{}, 1)
			for range 5 {
				var states []schema.State
				full(t, b, l, o.window)
				for range 3 {
					states = append(states, state)
					natstest.Eventually(t, "it is seen", func() bool {
						at := state
						seen, _, err := b.Peek(at, func(s Step[[]byte]) error { state = s.Next; return nil })
						return seen && err == nil
					})
				}
				if n, err := b.TakeSeen(deadline(t), states...); n != 3 || err != nil {
					t.Fatal(n, err)
				}
			}
			full(t, b, l, o.window)
		},
		"the other readers are elsewhere": func(t *testing.T, o *owner, _ *keeper, b *Batcher[[]byte], l *ledger) {
			begin(t, b, l, o)
			b.r.rest()
			full(t, b, l, 0)
		},
		"Close during a fetch": func(t *testing.T, _ *owner, k *keeper, b *Batcher[[]byte], l *ledger) {
			k.mu.Lock()
			k.stall = 1000
			k.mu.Unlock()
			if err := b.Start(deadline(t), schema.State{}); err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, "a fetch is under way", func() bool { _, out := l.count(); return out > 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			k := newKeeper(t, o)
			k.small = true
			b, l := borrow[[]byte](t, o)
			run(t, o, k, b, l)
			if err := b.Close(); err != nil && !errors.Is(err, ErrSuperseded) {
				t.Error(err)
			}
			if gets, out := l.count(); gets == 0 || out != 0 {
				t.Errorf("of %d buffers %d are out after Close", gets, out)
			}
		})
	}
}

// A record that comes twice has its payload be moved to where tensors may lie, and dropped.
func TestBufferOfADuplicate(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	x, err := schema.NewTensor([]int{1}, []float64{1})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := wire.AppendPayload(nil, schema.Batch{{Name: "x", Tensor: x}})
	if err != nil {
		t.Fatal(err)
	}
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) { return result(seq, o.base+seq-1, payload) }
	b, l := borrow[schema.Batch](t, o)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the window is here", func() bool {
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.buf.Len() == o.window
	})
	odd := append(schema.AlignedBuffer(1), payload...)[1:]
	gets, out := l.count()
	b.r.line.mu.Lock()
	sess, entry := b.r.line.sess, func() *wire.Result { e, _ := b.r.line.buf.Look(); return e.Result }()
	b.r.line.mu.Unlock()
	sess.arrive(&commit{result: entry, inline: odd})
	if g, n := l.count(); g != gets+1 || n != out {
		t.Errorf("%d buffers more were lent, and %d are out more", g-gets, n-out)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, out := l.count(); out != 0 {
		t.Errorf("%d buffers are out after Close", out)
	}
}

// What the trainer has is its own until it releases it, and what it looks at is not put back meanwhile, even by Close.
func TestBuffersInUse(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	k := newKeeper(t, o)
	k.small = true
	b, l := borrow[[]byte](t, o)
	step, err := b.Take(deadline(t), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the second batch is seen", func() bool {
		seen, _, err := b.Peek(step.Next, func(next Step[[]byte]) error {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(next.Batch, small(1)) || !bytes.Equal(step.Batch, small(0)) {
				t.Error("Close put back what is looked at")
			}
			return nil
		})
		return seen && err == nil
	})
	if _, out := l.count(); out != 1 || !bytes.Equal(step.Batch, small(0)) {
		t.Errorf("%d buffers are out, and one is in use", out)
	}
	step.Release()
	step.Release()
	if _, out := l.count(); out != 0 {
		t.Errorf("%d buffers are out after the last release", out)
	}
}

// A payload lies behind room for an answer's head; what no memory is lent for is the pool's.
func TestBuffersAreLent(t *testing.T) {
	t.Parallel()
	l := &ledger{t: t, least: 1000, out: make(map[*byte]bool)}
	p := &pool{from: l}
	got := p.get(1000)
	if len(got.bytes) != 1000 || !l.out[&got.lent.buf[0]] || &got.bytes[0] != &got.lent.buf[schema.Alignment] {
		t.Fatal("the payload is elsewhere")
	}
	got.release()
	got.release()
	if _, out := l.count(); out != 0 || len(p.free) != 0 {
		t.Errorf("%d are out, %d in the pool", out, len(p.free))
	}
	p.get(100).release()
	if gets, _ := l.count(); gets != 1 || len(p.free) != 1 {
		t.Error("what was not lent is put back")
	}
}
