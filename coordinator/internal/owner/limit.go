package owner

import (
	"cmp"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// Defaults and bounds of a batcher's settings.
const (
	DefaultWindowBytes = 1 << 30
	DefaultIdleTimeout = 10 * time.Minute

	// maxWindow bounds what a window may be set to, and with it what one generation can have in flight.
	maxWindow = 1 << 14

	// maxUnseen bounds the window until a batch was seen, and its size is known.
	maxUnseen = 8
)

// IdleTimeout is how long a batcher without a reader is kept. A record may hold any value.
func IdleTimeout(s wire.Settings) time.Duration {
	if s.IdleTimeout <= 0 {
		return DefaultIdleTimeout
	}
	return min(s.IdleTimeout, wire.MaxIdleTimeout)
}

// windowLimit is how many batches may be in flight: what was asked for, or 2 x slots + 1 so that no slot idles while
// the trainer takes, within the bytes. Until a batch was seen it is one for each slot, and a few at most.
func windowLimit(s wire.Settings, slots int, batchBytes int64) int {
	limit := cmp.Or(s.Window, 2*slots+1)
	if slots == 0 && s.Window == 0 {
		limit = 1
	}
	if batchBytes > 0 {
		limit = int(min(int64(limit), cmp.Or(s.WindowBytes, DefaultWindowBytes)/batchBytes))
	} else {
		limit = min(limit, max(slots, 1), maxUnseen)
	}
	return min(max(limit, 1), maxWindow)
}

// shareLimit is how many batches may be in flight beside batchers that wait for their first one: a share of the slots
// as a window, and no fewer than before a batch was seen. The jobs of a whole window would be ahead of their first
// ones.
func shareLimit(share int) int { return max(2*share+1, maxUnseen) }

// lagLimit is how many batches the slowest of several readers may be behind the furthest: what was asked for, within
// the bytes, and a window at least, since readers say where they are every quarter of one.
func lagLimit(s wire.Settings, limit int, batchBytes int64) uint64 {
	lag := cmp.Or(max(s.Lag, 0), 4*limit)
	if batchBytes > 0 {
		lag = int(min(int64(lag), cmp.Or(s.WindowBytes, DefaultWindowBytes)/batchBytes))
	}
	return uint64(max(lag, limit))
}

// retained is how many taken batches are kept for look-ups: what was asked for, or half the window, within the bytes.
func retained(s wire.Settings, limit int, batchBytes int64) int {
	if s.Retain < 0 {
		return 0
	}
	keep := cmp.Or(s.Retain, limit/2)
	if batchBytes > 0 {
		keep = int(min(int64(keep), cmp.Or(s.WindowBytes, DefaultWindowBytes)/batchBytes))
	}
	return keep
}
