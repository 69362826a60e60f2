package onda

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Spans of 1.01 s, rounded to labels of 1 s, stay where they are, however many
// there are.
func TestRoundedLabelsDoNotDrift(t *testing.T) {
	t.Parallel()
	const spans = 1000
	m := newMade(t).add(1, func(s *Signal) { s.Span = seconds(0, 1.01*spans) })
	for i := range spans {
		a := note(1, 0, 0, fmt.Sprint(i%200))
		a.Span = Span{time.Duration(i) * 1010 * time.Millisecond, time.Duration(i+1) * 1010 * time.Millisecond}
		m.notes = append(m.notes, a)
	}
	encoding := map[string]uint8{}
	for i := range 200 {
		encoding[fmt.Sprint(i)] = uint8(i)
	}
	d := m.must(Params{RoundTo: Duration(time.Second), Encoding: encoding})
	labels := d.Signals()[0].Labels.All()
	if len(labels) != 1010 {
		t.Errorf("%d labels", len(labels))
	}
	for i, got := range labels {
		// The span that covers the middle of the label.
		want := uint8(int(float64(i)*1e3+500) / 1010 % 200)
		if got != want && (i*1000+500)%1010 != 0 {
			t.Fatalf("label %d is %d, want %d", i, got, want)
		}
	}
	// Epochs as a device writes them that counts by its own clock.
	m = newMade(t).add(1, func(s *Signal) { s.Span = seconds(0, 31000) })
	for i := range 1000 {
		a := note(1, 0, 0, fmt.Sprint(i%200))
		a.Span = Span{time.Duration(i) * 30_000_999_450, time.Duration(i+1) * 30_000_999_450}
		m.notes = append(m.notes, a)
	}
	d = m.must(Params{
		RoundTo: Duration(time.Second), LabelDuration: Duration(30 * time.Second),
		BatchDuration: Duration(time.Minute), Encoding: encoding,
	})
	for i, got := range d.Signals()[0].Labels.All() {
		if got != uint8(i%200) {
			t.Fatalf("epoch %d is %d", i, got)
		}
	}
	if n := len(d.Signals()[0].Labels.All()); n != 1000 {
		t.Errorf("%d epochs", n)
	}
}

// Labels of 3, 7 and 360 Hz, whose boundaries a table cuts to nanoseconds.
func TestLabelRates(t *testing.T) {
	t.Parallel()
	for _, hz := range []float64{1, 3, 7, 360, 1.0 / 30, 29.97} {
		t.Run(fmt.Sprint(hz), func(t *testing.T) {
			t.Parallel()
			grid := rateOf(hz)
			const labels = 2100
			m := newMade(t).add(1, func(s *Signal) {
				s.SampleType, s.Channels, s.SampleRate = "uint8", []string{"a"}, hz*2
				s.Span = Span{0, grid.at(labels)}
			})
			sampleOf := make([]byte, m.signals[0].samples())
			m.files["0.lpcm"] = sampleOf
			name := func(i int64) string { return fmt.Sprint(i * i % 100 / 10) }
			for i := range int64(labels) {
				a := note(1, 0, 0, name(i))
				a.Span = Span{grid.at(i), grid.at(i + 1)}
				m.notes = append(m.notes, a)
			}
			window := grid.at(21) // 7 s at 3 Hz, 3 s at 7 Hz
			p := Params{LabelRate: hz, BatchDuration: Duration(window), Mode: ModeEpochs, Epochs: 1,
				BatchSize: labels / 21}
			d := m.must(p)
			if n := d.Signals()[0].LabelCount(); n != labels {
				t.Fatalf("%d labels", n)
			}
			check := func(d *Dataset) {
				t.Helper()
				job, batch, _ := take(t, d, d.start)
				y := view[uint8](t, batch, "y", labels/21, 1, 21)
				for i, item := range job.Items {
					first, ok := grid.whole(time.Duration(item.Start))
					if !ok || first%21 != 0 {
						t.Fatalf("a window at %d", item.Start)
					}
					for j := range int64(21) {
						if got := fmt.Sprint(y[i*21+int(j)]); got != name(first+j) {
							t.Fatalf("label %d is %s, want %s", first+j, got, name(first+j))
						}
					}
				}
			}
			check(d)
			// And from a file of labels.
			dir := t.TempDir()
			stored, err := StoreLabels(dir, d.Signals())
			if err != nil {
				t.Fatal(err)
			}
			var rows bytes.Buffer
			if err := WriteSignals(&rows, TableFormat{}, []Signal{*stored[0].Stored}); err != nil {
				t.Fatal(err)
			}
			m.files["labels.arrow"] = rows.Bytes()
			if m.files[stored[0].Stored.Path], err = os.ReadFile(filepath.Join(dir,
				stored[0].Stored.Path)); err != nil {
				t.Fatal(err)
			}
			p.LabelSignals = "labels.arrow"
			check(m.must(p))
		})
	}
	m := newMade(t).add(1, nil).labelled()
	for _, p := range []Params{
		{LabelRate: 3, LabelDuration: 1}, {LabelRate: 2e6}, {LabelRate: -1},
		{LabelDuration: Duration(2 * time.Nanosecond)},
	} {
		_, err := m.open(p)
		wantErr(t, err, ErrParams)
	}
}

