package main

import (
	"context"
	"slices"
	"time"
)

// settleTime is how long after a round what was begun for the next one is let finish, so that what a round costs is
// counted in it.
const settleTime = 200 * time.Millisecond

// An entry is one of those that take turns in the rounds of a figure.
type entry struct {
	side *side
	run  func(ctx context.Context) (outcome, error)
}

// outcome is what one round of one entry came to.
type outcome struct {
	Value   float64 // in the figure's unit
	Tail    float64 // of times, the p99 to the Value's median
	Batches int     // made in the round, those not timed included
	Bytes   int64   // of these
}

// sample is an outcome and what it cost.
type sample struct {
	outcome
	cpu    time.Duration
	allocs uint64
}

func (s sample) cpuPerBatch() float64 { return per(float64(s.cpu.Microseconds()), float64(s.Batches)) }
func (s sample) cpuPerMB() float64    { return per(s.cpu.Seconds()*1e3, float64(s.Bytes)/1e6) }
func (s sample) allocsPerBatch() float64 {
	return per(float64(s.allocs), float64(s.Batches))
}

func per(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// measure lets the entries take turns, in the other order every other round. The result has, for every entry, one
// sample per round.
func (b *bench) measure(ctx context.Context, entries ...entry) ([][]sample, error) {
	samples := make([][]sample, len(entries))
	order := make([]int, len(entries))
	for i := range order {
		order[i] = i
	}
	for range b.opts.rounds {
		for _, i := range order {
			s, err := entries[i].sample(ctx)
			if err != nil {
				return nil, err
			}
			samples[i] = append(samples[i], s)
		}
		slices.Reverse(order)
	}
	return samples, nil
}

func (e entry) sample(ctx context.Context) (sample, error) {
	before, err := e.side.usage(ctx)
	if err != nil {
		return sample{}, err
	}
	out, err := e.run(ctx)
	if err != nil {
		return sample{}, err
	}
	if err := pause(ctx, settleTime); err != nil {
		return sample{}, err
	}
	after, err := e.side.usage(ctx)
	if err != nil {
		return sample{}, err
	}
	s := sample{outcome: out}
	for role, u := range after {
		s.cpu += u.CPU - before[role].CPU
		s.allocs += u.Allocs - before[role].Allocs
	}
	return s, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// median is the middle one, or the mean of the middle two; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// medianOf is the median of what f says of the samples.
func medianOf(samples []sample, f func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = f(s)
	}
	return median(values)
}

// ratiosOf are, round by round, the ratios of what f says of ours and of theirs in that round, so that what changes the
// machine's pace from round to round does not count. They are 0 where f is.
func ratiosOf(ours, floor []sample, f func(sample) float64) []float64 {
	values := make([]float64, min(len(ours), len(floor)))
	for i := range values {
		values[i] = per(f(ours[i]), f(floor[i]))
	}
	return values
}
