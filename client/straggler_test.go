package client

import (
	"slices"
	"testing"

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
