package onda

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/jetbatch/jetbatch/dataset"
)

// Runs are the labels that they stand for, whatever is asked of them.
func TestRunsAreTheirLabels(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dense := rapid.SliceOfN(rapid.Uint8Range(0, 3), 1, 60).Draw(t, "labels")
		l := LabelsOf(dense...)
		for range 3 {
			if !slices.Equal(l.All(), dense) || l.Len() != len(dense) {
				t.Fatalf("%v for %v", l.All(), dense)
			}
			if runs := len(slices.Compact(slices.Clone(dense))); len(l.ends) != runs {
				t.Fatalf("%d runs of %v", len(l.ends), dense)
			}
			i := rapid.IntRange(0, len(dense)-1).Draw(t, "place")
			into := make([]uint8, rapid.IntRange(0, 70).Draw(t, "how many"))
			if n := l.Copy(into, i); n != min(len(into), len(dense)-i) || !slices.Equal(into[:n], dense[i:i+n]) ||
				l.At(i) != dense[i] {
				t.Fatalf("%v from %d of %v", into, i, dense)
			}
			from := rapid.IntRange(0, len(dense)-1).Draw(t, "from")
			to := rapid.IntRange(from+1, len(dense)).Draw(t, "to")
			l, dense = l.slice(int64(from), int64(to)), dense[from:to]
		}
	})
}

// Weights by run draw what weights of every label draw.
func TestRunWeightsDrawAlike(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dense := rapid.SliceOfN(rapid.Uint8Range(0, 3), 1, 60).Draw(t, "labels")
		var byLabel labelWeights
		for i := range 4 {
			byLabel[i] = float64(rapid.IntRange(0, 5).Draw(t, "weight"))
		}
		l := LabelsOf(dense...)
		if len(dense) > 4 {
			l, dense = l.slice(2, int64(len(dense)-1)), dense[2:len(dense)-1]
		}
		each := make([]float64, len(dense))
		for i, label := range dense {
			each[i] = byLabel[label]
		}
		want, err := newWeights("labels", len(dense), each)
		if bad := checkRunWeights(&l, &byLabel); (bad == nil) != (err == nil) {
			t.Fatalf("%v, and by run %v", err, bad)
		}
		if err != nil {
			return
		}
		got := newRunWeights(&l, &byLabel)
		one, other := seeded(1).dice(), seeded(1).dice()
		for range 100 {
			if a, b := want.draw(one), got.draw(other); a != b {
				t.Fatalf("%d, and by run %d", a, b)
			}
		}
	})
}

// A label takes no memory where it is the same as the one before it, neither
// when the data set is opened nor thereafter, and weights are kept by run: 5 kB for a recording of 10 h.
func TestLongLabelsAreSmall(t *testing.T) {
	t.Parallel()
	src := manyHours(t, 1000)
	p := Params{Files: filesTrust, ClassWeights: map[string]float64{"s1": 3}, SensorType: Names{"eeg"}}
	d, err := New(t.Context(), p, Config{Source: src, OpenBytes: 5_000_000})
	if err != nil {
		t.Fatal(err)
	}
	runs := 0
	for i := range d.signals {
		runs += len(d.signals[i].Labels.ends)
	}
	if runs != 1000*stretches || d.signals[7].Labels.Len() != 10*3600 {
		t.Errorf("%d runs, %d labels", runs, d.signals[7].Labels.Len())
	}
	if _, _, err := d.Next(d.start); err != nil {
		t.Error(err)
	}
}

// What only the iterator needs is made when it is asked for the first time; what
// is wrong with it is said before.
func TestWorkersHaveNoIterator(t *testing.T) {
	t.Parallel()
	made := 0
	dir := synth(t, SynthConfig{})
	d := open(t, Params{Dir: dir, Mode: ModeEpochs}, Config{})
	iterator := d.iterator
	d.iterator = func() (dataset.Iterator[State, Job], error) { made++; return iterator() }
	job, _, err := open(t, Params{Dir: dir, Mode: ModeEpochs}, Config{}).Next(d.start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Materialize(t.Context(), job); err != nil || made != 0 {
		t.Errorf("made %d iterators, %v", made, err)
	}
	if _, _, err := d.Next(d.start); err != nil || made != 1 {
		t.Errorf("made %d iterators, %v", made, err)
	}
	for _, p := range []Params{
		{Mode: ModeEpochs, Stride: Duration(1500 * time.Millisecond)}, {SignalWeights: []float64{1}},
		{ClassWeights: map[string]float64{"rest": 0, "burst": 0}}, {LabelWeights: [][]float64{{1}}}, {NChannels: 3},
	} {
		p.Dir = dir
		if _, err := New(t.Context(), p, Config{}); err == nil {
			t.Errorf("%+v was opened", p)
		}
	}
}

// stretches of one label in each recording of manyHours.
const stretches = 20

// manyHours are tables of recordings of 10 h, without samples.
func manyHours(t testing.TB, recordings int) files {
	t.Helper()
	m := newMade(t)
	for i := range recordings {
		s := testSignal(1)
		s.Recording[1], s.Recording[2] = byte(i), byte(i>>8)
		s.Path, s.Span = fmt.Sprintf("%d.lpcm", i), seconds(0, 10*3600)
		m.signals = append(m.signals, s)
		for j := range stretches {
			a := note(1, float64(j)*1800, float64(j+1)*1800, fmt.Sprint("s", j%2))
			a.Recording = s.Recording
			m.notes = append(m.notes, a)
		}
	}
	return m.source().(files)
}
