package coordinator

import (
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestDesiredWorkers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		materialize, trainer     time.Duration // of one batch
		workers, slots, inFlight int
		want                     int
	}{
		"enough":                    {100 * time.Millisecond, 100 * time.Millisecond, 2, 4, 100, 1},
		"four times as slow":        {400 * time.Millisecond, 100 * time.Millisecond, 2, 4, 100, 3}, // 4 x 1.25 slots, 2 each
		"the trainer only takes":    {100 * time.Millisecond, 0, 4, 4, 1000, 9},
		"a window of three":         {400 * time.Millisecond, 10 * time.Millisecond, 4, 4, 3, 3},
		"nobody there yet":          {400 * time.Millisecond, 10 * time.Millisecond, 0, 0, 100, 1},
		"one there, many needed":    {time.Second, 10 * time.Millisecond, 1, 2, 1000, 3},
		"workers that all drain":    {100 * time.Millisecond, 100 * time.Millisecond, 2, 0, 100, 2},
		"nothing known, one for it": {0, 100 * time.Millisecond, 3, 6, 100, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n need
			var total schema.Timing
			now := time.Unix(0, 0)
			for range 40 {
				n.observe(now, total)
				now = now.Add(time.Second)
				total.Add(schema.Timing{Materialize: test.materialize, Trainer: test.trainer})
			}
			if got := n.workers(test.workers, test.slots, test.inFlight); got != test.want {
				t.Errorf("%d workers (%.2f slots), want %d", got, n.slots, test.want)
			}
		})
	}
}

// A span in which the trainer starved, and one with a new reader, leave what is known.
func TestNeedKeepsWhatItKnows(t *testing.T) {
	t.Parallel()
	var n need
	now := time.Unix(0, 0)
	n.observe(now, schema.Timing{})
	total := schema.Timing{Materialize: 8 * time.Second, Trainer: 2 * time.Second}
	n.observe(now.Add(needSpan), total)
	n.observe(now.Add(2*needSpan), total)
	n.observe(now.Add(3*needSpan), schema.Timing{})
	if n.slots != 4 {
		t.Errorf("%v slots, want 4", n.slots)
	}
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		s     wire.Settings
		batch int64
		want  int
	}{
		"default":      {wire.Settings{}, 0, maxWindow},
		"asked for":    {wire.Settings{Window: 7}, 100, 7},
		"by the bytes": {wire.Settings{WindowBytes: 1000}, 100, 10},
	} {
		if got := inFlight(test.s, test.batch); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
