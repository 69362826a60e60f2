package client

import (
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestTimingOf(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	base := time.Unix(1000, 0) // when the job was stored, by the broker's clock
	at := func(d time.Duration) time.Time { return base.Add(d) }
	for name, test := range map[string]struct {
		res     wire.Result
		stored  time.Time
		arrived time.Time
		sat     time.Time
		began   time.Time
		now     time.Time
		shared  bool
		want    schema.Timing
	}{
		"through the store": {
			wire.Result{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Queued: base.UnixNano()}, at(35 * ms), at(37 * ms),
			at(-ms), at(0), at(40 * ms), false,
			schema.Timing{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Transfer: 7 * ms, Wait: 40 * ms,
				WaitIterate: 0, WaitQueue: 10 * ms, WaitMaterialize: 20 * ms, WaitTransfer: 7 * ms, WaitOther: 3 * ms},
		},
		"the window was closed by another rank": {
			wire.Result{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Queued: base.UnixNano()}, at(35 * ms), at(37 * ms),
			at(-time.Hour), at(-500 * ms), at(40 * ms), true,
			schema.Timing{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Transfer: 7 * ms, Wait: 540 * ms, WaitIterate: ms,
				WaitQueue: 10 * ms, WaitMaterialize: 20 * ms, WaitTransfer: 7 * ms, WaitRanks: 499 * ms, WaitOther: 3 * ms},
		},
		"the seat was asked for before": {
			wire.Result{Iterate: ms, Materialize: 20 * ms, Queued: base.UnixNano()}, at(20 * ms), at(20 * ms),
			at(-100 * ms), at(-500 * ms), at(20 * ms), true,
			schema.Timing{Iterate: ms, Materialize: 20 * ms, Wait: 520 * ms, WaitIterate: ms, WaitMaterialize: 20 * ms,
				WaitRanks: 99 * ms, WaitOther: 400 * ms},
		},
		"the job was there, and its first worker was lost": {
			wire.Result{Iterate: ms, Materialize: 20 * ms, Queued: base.UnixNano(), Deliveries: 2}, at(20 * ms), at(20 * ms),
			at(-time.Hour), at(-500 * ms), at(20 * ms), true,
			schema.Timing{Iterate: ms, Materialize: 20 * ms, Wait: 520 * ms, WaitIterate: ms, WaitMaterialize: 20 * ms,
				WaitOther: 499 * ms},
		},
		"looked up by a rank": {
			wire.Result{Materialize: 20 * ms, Queued: base.UnixNano()}, at(35 * ms), at(2003 * ms), at(2000 * ms),
			at(500 * ms), at(2004 * ms), true,
			schema.Timing{Materialize: 20 * ms, Transfer: 18 * ms, Wait: 1504 * ms, WaitTransfer: 3 * ms, WaitOther: 1501 * ms},
		},
		"it was there in time": {
			wire.Result{Materialize: 20 * ms, Queued: base.UnixNano()}, at(20 * ms), at(20 * ms), at(0), at(90 * ms),
			at(91 * ms), true,
			schema.Timing{Materialize: 20 * ms, Wait: ms, WaitOther: ms},
		},
		"a worker's clock that is an hour ahead": {
			wire.Result{Queue: time.Hour, Materialize: 20 * ms, Queued: base.UnixNano()}, at(35 * ms), at(37 * ms),
			time.Time{}, at(37 * ms), at(37 * ms), false,
			schema.Timing{Queue: 15 * ms, Materialize: 20 * ms, Transfer: 2 * ms},
		},
		"an older worker": {
			wire.Result{Queue: 10 * ms, Materialize: 20 * ms}, at(35 * ms), at(37 * ms), time.Time{}, at(37 * ms),
			at(37 * ms), false,
			schema.Timing{Queue: 10 * ms, Materialize: 20 * ms, Transfer: 2 * ms},
		},
		"looked up: the wait was for the seat": {
			wire.Result{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Queued: base.UnixNano()},
			at(35 * ms), at(2003 * ms), at(2000 * ms), at(500 * ms), at(2004 * ms), false,
			schema.Timing{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Transfer: 8 * ms, Wait: 1504 * ms,
				WaitTransfer: 3 * ms, WaitOther: 1501 * ms},
		},
		"made while the seat was waited for": {
			wire.Result{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Queued: base.UnixNano()},
			at(35 * ms), at(43 * ms), at(40 * ms), at(-10 * ms), at(43 * ms), false,
			schema.Timing{Iterate: ms, Queue: 10 * ms, Materialize: 20 * ms, Transfer: 8 * ms, Wait: 53 * ms,
				WaitIterate: ms, WaitQueue: 10 * ms, WaitMaterialize: 20 * ms, WaitTransfer: 8 * ms, WaitOther: 14 * ms},
		},
		"buffered before the seat": {
			wire.Result{Materialize: 20 * ms}, at(35 * ms), at(37 * ms), at(50 * ms), at(40 * ms), at(60 * ms), false,
			schema.Timing{Materialize: 20 * ms, Transfer: 2 * ms, Wait: 20 * ms, WaitOther: 20 * ms},
		},
		"a worker that claims ages": {
			wire.Result{Iterate: 1 << 62, Queue: 1 << 62, Materialize: 1 << 62}, at(35 * ms), at(37 * ms), at(0), at(37 * ms),
			at(37 * ms), false,
			schema.Timing{Iterate: longestStage, Queue: longestStage, Materialize: longestStage, Transfer: 2 * ms},
		},
		"no time of storage": {
			wire.Result{Queue: 10 * ms, Materialize: 20 * ms, Queued: base.UnixNano()}, time.Time{}, at(37 * ms), time.Time{},
			at(37 * ms), at(37 * ms), false,
			schema.Timing{Queue: 10 * ms, Materialize: 20 * ms},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := timingOf(&test.res, &arrival{stored: test.stored, arrived: test.arrived, sat: test.sat}, test.shared,
				test.began, test.now); got != test.want {
				t.Errorf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

// TestWaitForALookUp has the seat be answered late, for a batch that has long been stored: the trainer did not wait for
// its transfer.
func TestWaitForALookUp(t *testing.T) {
	t.Parallel()
	const late = 600 * time.Millisecond
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 3)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	second, _ := setup(t, o, nil)
	o.locked(func() {
		until := time.Now().Add(late)
		o.onSeat = func(*wire.SeatRequest) *wire.SeatReply {
			if time.Now().After(until) {
				return nil
			}
			return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeUnavailable, Message: "changing hands"}}
		}
	})
	step, err := second.Take(deadline(t), stateOf(1))
	if err != nil {
		t.Fatal(err)
	}
	if w := step.Timing; w.Wait < late || w.WaitOther < w.Wait/2 || w.WaitTransfer > w.Wait/2 {
		t.Errorf("%+v", w)
	}
}

// A wait in which nobody fed the batcher was not for another rank, whenever the owner came back.
func TestWaitOfAnOwner(t *testing.T) {
	t.Parallel()
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	l := &line{cfg: &Config{World: &World{ID: "w", Size: 2}}, owner: new(standing)}
	if !l.shared(at(1)) {
		t.Error("the owner was there")
	}
	l.owner.unanswered("", at(5))
	l.owner.answered()
	if l.shared(at(4)) || !l.shared(at(6)) {
		t.Error("the owner was silent at 5 s, and was there from 6 s on")
	}
	if alone := (&line{cfg: &Config{World: &World{ID: "w", Size: 1}}, owner: new(standing)}); alone.shared(at(6)) {
		t.Error("there is no other rank")
	}
}
