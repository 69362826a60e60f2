//go:build linux

package trainer

import (
	"context"
	"errors"
	"fmt"
	"sync"

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
	b      *client.Batcher[schema.Batch]
	last   context.Context // of the newest take, which has ended or was given up when another comes

	// kept is a batch that was taken, and could not be delivered: there was no room, or the trainer had given up. The
	// next take is for the same state, or another one, and then the batch is of no use any more.
	kept   *client.Step[schema.Batch]
	taking sync.Mutex // held by a take; those before it were given up, and may not be over yet
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
	opened, err := client.Open[schema.Batch](ctx, s.nc, cfg)
	if err != nil {
		s.answer(id, err)
		return
	}
	b := &batcher{s: s, b: opened}
	s.mu.Lock()
	s.handles++
	b.handle = s.handles
	s.batchers[b.handle] = b
	s.mu.Unlock()
	s.answer(id, nil, b.handle)
}

func (s *server) forget(b *batcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.batchers, b.handle)
}

// close leaves the batcher, and ends a take that waits.
func (b *batcher) close() error {
	err := b.b.Close()
	b.taking.Lock()
	defer b.taking.Unlock()
	b.drop()
	return err
}

func (b *batcher) drop() {
	if b.kept != nil {
		b.kept.Release()
		b.kept = nil
	}
}

func (b *batcher) take(t take) {
	b.taking.Lock()
	defer b.taking.Unlock()
	step, err := b.next(t)
	if err == nil && errors.Is(context.Cause(t.ctx), errCancelled) {
		b.kept, err = &step, errCancelled // it came just too late; the next take is likely to be for it
	}
	t.done()
	if err != nil {
		b.s.answer(t.id, err)
		return
	}
	offset, size, err := b.share(step.Batch)
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
	b.s.mu.Lock()
	b.s.lent[t.id] = offset
	b.s.mu.Unlock()
	b.deliver(t.id, offset, size, &step)
}

// next is the batch that was kept, if it is the one that is asked for, or one from the service.
func (b *batcher) next(t take) (client.Step[schema.Batch], error) {
	if b.kept != nil && b.kept.Prev.Equal(t.state) {
		step := *b.kept
		b.kept = nil
		return step, nil
	}
	b.drop()
	return b.b.Take(t.ctx, t.state)
}

// share writes the payload of a batch to where the trainer sees it.
func (b *batcher) share(batch schema.Batch) (offset int64, size int, err error) {
	size = wire.EncodedSize(batch)
	offset, slot, err := b.s.memory.Alloc(size)
	if err != nil {
		return 0, 0, err
	}
	if _, err := wire.AppendBatch(slot[:0], batch); err != nil {
		return 0, 0, errors.Join(err, b.s.memory.Free(offset))
	}
	return offset, size, nil
}

// deliver answers a take. It is written by hand: there is one for each batch.
func (b *batcher) deliver(id uint64, offset int64, size int, step *client.Step[schema.Batch]) {
	t := &step.Timing
	err := b.s.conn.Write(func(enc *msgpack.Encoder) error {
		w := writer{enc: enc}
		w.array(11)
		w.uint(id)
		w.string("step")
		w.uint(uint64(offset))
		w.uint(uint64(size))
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
