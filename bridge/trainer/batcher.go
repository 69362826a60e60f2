//go:build linux

package trainer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// batcher is one that the trainer has open.
type batcher struct {
	s      *server
	handle uint64
	name   string
	b      *client.Batcher[[]byte] // of payloads as they are, which need be copied only once
	last   context.Context         // of the newest take, which has ended or was given up when another comes

	// kept is a batch that was taken, and could not be delivered: there was no room, or the trainer had given up. The
	// next take is for the same state, or another one, and then the batch is of no use any more.
	kept *client.Step[[]byte]
	// turn is held by a take, or by readAhead between two takes, since a take that was given up may not be over yet. Its
	// holder alone uses the fields above and ahead.
	turn  chan struct{}
	ahead ahead         // what lies ready for the trainer
	took  atomic.Uint64 // up to which number the trainer took what lay ready
	wake  chan struct{} // a hint for readAhead
	open  context.Context
	ends  context.CancelFunc

	mu        sync.Mutex
	between   context.Context // ends when a take comes: it goes before what is done between two
	interrupt context.CancelFunc
}

// place is where a batch is that the trainer may see.
type place struct {
	batch  uint64 // its number
	offset int64
	size   int
}

// take is a request for a batch.
type take struct {
	id    uint64
	state schema.State
	ctx   context.Context
	done  func()
}

func (s *server) open(ctx context.Context, id uint64, req *openRequest) {
	cfg := req.config()
	cfg.Domain, cfg.Logger = s.domain, s.log.logger
	opened, err := client.Open[[]byte](ctx, s.nc, cfg)
	if err != nil {
		s.answer(id, err)
		return
	}
	b := &batcher{s: s, name: req.Name, b: opened, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	b.open, b.ends = context.WithCancel(s.ctx)
	b.renew()
	s.mu.Lock()
	s.handles++
	b.handle = s.handles
	s.batchers[b.handle] = b
	s.mu.Unlock()
	s.tasks.Go(b.readAhead)
	s.answer(id, nil, b.handle)
}

func (s *server) forget(b *batcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.batchers, b.handle)
}

// close leaves the batcher, and ends a take that waits.
func (b *batcher) close() error {
	ctx, cancel := context.WithTimeout(b.open, lastWords)
	b.counted(ctx)
	cancel()
	b.ends()
	err := b.b.Close()
	b.turn <- struct{}{}
	defer b.give()
	b.ahead.end()
	b.drop()
	return err
}

func (b *batcher) give() { <-b.turn }

// asked ends what is done between two takes.
func (b *batcher) asked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.interrupt()
}

// renew begins what is done between two takes.
func (b *batcher) renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.interrupt != nil {
		b.interrupt()
	}
	b.between, b.interrupt = context.WithCancel(b.open)
}

func (b *batcher) pause() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.between
}

// counted returns when the client has counted what the trainer took, when a take comes, which does that, or with ctx.
func (b *batcher) counted(ctx context.Context) {
	between := b.pause()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(between, cancel)()
	select {
	case b.turn <- struct{}{}:
		defer b.give()
		b.settle(ctx)
	case <-ctx.Done():
	}
}

func (b *batcher) drop() {
	if b.kept != nil {
		b.kept.Release()
		b.kept = nil
	}
}

func (b *batcher) take(t take) {
	b.turn <- struct{}{}
	defer b.give()
	b.settle(t.ctx)
	if b.ahead.has(t.state) { // and the trainer did not see it when it asked
		b.renew()
		t.done()
		b.s.send(t.id, "ready")
		b.look()
		return
	}
	b.ahead.end()
	step, err := b.next(t)
	if err == nil && errors.Is(context.Cause(t.ctx), errCancelled) {
		b.kept, err = &step, errCancelled // it came just too late; the next take is likely to be for it
	}
	t.done()
	if err != nil {
		b.s.answer(t.id, err)
		return
	}
	at, err := b.share(step.Batch)
	if errors.Is(err, bridge.ErrMemoryFull) {
		b.kept = &step
		err = fmt.Errorf("the trainer keeps arrays of earlier batches: %w; "+
			"let go of them, copy what is to be kept, or raise memory", err)
	}
	if err != nil {
		b.s.answer(t.id, err)
		return
	}
	step.Release()
	b.deliver(t.id, "step", at, &step)
	b.s.flush()
	b.ahead.begin(step.Next)
	b.renew()
	b.look()
}

// next is the batch that was kept, if it is the one that is asked for, or one from the service.
func (b *batcher) next(t take) (client.Step[[]byte], error) {
	if b.kept != nil && b.kept.Prev.Equal(t.state) {
		step := *b.kept
		b.kept = nil
		return step, nil
	}
	b.drop()
	return b.b.Take(t.ctx, t.state)
}

// share copies a payload to where the trainer sees it. It is the trainer's until it is freed by its number.
func (b *batcher) share(payload []byte) (at place, err error) {
	at.size = len(payload)
	offset, slot, err := b.s.memory.Alloc(at.size)
	if err != nil {
		return at, err
	}
	copy(slot, payload)
	if _, err := wire.DecodeBatch(slot); err != nil {
		return at, errors.Join(fmt.Errorf("batcher %s: %w: %w", b.name, client.ErrDecode, err), b.s.memory.Free(offset))
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.numbers++
	at.batch, at.offset = b.s.numbers, offset
	b.s.lent[at.batch] = offset
	return at, nil
}

// deliver makes the frame that answers a take, or, with id 0, says what lies ready. It is sent with a flush. It is
// written by hand: there is one for each batch.
func (b *batcher) deliver(id uint64, word string, at place, step *client.Step[[]byte]) {
	t := &step.Timing
	err := b.s.conn.Add(func(enc *msgpack.Encoder) error {
		w := writer{enc: enc}
		w.array(13)
		w.uint(id)
		w.string(word)
		w.uint(b.handle)
		w.uint(at.batch)
		w.uint(uint64(at.offset))
		w.uint(uint64(at.size))
		w.uint(step.Seq)
		w.do(step.Next.EncodeMsgpack(enc))
		w.array(11)
		for _, d := range [...]int64{
			int64(t.Iterate), int64(t.Queue), int64(t.Materialize), int64(t.Transfer), int64(t.Wait), int64(t.Trainer),
			int64(t.WaitIterate), int64(t.WaitQueue), int64(t.WaitMaterialize), int64(t.WaitTransfer), int64(t.WaitOther),
		} {
			w.do(enc.EncodeInt(d))
		}
		w.string(step.Worker)
		w.string(step.Attempt)
		w.uint(step.Deliveries)
		w.string(step.Trace)
		return w.err
	})
	if err != nil {
		b.s.cancel(errEnded)
	}
}

// writer keeps the first error of several writes.
type writer struct {
	enc *msgpack.Encoder
	err error
}

func (w *writer) do(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) array(n int)     { w.do(w.enc.EncodeArrayLen(n)) }
func (w *writer) uint(n uint64)   { w.do(w.enc.EncodeUint(n)) }
func (w *writer) string(s string) { w.do(w.enc.EncodeString(s)) }
