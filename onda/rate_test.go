package onda

import (
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRates(t *testing.T) {
	t.Parallel()
	for hz, want := range map[float64]rate{
		360: {360, 1}, 0.5: {1, 2}, 1.0 / 30: {1, 30}, 10000.0 / 39: {10000, 39}, 100.04: {2501, 25}, 1e9: {1e9, 1},
		256.410256: {16025641, 62500}, 1e-9: {1, 1e9},
	} {
		if got := rateOf(hz); got != want {
			t.Errorf("%v is %v, want %v", hz, got, want)
		}
	}
}

// Places against arbitrary precision, over all of the times that spans have.
func TestPlacesAreExact(t *testing.T) {
	t.Parallel()
	billion := big.NewInt(1e9)
	rapid.Check(t, func(rt *rapid.T) {
		var r rate
		switch rapid.IntRange(0, 2).Draw(rt, "kind") {
		case 0:
			r = rateEvery(time.Duration(rapid.Int64Range(1000, int64(maxTime)).Draw(rt, "period")))
		case 1:
			hz := rapid.Float64Range(minRate, maxSampleRate).Draw(rt, "hz")
			r = rateOf(hz)
			if got := float64(r.num) / float64(r.den); math.Abs(got-hz) > hz*1e-15+0x1p-62 {
				rt.Fatalf("%v became %v, %v", hz, r, got)
			}
		case 2:
			hz := float64(rapid.IntRange(1, 2000).Draw(rt, "n")) / float64(rapid.IntRange(1, 100).Draw(rt, "d"))
			r = rateOf(hz)
		}
		at := time.Duration(rapid.Int64Range(0, int64(maxTime)).Draw(rt, "t"))
		// The last i with i*den/num s < at + 1 ns.
		n := new(big.Int).Mul(big.NewInt(int64(at)+1), new(big.Int).SetUint64(r.num))
		d := new(big.Int).Mul(new(big.Int).SetUint64(r.den), billion)
		want := n.Sub(n, big.NewInt(1)).Div(n, d)
		got := r.index(at)
		if want.Cmp(big.NewInt(got)) != 0 {
			rt.Fatalf("index of %d at %v is %d, want %v", at, r, got, want)
		}
		i := big.NewInt(got)
		place := i.Mul(i, d).Div(i, new(big.Int).SetUint64(r.num))
		if place.Cmp(big.NewInt(int64(r.at(got)))) != 0 {
			rt.Fatalf("place %d at %v is %d, want %v", got, r, r.at(got), place)
		}
		// A place that is written in whole nanoseconds is found again.
		if r.num <= 1e6*r.den {
			if again, ok := r.whole(r.at(got)); again != got || !ok || r.index(r.at(got)) != got {
				rt.Fatalf("place %d at %v is found as %d, %v", got, r, again, ok)
			}
		}
	})
}

// Past 2^53 ns, and at rates that no float64 holds, a float64 product is off by one.
func TestLongRecordings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		hz    float64
		t     time.Duration
		index int64
	}{
		{1000, 9_007_200_000_000_000, 9_007_200_000},
		{1000, 9_007_199_999_999_999, 9_007_199_999},
		{10000.0 / 39, 39 * 200 * 24 * 3600 * 1e9, 10000 * 200 * 24 * 3600},
		{1.0 / 3, 3 * 100 * 24 * 3600 * 1e9, 100 * 24 * 3600},
	} {
		got := rateOf(c.hz).index(c.t)
		if got != c.index {
			t.Errorf("%v Hz at %d: got %d, want %d", c.hz, c.t, got, c.index)
		}
	}
}
