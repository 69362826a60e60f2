package client

import (
	"slices"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestStragglerIsReported leaves out the head while later batches arrive, after so many batches that what a job takes
// is known.
func TestStragglerIsReported(t *testing.T) {
	t.Parallel()
	const seen = 16
	o := newOwner(t)
	o.locked(func() { o.window = 2 })
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, seen)

	told := func() (heads []uint64) {
		o.locked(func() {
			for _, c := range o.credits {
				if c.Straggles && !slices.Contains(heads, c.Taken+1) {
					heads = append(heads, c.Taken+1)
				}
			}
		})
		return heads
	}
	publish := func(seq uint64) {
		o.locked(func() { o.publish(o.batch(seq)) })
	}
	// What is held up from now on is not late: nothing overtakes it.
	var fed uint64
	o.locked(func() { o.manual, fed = true, o.fed })
	state = take(t, b, state, int(fed-seen))
	taken := make(chan schema.State)
	go func() {
		state := state
		for range 4 {
			step, err := b.Take(deadline(t), state)
			if err != nil {
				t.Errorf("Take: %v", err)
				break
			}
			state = step.Next
		}
		taken <- state
	}()
	natstest.Eventually(t, "the owner is told that Take waits", func() bool {
		var late bool
		o.locked(func() { late = slices.ContainsFunc(o.credits, func(c wire.Credit) bool { return c.Late }) })
		return late
	})
	if heads := told(); len(heads) > 0 {
		t.Fatalf("batches %v straggle, and nothing is behind them", heads)
	}
	publish(fed + 4)
	natstest.Eventually(t, "the head straggles", func() bool { return slices.Equal(told(), []uint64{fed + 1}) })
	publish(fed + 2)
	publish(fed + 1)
	natstest.Eventually(t, "the next one that is missing straggles at once", func() bool {
		return slices.Equal(told(), []uint64{fed + 1, fed + 3})
	})
	publish(fed + 3)
	if end := <-taken; number(end) != number(state)+4 {
		t.Fatalf("ended at %d, began at %d", number(end), number(state))
	}
}

// TestFirstBatchStraggles leaves out the first batch of a run while later ones arrive. How long a job takes is not
// known yet, and one that takes longer by far than those behind it is told of all the same: its machine may be stuck.
func TestFirstBatchStraggles(t *testing.T) {
	t.Parallel()
	for took, want := range map[time.Duration]time.Duration{time.Millisecond: early, 2 * time.Second: 20 * time.Second} {
		var s straggler
		var line reorder.Buffer[arrival]
		line.Reset(1, nil, span)
		now := time.Unix(1000, 0)
		if at := s.at(&line); !at.IsZero() {
			t.Errorf("nothing is behind the head, which straggles at %v", at)
		}
		line.Add(&wire.Result{Seq: 2, Materialize: took}, arrival{came: now}, true)
		s.arrive(&line, 2, now)
		if at := s.at(&line); !at.Equal(now.Add(want)) {
			t.Errorf("straggles at %v, want after %v", at, want)
		}
		if s.straggles(&line, now.Add(want-1)) || !s.straggles(&line, now.Add(want)) {
			t.Errorf("with jobs of %v: the owner is not told after %v", took, want)
		}
	}
}
