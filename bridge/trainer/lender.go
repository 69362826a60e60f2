//go:build linux

package trainer

import (
	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/schema"
)

// leastLent is the size from which a payload is received where the trainer sees it. A smaller one is copied in less
// time than a slot takes to be kept in order.
const leastLent = 32 << 10

// lender lends a client memory that the trainer maps, so that large payloads are received where the trainer sees them.
type lender struct{ memory *bridge.Memory }

// Get implements lend.Buffers.
func (l lender) Get(n int) []byte {
	if n < leastLent {
		return nil
	}
	slot, err := l.memory.Spare(n)
	if err != nil { // the payload is copied when the trainer has room for it
		return nil
	}
	return slot
}

// Put implements lend.Buffers.
func (l lender) Put(buf []byte) { l.memory.Return(buf) }

// holds returns where a payload of that size lies in a slot that the client has, and has the trainer have it, too. A
// payload ends with the last tensor. ok is false where the payload has to be copied.
func (l lender) holds(batch schema.Batch, size int) (slot, offset int64, ok bool, err error) {
	if len(batch) == 0 {
		return 0, 0, false, nil
	}
	last := batch[len(batch)-1].Tensor.Data
	if len(last) == 0 {
		return 0, 0, false, nil
	}
	slot, into, ok, err := l.memory.Hold(&last[len(last)-1])
	if !ok || err != nil {
		return 0, 0, false, err
	}
	if into+1-size != schema.Alignment { // its header is encoded in another way than here
		return 0, 0, false, l.memory.Free(slot)
	}
	return slot, slot + schema.Alignment, true, nil
}
