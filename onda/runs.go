package onda

import "slices"

// Labels are dense labels, kept as runs of equal ones: a night of sleep stages
// takes as many bytes as its stages change, whatever the length of a label.
// The zero value holds none. Labels do not change; slices of them share runs.
type Labels struct {
	ends   []uint32 // of each run, counted as first is
	values []uint8  // of each run
	first  uint32
	stop   uint32
}

// LabelsOf holds the given labels, of which there may be 2^30.
func LabelsOf(values ...uint8) Labels {
	var l Labels
	for _, v := range values {
		l.extend(int64(l.stop)+1, v)
	}
	return l
}

// Len is the number of labels.
func (l *Labels) Len() int { return int(l.stop - l.first) }

// At is the label at place i, which has to be one.
func (l *Labels) At(i int) uint8 { return l.values[l.run(l.first+uint32(i))] }

// Copy fills into with labels from place from on and returns how many there
// were.
func (l *Labels) Copy(into []uint8, from int) int {
	n := max(0, min(len(into), l.Len()-from))
	at := l.first + uint32(from)
	for i, run := 0, l.run(at); i < n; run++ {
		next := min(n, i+int(l.ends[run]-at))
		fill(into[i:next], l.values[run])
		i, at = next, l.ends[run]
	}
	return n
}

func fill(into []uint8, v uint8) {
	for i := range into {
		into[i] = v
	}
}

// All are the labels one by one.
func (l *Labels) All() []uint8 {
	all := make([]uint8, l.Len())
	l.Copy(all, 0)
	return all
}

// slice is the labels from one place to before another. Runs are shared.
func (l *Labels) slice(from, to int64) Labels {
	if from >= to {
		return Labels{}
	}
	out := Labels{first: l.first + uint32(from), stop: l.first + uint32(to)}
	begin, end := l.run(out.first), l.run(out.stop-1)+1
	out.ends, out.values = l.ends[begin:end:end], l.values[begin:end:end]
	return out
}

// run is the run that holds the place, counted as first is.
func (l *Labels) run(at uint32) int {
	i, _ := slices.BinarySearch(l.ends, at+1)
	return i
}

// extend adds labels until there are n of them, up to maxLabels.
func (l *Labels) extend(n int64, v uint8) {
	if n <= int64(l.stop) {
		return
	}
	l.stop = uint32(n)
	if last := len(l.values) - 1; last >= 0 && l.values[last] == v {
		l.ends[last] = l.stop
		return
	}
	l.ends, l.values = append(l.ends, l.stop), append(l.values, v)
}

// runBytes is what a run takes.
const runBytes = 4 + 1

// bounds are the places where a run begins and ends.
func (l *Labels) bounds(run int) (from, to int) {
	at := l.first
	if run > 0 {
		at = l.ends[run-1]
	}
	return int(at - l.first), int(min(l.ends[run], l.stop) - l.first)
}
