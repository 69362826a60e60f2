package owner

import (
	"cmp"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// reader is the reader of the batcher, as last heard.
type reader struct {
	ledger *ledger
	heard  time.Time
	last   wire.Credit
	trace  string // of its last word: what is fed from now on belongs to it
	rate   rate
	runs   runs
}

// maxWaiting is how many bytes are kept of the text that says what a trainer waits for.
const maxWaiting = 1 << 10

// live reports whether a reader has the seat, and was heard within its lease.
func (r *reader) live(now time.Time, lease time.Duration) bool {
	rec := &r.ledger.rec
	return rec.Reader != "" && !deserted(rec) && now.Sub(r.heard) < lease
}

// seated notes that a reader was given the seat that is in the record.
func (r *reader) seated(now time.Time) {
	rec := &r.ledger.rec
	r.heard = now
	if rec.Size > 0 && r.last.Gen == rec.Gen {
		return // of one rank: what is known of all holds
	}
	r.last = wire.Credit{Gen: rec.Gen, Seat: rec.Seat, Reader: rec.Reader, BatchBytes: r.batchBytes()}
}

// hear takes what a credit says besides the position: sums of times, lateness, trace.
func (r *reader) hear(now time.Time, c *wire.Credit) {
	c.Waiting = c.Waiting[:min(len(c.Waiting), maxWaiting)]
	c.Lost = c.Lost[:min(len(c.Lost), wire.MaxLost)]
	r.heard = now
	r.follow(c.Trace)
}

// paced takes how far a credit of the present seat says that the trainer is, and how fast it came there.
func (r *reader) paced(now time.Time, c *wire.Credit) {
	r.rate.observe(now, c.Taken, c.Bytes)
	if c.Timing != nil {
		r.runs.observe(c.Taken, c.Timing.Materialize)
	}
}

// note keeps a credit of the present seat. Of one that does not speak for all ranks the size of batches counts.
func (r *reader) note(c *wire.Credit, speaks bool) {
	if r.ledger.rec.Size > 0 && r.last.Gen == c.Gen {
		c.BatchBytes = max(c.BatchBytes, r.last.BatchBytes)
	}
	if !speaks {
		r.last.BatchBytes = c.BatchBytes
		return
	}
	if c.Timing == nil && r.last.Reader == c.Reader {
		c.Timing = r.last.Timing // it is not in every credit
	}
	r.last = *c
}

// follow notes the trace context of the reader's last word.
func (r *reader) follow(trace string) { r.trace = wire.Traceparent(trace) }

// batchBytes is the largest payload seen; 0 while none was.
func (r *reader) batchBytes() int64 {
	if r.last.Gen == r.ledger.rec.Gen {
		return max(r.ledger.rec.BatchBytes, r.last.BatchBytes)
	}
	return r.ledger.rec.BatchBytes
}

// fetches reports whether the reader fetches payloads from workers.
func (r *reader) fetches() bool { return r.last.Stored > 0 && r.last.Stored < r.batchBytes() }

// small reports whether batches take so little room that they are dropped by whole blocks, one purge for many: a 64th
// of the window's bytes at most in the store, and an eighth in the memory of workers.
func (r *reader) small() bool {
	bytes := r.batchBytes()
	if r.fetches() {
		bytes = max(r.last.Stored, bytes/8)
	}
	return wire.BlockSize*bytes <= cmp.Or(r.ledger.rec.Settings.WindowBytes, DefaultWindowBytes)/64
}
