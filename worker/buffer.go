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
	blocks  wire.Blocks // their hashes
	scratch []byte
}

var payloads = sync.Pool{New: func() any { return new(product) }}

func newPayload() *product { return payloads.Get().(*product) }

// part is what a reader gets of a batch that wants these rows.
func (p *product) part(of *wire.Part) (wire.Has, wire.Pieces) {
	if of.Count > 0 && len(p.pieces) > 0 {
		if extents, ok := of.Extents(p.pieces[0], p.pieces.Size()); ok { // the first piece has all of a header
			part := wire.Pieces{p.blocks}
			for _, e := range extents {
				part = append(part, p.pieces.Range(e.From, e.To)...)
			}
			return wire.HasPart, part
		}
	}
	return wire.HasWhole, p.pieces
}

func (p *product) free() {
	p.pieces = nil
	payloads.Put(p)
}
