package client

import (
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

func TestAlarm(t *testing.T) {
	t.Parallel()
	const none, lone = "no worker serves the data set", "only one worker serves the data set"
	type hear struct {
		after   time.Duration
		workers int
		want    string
	}
	const second = time.Second
	for name, hears := range map[string][]hear{
		"none":                      {{0, 0, ""}, {second, 0, ""}, {second, 0, none}, {9 * second, 0, ""}},
		"one":                       {{0, 1, ""}, {2 * second, 1, lone}, {9 * second, 1, ""}},
		"they are heard of at last": {{0, 0, ""}, {second, 1, ""}, {second, 1, ""}, {second / 2, 3, ""}, {9 * second, 3, ""}},
		"many beats in a moment":    {{0, 0, ""}, {0, 0, ""}, {0, 0, ""}, {second, 3, ""}},
		"one left of many":          {{0, 3, ""}, {second, 1, ""}, {2 * second, 1, lone}},
		"they go twice": {{0, 0, ""}, {2 * second, 0, none}, {second, 2, ""}, {second, 0, ""}, {2 * second, 0,
			none}},
		"one is enough news": {{0, 1, ""}, {2 * second, 1, lone}, {second, 2, ""}, {second, 1, ""}, {9 * second, 1,
			""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var a alarm
			now := time.Unix(1000, 0)
			for i, h := range hears {
				now = now.Add(h.after)
				if got := a.hear(h.workers, now); got != h.want {
					t.Errorf("%d: %q, want %q", i, got, h.want)
				}
			}
		})
	}
}

// TestNoFalseAlarmAtTheStart has a coordinator that has just begun hear of three workers one by one.
func TestNoFalseAlarmAtTheStart(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.workers = 0
	b, log := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	for workers := range 4 {
		for range 3 {
			var before int
			o.locked(func() { o.workers, before = workers, len(o.credits) })
			o.notice()
			natstest.Eventually(t, "the owner is asked", func() (asked bool) {
				o.locked(func() { asked = len(o.credits) >= before+2 }) // what the notice asks for, and a beat
				return asked
			})
		}
	}
	take(t, b, state, 3)
	if log.has("worker serves") {
		t.Error("a warning that was not true a moment later")
	}
}
