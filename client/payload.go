package client

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/jetbatch/jetbatch/internal/lend"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// payload is the bytes of a batch. Its buffer, if it came from the pool, goes back there once.
type payload struct {
	bytes []byte
	lent  *lent
}

type lent struct {
	pool *pool
	from lend.Buffers // whose the buffer is; nil for the pool's own
	buf  []byte       // headroom, then the payload
	back atomic.Bool
}

// headroom is what a buffer of the pool has before the payload: room for the head of a worker's answer, so that both
// are read at once.
const headroom = schema.Alignment

// answer is where the head of a worker's answer and the payload go. Only a payload of the pool has it.
func (p payload) answer() []byte { return p.lent.buf[headroom-wire.AnswerHead:] }

// release hands the buffer back. It is safe to call more than once and from any goroutine.
func (p payload) release() {
	if p.lent != nil && p.lent.back.CompareAndSwap(false, true) {
		if p.lent.from != nil {
			p.lent.from.Put(p.lent.buf)
			return
		}
		p.lent.pool.put(p.lent.buf)
	}
}

// pool keeps released buffers. Batches of one run are of about one size, so the last released that is large enough, and
// not much larger, will do: it is the likeliest to be in the processor's cache still. If none will do, one is given up
// for the new one, so that there are never more than were in use at once. To give up more would only have others made
// before the garbage collector runs.
type pool struct {
	from lend.Buffers // that are asked first; nil for none
	mu   sync.Mutex
	free [][]byte
}

func (p *pool) get(n int) payload {
	if p.from != nil {
		if buf := p.from.Get(headroom + n); buf != nil {
			return payload{bytes: buf[headroom:], lent: &lent{from: p.from, buf: buf}}
		}
	}
	p.mu.Lock()
	var buf []byte
	for i, b := range slices.Backward(p.free) {
		if room := cap(b) - headroom; room >= n && room/2 <= n {
			buf, p.free = b[:headroom+n], slices.Delete(p.free, i, i+1)
			break
		}
	}
	if buf == nil && len(p.free) > 0 {
		p.free = slices.Delete(p.free, 0, 1) // the oldest: sizes have changed since
	}
	p.mu.Unlock()
	if buf == nil {
		buf = schema.AlignedBuffer(headroom + n)
	}
	return payload{bytes: buf[headroom:], lent: &lent{pool: p, buf: buf}}
}

func (p *pool) put(buf []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, buf)
}

// inline checks a payload that came with its record, and moves it to where tensors may lie.
func (in *intake) inline(res *wire.Result, data []byte) (payload, error) {
	if got := wire.Sum(data); got != res.Digest {
		return payload{}, fmt.Errorf("batch %d: digest %v, announced %v", res.Seq, got, res.Digest)
	}
	if !in.align || len(data) == 0 || aligned(data) {
		return payload{bytes: data}, nil
	}
	p := in.buffers.get(len(data))
	copy(p.bytes, data)
	return p, nil
}

// aligned reports whether tensors may be viewed where payload lies.
func aligned(payload []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(payload)))%schema.Alignment == 0
}
