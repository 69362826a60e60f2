package client

import (
	"time"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// tally is what a reader counts, for its credits and for Prometheus; line.mu guards it.
type tally struct {
	batches     uint64 // taken
	holes       uint64 // passed over
	redelivered uint64 // batches whose job was handed out more than once
	moves       uint64 // to another state than the head's, as Take was asked
	repairs     uint64 // seats asked for because of a doubt
	direct      uint64 // large payloads fetched from the worker that made them
	stored      uint64 // large payloads read from the store
	apart       uint64 // times that one of several readers went on alone
	lost        uint64 // results whose payloads were nowhere, so that they were made again

	total         schema.Timing
	bytes         int64
	largestBatch  int64
	largestStored int64 // of those that came by way of the store
	lastTake      time.Time

	holesInARow uint64 // before the head
	lastHole    string // why the last of them is one
	sinceCredit int    // positions
	timed       time.Time
}

// batch counts a batch, and completes its timing with the time that the trainer spent before.
func (y *tally) batch(entry *reorder.Entry[arrival], timing *schema.Timing, began, now time.Time) {
	res, size := entry.Result, int64(entry.Result.Size)
	if !y.lastTake.IsZero() {
		timing.Trainer = began.Sub(y.lastTake)
	}
	y.lastTake = now
	y.total.Add(*timing)
	y.batches++
	if res.Deliveries > 1 {
		y.redelivered++
	}
	y.bytes += int64(len(entry.Value.payload.bytes)) // less than its size where a part was fetched
	y.largestBatch = max(y.largestBatch, size)
	if !entry.Value.direct {
		y.largestStored = max(y.largestStored, size)
	}
	y.holesInARow = 0
}

// hole counts a hole.
func (y *tally) hole(res *wire.Result) {
	y.holes++
	y.holesInARow++
	y.lastHole = ""
	if res.Fault != nil {
		y.lastHole = res.Fault.Message
	}
}

// step counts a position that was left, and reports whether a credit is due.
func (y *tally) step(window int) bool {
	y.sinceCredit++
	return y.sinceCredit >= wire.CreditEvery(window)
}

// timing is what a credit says of where the time went: in a beat always, else nil when it was said a moment ago.
func (y *tally) timing(now time.Time, always bool) *schema.Timing {
	y.sinceCredit = 0
	if !always {
		if now.Sub(y.timed) < timedEvery {
			return nil
		}
		y.timed = now
	}
	total := y.total
	return &total
}
