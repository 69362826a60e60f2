package worker

import (
	"sync"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// buffer is a reusable byte slice.
type buffer struct{ data []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func newBuffer() *buffer {
	b := buffers.Get().(*buffer)
	b.data = b.data[:0]
	return b
}

func (b *buffer) free() { buffers.Put(b) }

// product is a batch on its way: its large parts lie where the author left them, the rest in memory that is reused.
type product struct {
	pieces  wire.Pieces
	scratch []byte
}

var payloads = sync.Pool{New: func() any { return new(product) }}

func newPayload() *product { return payloads.Get().(*product) }

func (p *product) free() {
	p.pieces = nil
	payloads.Put(p)
}
