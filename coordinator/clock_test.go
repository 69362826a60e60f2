package coordinator

import (
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// TestClocksApart has a coordinator be handed a batcher by one whose clock is far from its own: it must not hand it
// back before that one may have mended itself.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	for _, apart := range []time.Duration{-time.Hour, -unfedFor - time.Second, 0, unfedFor + time.Second, time.Hour} {
		now := time.Now()
		there := now.Add(apart)
		marks := unfed([]wire.Unfed{{Coordinator: "old", At: there.Add(-unfedFor + 2*time.Second)}}, "other", "", there)
		taken := byClock(marks, now)
		soon, later := unfed(taken, "this", "", now.Add(time.Second)), unfed(taken, "this", "", now.Add(3*time.Second))
		if len(soon) != 3 || soon[0].Coordinator != "old" || soon[1].Coordinator != "other" {
			t.Errorf("%v apart: a second later the marks are %v", apart, soon)
		}
		if len(later) != 2 || later[0].Coordinator != "other" {
			t.Errorf("%v apart: three seconds later the marks are %v", apart, later)
		}
		if over := unfed(taken, "this", "", now.Add(unfedFor+time.Second)); len(over) != 1 {
			t.Errorf("%v apart: marks stay: %v", apart, over)
		}
	}
	if byClock(nil, time.Now()) != nil {
		t.Error("marks of nothing")
	}
}
