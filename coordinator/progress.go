package coordinator

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// save writes how far the trainer has come and drops the results below the new floor. The record first: a
// successor must find everything above the floor that it reads.
func (b *batcher) save() {
	if time.Since(b.unsaved) < savePause {
		return
	}
	g := b.gen
	floor := g.Droppable(retained(b.rec.Settings, g.Limit(), b.rec.BatchBytes))
	if b.small() {
		if whole := (floor + 1) / wire.BlockSize * wire.BlockSize; whole > 0 {
			floor = max(g.Floor(), whole-1)
		} else {
			floor = g.Floor()
		}
	}
	b.saveTo(floor)
}

// saveTo is save with a given floor, which is at most taken.
func (b *batcher) saveTo(floor uint64) {
	g := b.gen
	err := b.update(func(r *wire.Record) {
		r.Taken, r.Floor, r.FloorState, r.BatchBytes = g.Taken(), floor, g.StateAfter(floor), max(r.BatchBytes, b.last.BatchBytes)
	})
	if err != nil {
		b.log.Warn("progress not recorded yet", "error", err)
		return
	}
	g.saved = g.Taken()
	g.Drop(floor)
	for seq := range g.done {
		if seq <= floor {
			delete(g.done, seq)
		}
	}
	if err := b.purge(g.purged, floor); err != nil {
		b.log.Warn("taken results not dropped yet", "error", err)
		return
	}
	if g.purged != floor && b.kept() {
		b.announce() // which lets workers drop the payloads, too
	}
	g.purged = floor
}

// kept reports whether the reader fetches payloads from workers.
func (b *batcher) kept() bool { return b.last.Stored > 0 && b.last.Stored < b.rec.BatchBytes }

// small reports whether batches take so little room that they are dropped by whole blocks, one purge for many: a 64th of the
// window's bytes at most in the store, and an eighth in the memory of workers.
func (b *batcher) small() bool {
	bytes := b.rec.BatchBytes
	if b.kept() {
		bytes = max(b.last.Stored, bytes/8)
	}
	return wire.BlockSize*bytes <= b.windowBytes()/64
}

// unrecorded is how far the trainer may be ahead of the record: a window, of batches that are dropped by blocks a block at
// least.
func (b *batcher) unrecorded() uint64 {
	n := b.gen.Limit()
	if b.small() {
		n = max(n, wire.BlockSize)
	}
	return uint64(n)
}

func (b *batcher) windowBytes() int64 {
	if n := b.rec.Settings.WindowBytes; n > 0 {
		return n
	}
	return DefaultWindowBytes
}
