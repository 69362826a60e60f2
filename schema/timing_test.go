package schema

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The dumb version: in which stage was the batch at each instant of the wait?
func sampled(t Timing, arrived time.Duration) Timing {
	for ago := time.Duration(0); ago < t.Wait; ago++ { // instants before the end of the wait
		before := ago - arrived // before the arrival
		switch {
		case before < 0:
			t.WaitOther++
		case before < t.Transfer:
			t.WaitTransfer++
		case before < t.Transfer+t.Materialize:
			t.WaitMaterialize++
		case before < t.Transfer+t.Materialize+t.Queue:
			t.WaitQueue++
		case before < t.Transfer+t.Materialize+t.Queue+t.Iterate:
			t.WaitIterate++
		default:
			t.WaitOther++
		}
	}
	return t
}

func TestAttributeAgainstSampling(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.Map(rapid.IntRange(0, 40), func(n int) time.Duration { return time.Duration(n) })
		x := Timing{
			Iterate: short.Draw(t, "iterate"), Queue: short.Draw(t, "queue"), Materialize: short.Draw(t, "materialize"),
			Transfer: short.Draw(t, "transfer"), Wait: rapid.Map(rapid.IntRange(0, 200), func(n int) time.Duration { return time.Duration(n) }).Draw(t, "wait"),
		}
		arrived := short.Draw(t, "arrived")
		want := sampled(x, arrived)
		if x.Attribute(arrived); x != want {
			t.Fatalf("got %+v, want %+v", x, want)
		}
	})
}

func TestAttribute(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		in      Timing
		arrived time.Duration
		want    [6]time.Duration // iterate, queue, materialize, transfer, ranks, other
	}{
		"was there":         {Timing{Materialize: 50 * ms, Wait: ms}, 200 * ms, [6]time.Duration{5: ms}},
		"all of every one":  {Timing{Iterate: ms, Queue: 2 * ms, Materialize: 3 * ms, Transfer: 4 * ms, Wait: 11 * ms}, 0, [6]time.Duration{ms, 2 * ms, 3 * ms, 4 * ms, 0, ms}},
		"the last part":     {Timing{Iterate: 90 * ms, Queue: 90 * ms, Materialize: 90 * ms, Transfer: 10 * ms, Wait: 30 * ms}, 5 * ms, [6]time.Duration{2: 15 * ms, 3: 10 * ms, 5: 5 * ms}},
		"clocks that lie":   {Timing{Iterate: -ms, Queue: -time.Hour, Materialize: 2 * ms, Transfer: -ms, Wait: 3 * ms}, -time.Hour, [6]time.Duration{2: 2 * ms, 5: ms}},
		"clocks run wild":   {Timing{Iterate: math.MaxInt64, Queue: math.MaxInt64, Materialize: math.MaxInt64, Transfer: ms, Wait: 3 * ms}, 0, [6]time.Duration{2: 2 * ms, 3: ms}},
		"arrived for ever":  {Timing{Transfer: math.MaxInt64, Wait: 3 * ms}, math.MaxInt64, [6]time.Duration{5: 3 * ms}},
		"no wait, no blame": {Timing{Iterate: ms, Queue: ms, Materialize: ms, Transfer: ms}, 0, [6]time.Duration{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := test.in
			x.Attribute(test.arrived)
			for i, cause := range x.Causes() {
				if cause.Wait != test.want[i] {
					t.Errorf("%s: %v, want %v", cause.Name, cause.Wait, test.want[i])
				}
			}
		})
	}
}

// Every field must be in both, and Sub must undo Add.
func TestTimingAddSub(t *testing.T) {
	t.Parallel()
	x := Timing{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	sum := x
	sum.Add(x)
	if want := (Timing{2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24}); sum != want {
		t.Errorf("sum: %+v", sum)
	}
	if sum.Sub(x); sum != x {
		t.Errorf("difference: %+v", sum)
	}
}
