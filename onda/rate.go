package onda

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// rate is a number of samples or labels per second as a fraction. Places are
// computed from it with 128-bit products: in float64 they are off by one past
// 2^53 ns, and sooner at rates that float64 cannot hold.
type rate struct{ num, den uint64 }

// minRate keeps fractions within 64 bits. It is one sample in 31 years.
const minRate = 1e-9

// rateOf is the simplest fraction that is hz when rounded to a float64: a
// table that says 0.03333333333333333 means a thirtieth. A number that no
// simple fraction gives is taken as the float64 is. hz has to be in
// [minRate, maxSampleRate].
func rateOf(hz float64) rate {
	var h0, h1, k0, k1 uint64 = 0, 1, 1, 0
	x := hz
	for range 40 {
		whole := math.Floor(x)
		if whole >= 1<<31 {
			break
		}
		a := uint64(whole)
		h0, h1 = h1, a*h1+h0
		k0, k1 = k1, a*k1+k0
		if h1 >= 1<<53 || k1 >= 1<<53 {
			break
		}
		if float64(h1)/float64(k1) == hz {
			return rate{h1, k1}
		}
		if x == whole {
			break
		}
		x = 1 / (x - whole)
	}
	fraction, exponent := math.Frexp(hz)
	num, exponent := uint64(fraction*(1<<53)), exponent-53
	if exponent >= 0 {
		return rate{num << exponent, 1}
	}
	// Bits that are worth less than 2^-63 of a sample per second are cut.
	drop := max(0, min(bits.TrailingZeros64(num), -exponent), -exponent-63)
	return rate{num >> drop, 1 << (-exponent - drop)}
}

// rateEvery is one label in every period.
func rateEvery(period time.Duration) rate { return rate{uint64(time.Second), uint64(period)} }

// String gives the time from one place to the next, or how many a second has.
func (r rate) String() string {
	if r.onGrid() {
		return r.at(1).String()
	}
	return fmt.Sprintf("%v Hz", float64(r.num)/float64(r.den))
}

// index is the last place at or before t. Spans are cut to whole nanoseconds,
// so a time less than one nanosecond before a place counts as that place's: at
// 360 Hz sample 370 lies at 1.02777…s, which a table can only write as
// 1027777777 ns. It is floor(((t+1)*num - 1) / (den * 1e9)).
func (r rate) index(t time.Duration) int64 {
	hi, lo := bits.Mul64(uint64(t)+1, r.num)
	lo, borrow := bits.Sub64(lo, 1, 0)
	hi -= borrow
	hi, lo = div128(hi, lo, r.den)
	hi, lo = div128(hi, lo, uint64(time.Second))
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// at is the time of place i, cut to a nanosecond: floor(i * den * 1e9 / num).
func (r rate) at(i int64) time.Duration {
	hi, lo := bits.Mul64(uint64(i), r.den)
	over, lo := bits.Mul64(lo, uint64(time.Second))
	hi = hi*uint64(time.Second) + over
	hi, lo = div128(hi, lo, r.num)
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(lo)
}

// TimeOf is the duration of n samples at a rate of hz, from 1e-9 to 1e9, cut to a nanosecond. A [Span] of that duration
// holds n samples.
func TimeOf(hz float64, n int64) time.Duration { return rateOf(hz).at(n) }

// nearest is the place closest to t, the later one if two are.
func (r rate) nearest(t time.Duration) int64 {
	i := r.index(t)
	if next := r.at(i+1) - t; next <= t-r.at(i) {
		return i + 1
	}
	return i
}

// whole is the place that t is, and whether it is one: to the nanosecond, or,
// where places fall between nanoseconds, next to it.
func (r rate) whole(t time.Duration) (int64, bool) {
	i := r.nearest(t)
	off := r.at(i) - t
	if r.onGrid() {
		return i, off == 0
	}
	return i, -1 <= off && off <= 1
}

// onGrid reports whether every place is a whole number of nanoseconds.
func (r rate) onGrid() bool {
	hi, lo := bits.Mul64(r.den, uint64(time.Second))
	return bits.Rem64(hi, lo, r.num) == 0
}

// div128 divides the 128 bits of hi and lo.
func div128(hi, lo, by uint64) (uint64, uint64) {
	q := hi / by
	lo, _ = bits.Div64(hi%by, lo, by)
	return q, lo
}
