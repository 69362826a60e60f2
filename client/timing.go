package client

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// longestStage bounds what is believed of the time of one stage. Sums of times above it could overflow.
const longestStage = 30 * 24 * time.Hour

func stage(d time.Duration) time.Duration { return min(max(d, 0), longestStage) }

// timingOf says where the time of one batch went that Take delivers at now. Clocks of three machines meet here: what
// lies between the storing of job and record is by the broker's alone, so a worker's clock that is wrong cannot make
// the queue longer than there was time.
//
// A record that lay in the store before this reader had its seat was on its way from then on, and not since it was
// stored: the trainer waited for the seat in between.
//
// shared says that other ranks move the same window. A job that was not there yet though the seat was is then blamed on
// them: no job goes out while one of them is a window behind. A job that was handed out twice was there for longer than
// its last execution says.
func timingOf(res *wire.Result, got *arrival, shared bool, began, now time.Time) schema.Timing {
	t := schema.Timing{
		Iterate: stage(res.Iterate), Queue: stage(res.Queue), Materialize: stage(res.Materialize), Wait: now.Sub(began),
	}
	var in, lay, out time.Duration // on its way into the store, lying there before the seat, on its way out
	if !got.stored.IsZero() {
		out = stage(got.arrived.Sub(got.stored))
		if sat := got.arrived.Sub(got.sat); !got.sat.IsZero() && sat >= 0 && sat < out {
			out, lay = sat, out-sat
		}
		if res.Queued != 0 {
			rest := stage(got.stored.Sub(time.Unix(0, res.Queued)) - t.Materialize)
			t.Queue = min(t.Queue, rest)
			in = rest - t.Queue
		}
	}
	fetched := schema.Timing{Wait: t.Wait, Transfer: out}
	fetched.Attribute(now.Sub(got.arrived))
	t.Transfer = in
	t.Attribute(now.Sub(got.arrived) + out + lay)
	t.Transfer += out
	t.WaitTransfer += fetched.WaitTransfer
	t.WaitOther -= fetched.WaitTransfer
	if shared && !got.sat.IsZero() && res.Deliveries <= 1 {
		since := min(now.Sub(began), now.Sub(got.sat)) // of the wait, what lies behind the seat
		there := now.Sub(got.arrived) + out + lay + in + t.Materialize + t.Queue + t.Iterate
		t.WaitRanks = min(max(since-max(there, 0), 0), t.WaitOther)
		t.WaitOther -= t.WaitRanks
	}
	return t
}
