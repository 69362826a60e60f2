package owner

import (
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Counters counts what an owner did, for metrics.
type Counters struct {
	Taken       uint64 // positions that the trainer moved past
	Fed         uint64 // jobs published for the first time
	Generations uint64 // begun
	Held        uint64 // seats at a state that was held
	Detached    uint64 // readers among several that were left to a batcher of their own
	Timing      schema.Timing
	Bytes       int64

	reader    string // whose sums these are, as last heard
	total     schema.Timing
	totalSize int64
}

// hear adds the growth of a reader's sums since its last credit. What the reader did before its first credit here is
// not counted.
func (n *Counters) hear(c *wire.Credit) {
	if c.Timing == nil {
		return
	}
	if c.Reader == n.reader && c.Bytes >= n.totalSize && c.Timing.Wait >= n.total.Wait {
		grown := *c.Timing
		grown.Sub(n.total)
		n.Timing.Add(grown)
		n.Bytes += c.Bytes - n.totalSize
	}
	n.reader, n.total, n.totalSize = c.Reader, *c.Timing, c.Bytes
}
