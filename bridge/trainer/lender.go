//go:build linux

package trainer

import (
	"sync"
	"unsafe"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/schema"
)

// leastLent is the size from which a payload is received where the trainer sees it. A smaller one is copied in less time
// than a slot takes to be kept in order.
const leastLent = 32 << 10

// lender lends a client memory that the trainer maps, so that large payloads are received where the trainer sees them.
// It is the client.Buffers of one handle.
type lender struct {
	memory *bridge.Memory

	mu  sync.Mutex
	out map[*byte]int64 // the slots that the client has, by their first bytes
}

func newLender(memory *bridge.Memory) *lender {
	return &lender{memory: memory, out: make(map[*byte]int64)}
}

// Get implements client.Buffers.
func (l *lender) Get(n int) []byte {
	if n < leastLent {
		return nil
	}
	offset, slot, err := l.memory.Spare(n)
	if err != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out[unsafe.SliceData(slot)] = offset
	return slot
}

// Put implements client.Buffers.
func (l *lender) Put(buf []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free(unsafe.SliceData(buf))
}

// close takes back what the client has left, which is closed.
func (l *lender) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for first := range l.out {
		l.free(first)
	}
}

// free is called with mu held.
func (l *lender) free(first *byte) {
	if offset, ok := l.out[first]; ok {
		delete(l.out, first)
		_ = l.memory.Free(offset) // which is out
	}
}

// holds returns where a payload of that size lies in a slot that the client has, and keeps the slot. A payload ends with
// the last tensor.
func (l *lender) holds(batch schema.Batch, size int) (slot, offset int64, ok bool) {
	if len(batch) == 0 {
		return 0, 0, false
	}
	last := batch[len(batch)-1].Tensor.Data
	if len(last) == 0 {
		return 0, 0, false
	}
	slot, into, ok := l.memory.Hold(&last[len(last)-1])
	if !ok {
		return 0, 0, false
	}
	begins := into + 1 - size
	if begins != schema.Alignment { // its header is encoded in another way than here
		_ = l.memory.Free(slot)
		return 0, 0, false
	}
	return slot, slot + int64(begins), true
}
