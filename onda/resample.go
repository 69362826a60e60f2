package onda

import (
	"fmt"
	"math"
	"math/bits"
)

// The filter of a resampler: a sinc in a Kaiser window. From cutoff, as a part of the Nyquist frequency of the lower
// rate, half of it passes; the window's shape has it flat up to 0.82 of that frequency, and 85 dB down from there on.
const (
	zeroCrossings = 32
	cutoff        = 0.91
	kaiserBeta    = 8.6
	// maxTaps bounds the table of a filter, which has taps for each place that an output may have between two inputs.
	maxTaps = 1 << 21
	// maxFilters bounds those of all filters of a data set, whose table of signals may hold any number of rates.
	maxFilters = 1 << 24
)

// resampler gives samples at another rate. Output k lies at the input's place k*down/up, counted from the start of the
// signal, whatever window it is read for: windows that overlap agree. Beyond its ends a signal goes on with its first
// and its last sample. No maintained Go library reads from any place like that: they are streams. All arithmetic is
// rounded to float64 step by step, so that machines of every kind give the same bits.
type resampler struct {
	up, down uint64
	half     int64     // inputs on each side of an output's place
	taps     []float64 // of every phase, 2*half each
}

// newResampler makes the filter from one rate to another, where there is room for so many taps, within the budget.
func newResampler(from, to float64, room int, mem *budget) (*resampler, error) {
	a, b := rateOf(from), rateOf(to)
	up, down, ok := ratio(a, b)
	reach := zeroCrossings * max(1, float64(down)/float64(up))
	size := float64(up) * 2 * reach
	if !ok || size > maxTaps {
		return nil, fmt.Errorf("%w: resample from %v to %v Hz is by %d/%d, and a filter for it has more than %d numbers",
			ErrParams, from, to, up, down, maxTaps)
	}
	if size > float64(room) {
		return nil, fmt.Errorf("%w: resample from %v to %v Hz: the filters of all rates have more than %d numbers: "+
			"choose recordings of fewer rates", ErrParams, from, to, maxFilters)
	}
	r := &resampler{up: up, down: down, half: int64(math.Ceil(reach))}
	n := int64(up) * 2 * r.half
	if err := mem.take(fmt.Sprintf("the filter from %v to %v Hz", from, to), 8*n); err != nil {
		return nil, err
	}
	r.taps = make([]float64, n)
	narrow := min(1, float64(up)/float64(down)) * cutoff
	for phase := range up {
		taps := r.phase(phase)
		sum := 0.0
		for j := range taps {
			// The distance from the output's place to input j-half+1.
			t := float64(phase)/float64(up) - float64(int64(j)-r.half+1)
			taps[j] = float64(sinc(float64(narrow*t)) * kaiser(t/reach))
			sum += taps[j]
		}
		for j := range taps {
			taps[j] /= sum // a constant stays what it is, in every phase
		}
	}
	return r, nil
}

// ratio is to/from in lowest terms; not ok if it takes more than 64 bits.
func ratio(from, to rate) (up, down uint64, ok bool) {
	g1, g2 := gcd(to.num, from.num), gcd(from.den, to.den)
	over1, up := bits.Mul64(to.num/g1, from.den/g2)
	over2, down := bits.Mul64(to.den/g2, from.num/g1)
	return up, down, over1 == 0 && over2 == 0
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (r *resampler) phase(phase uint64) []float64 {
	n := 2 * r.half
	return r.taps[int64(phase)*n : (int64(phase)+1)*n]
}

// place is the input at or before output k, and the phase of k after it.
func (r *resampler) place(k int64) (int64, uint64) {
	hi, lo := bits.Mul64(uint64(k), r.down)
	if hi >= r.up {
		return math.MaxInt64, 0 // beyond all signals
	}
	q, phase := bits.Div64(hi, lo, r.up)
	return int64(min(q, math.MaxInt64)), phase
}

// inputs is the range of inputs, of a signal of so many, that outputs first to first+count depend on.
func (r *resampler) inputs(first, count, samples int64) (from, to int64) {
	begin, _ := r.place(first)
	end, _ := r.place(first + max(count, 1) - 1)
	last := max(samples-1, 0)
	return min(max(0, begin-r.half+1), last), min(max(0, min(end, last)+r.half), last) + 1
}

// apply gives outputs first to first+len(out) of in, which are the inputs from on.
func (r *resampler) apply(out, in []float64, first, from int64) {
	last := int64(len(in)) - 1
	for k := range out {
		at, phase := r.place(first + int64(k))
		begin := at - r.half + 1 - from
		sum := 0.0
		for j, tap := range r.phase(phase) {
			i := min(max(begin+int64(j), 0), last)
			sum += float64(tap * in[i])
		}
		out[k] = sum
	}
}

// sinc is sin(pi x) / (pi x).
func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return sinPi(x) / float64(math.Pi*x)
}

// sinPi is sin(pi x), by a series without a fused operation.
func sinPi(x float64) float64 {
	x -= float64(2 * math.Round(x/2)) // in [-1, 1]
	if x > 0.5 {
		x = 1 - x
	} else if x < -0.5 {
		x = -1 - x
	}
	y := float64(math.Pi * x)
	square := float64(y * y)
	term, sum := y, y
	for n := 2.0; n < 26; n += 2 {
		term = float64(term*-square) / float64(n*(n+1))
		sum += term
	}
	return sum
}

// kaiser is the window at x of [-1, 1].
func kaiser(x float64) float64 {
	if edge := 1 - 1e-9; x <= -edge || x >= edge {
		return 0 // also where rounding has the edge within
	}
	return bessel0(float64(kaiserBeta*math.Sqrt(1-float64(x*x)))) / bessel0(kaiserBeta)
}

// bessel0 is the modified Bessel function of order 0, by its series.
func bessel0(x float64) float64 {
	sum, term := 1.0, 1.0
	for k := 1.0; term > 1e-18*sum; k++ {
		half := x / float64(2*k)
		term = float64(term * float64(half*half))
		sum += term
	}
	return sum
}