// A duration of labels that is rounded up, or spans of them that are rounded down, end a nanosecond away from a label:
// every window of them can be read.
func TestWindowsEndWithTheLabels(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, func(s *Signal) { s.SampleRate = 30 })
	n := note(1, 0, 0, "x")
	n.Span = Span{0, 1_666_666_666}
	m.notes = append(m.notes, n)
	labels := testSignal(1)
	labels.Channels, labels.SampleType, labels.SampleRate = []string{"label"}, "uint8", 3
	labels.Resolution, labels.Offset = 1, 0
	labels.Path, labels.Span = "labels.lpcm", Span{333_333_334, 1_999_999_999}
	var rows bytes.Buffer
	if err := WriteSignals(&rows, TableFormat{}, []Signal{labels}); err != nil {
		t.Fatal(err)
	}
	m.files["labels.arrow"], m.files[labels.Path] = rows.Bytes(), make([]byte, 5)
	for _, stored := range []string{"", "labels.arrow"} {
		for duration, count := range map[Duration]int{
			666_666_666: 2, 666_666_667: 2, 1_666_666_666: 5, 1_666_666_667: 5,
		} {
			d := m.must(Params{LabelSignals: stored, LabelRate: 3, BatchDuration: duration, Mode: ModeEpochs,
				Stride: 333_333_333, Epochs: 1})
			job, batch, _ := take(t, d, d.start)
			if len(job.Items) != 6-count {
				t.Errorf("%v, %q: %d windows of %d labels", time.Duration(duration), stored, len(job.Items), count)
			}
			view[float32](t, batch, "x", len(job.Items), 2, 10*count)
		}
	}
}

// A window shorter than a sample would hold none.
func TestWindowsHoldASample(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, func(s *Signal) { s.SampleRate, s.Span = 1.0/30, seconds(0, 3000) }).labelled()
	_, err := m.open(Params{})
	mention(t, err, ErrWindow, "shorter than a sample", id(1).String())
	d := m.must(Params{LabelDuration: Duration(30 * time.Second), BatchDuration: Duration(time.Minute)})
	_, batch, _ := take(t, d, d.start)
	view[float32](t, batch, "x", 16, 2, 2)
}

// Stored labels of several signals of one recording and sensor go to the signal
// that they lie in.
func TestStoredLabelsBySpan(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).add(1, func(s *Signal) { s.Span = seconds(200, 300) }).add(2, nil)
	label := func(n byte, path string, span Span) Signal {
		s := testSignal(n)
		s.Channels, s.SampleType, s.Resolution, s.Offset, s.SampleRate, s.Path, s.Span = []string{"label"}, "uint8",
			1, 0, 1, path, span
		m.files[path] = bytes.Repeat([]byte{path[0]}, int(span.Duration()/time.Second))
		return s
	}
	with := func(p Params, rows ...Signal) (*Dataset, error) {
		var table bytes.Buffer
		if err := WriteSignals(&table, TableFormat{}, rows); err != nil {
			t.Fatal(err)
		}
		m.files["labels"] = table.Bytes()
		p.LabelSignals = "labels"
		return m.open(p)
	}
	rows := []Signal{label(1, "z", seconds(210, 240)), label(1, "y", seconds(0, 50)), label(1, "w", seconds(60, 100)),
		label(2, "v", seconds(5, 95))}
	d, err := with(Params{Mode: ModeEpochs, BatchSize: 5 + 4 + 3 + 9}, rows...)
	if err != nil {
		t.Fatal(err)
	}
	job, batch, _ := take(t, d, d.start)
	y := view[uint8](t, batch, "y", len(job.Items), 1, 10)
	for i, item := range job.Items {
		want := byte('v')
		switch at := item.Start / 1e9; {
		case item.Recording == id(2).String():
		case at >= 210:
			want = 'z'
		case at >= 60:
			want = 'w'
		default:
			want = 'y'
		}
		if y[10*i] != want {
			t.Errorf("%+v has labels of %c, want %c", item, y[10*i], want)
		}
	}
	_, err = with(Params{}, append(slices.Clone(rows), label(1, "u", seconds(40, 55)))...)
	mention(t, err, ErrDuplicate, id(1).String(), "overlap")
	_, err = with(Params{}, rows[:3]...)
	mention(t, err, ErrLabels, "1 without labels", id(2).String())
	beyond := append(rows[:3:3], label(2, "v", seconds(50, 120)))
	_, err = with(Params{}, beyond...)
	mention(t, err, ErrOutsideSignal, id(2).String())
	d, err = with(Params{OnBad: "drop"}, beyond...)
	if err != nil || d.Signals()[3].LabelSpan != seconds(50, 100) {
		t.Errorf("%+v, %v", d, err)
	}
	m.files["v"] = m.files["v"][:10]
	_, err = with(Params{}, rows...)
	mention(t, err, ErrFile, "v holds 10 bytes", id(2).String())
}
