package coordinator

import (
	"testing"
	"testing/synctest"
	"time"
)

// An iterator is given up for the time that it took, and not for time in which nobody could have heard of it.
func TestStallCountsTimeOfNextOnly(t *testing.T) {
	t.Parallel()
	const limit = 10 * time.Second
	begun := func() *feed {
		f := &feed{asked: make(chan ask, 1)}
		f.demand(nil, 1)
		return f
	}
	beats := func(f *feed, n int) (stalled bool) {
		for range n {
			time.Sleep(beat)
			stalled, _ = f.stalled(limit)
		}
		return stalled
	}
	synctest.Test(t, func(t *testing.T) {
		f := begun()
		if beats(f, 10) || !beats(f, 1) {
			t.Error("not at the limit")
		}
		f = begun()
		beats(f, 3)
		time.Sleep(time.Minute) // SIGSTOP, or a server that does not answer
		if stalled, _ := f.stalled(limit); stalled {
			t.Error("after a pause: stalled at once")
		}
		if !beats(f, 10) {
			t.Error("after a pause: never")
		}
		f = begun()
		time.Sleep(2 * limit)
		f.made = produced{items: make([]item, 1)}
		if beats(f, 20) {
			t.Error("stalled with an item to collect")
		}
		f.collect()
		if beats(f, 10) {
			t.Error("what came before counts")
		}
	})
}
