package onda

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

var xy = LabelConfig{Duration: time.Second, Encoding: map[string]uint8{"x": 7, "y": 9}}

func TestLabelSignals(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	cfg := xy
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	got, err := LabelSignals(
		[]Signal{testSignal(1), testSignal(2), testSignal(3)},
		[]Annotation{note(3, 10, 12, "x"), note(1, 2, 3, "x"), note(1, 3, 5, "y"), note(3, 12, 13, "y")},
		cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Fatalf("%d labelled signals", len(got))
	}
	for i, want := range []struct {
		recording byte
		span      Span
		labels    []uint8
	}{{1, seconds(2, 5), []uint8{7, 9, 9}}, {3, seconds(10, 13), []uint8{7, 7, 9}}} {
		l := got[i]
		if l.Recording != id(want.recording) || l.LabelSpan != want.span ||
			!slices.Equal(l.Labels.All(), want.labels) || l.LabelCount() != 3 {
			t.Errorf("got %+v, want %+v", l, want)
		}
	}
	if !strings.Contains(log.String(), id(2).String()) || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("dropped without a warning: %s", log.String())
	}
}

// Annotations may label signals by another column than the recording.
func TestGroups(t *testing.T) {
	t.Parallel()
	a, b := testSignal(1), testSignal(2)
	a.Group, b.Group = "night", "night"
	n := note(3, 0, 2, "x")
	n.Group = "night"
	got, err := LabelSignals([]Signal{a, b}, []Annotation{n}, xy)
	if err != nil || len(got) != 2 || got[1].LabelCount() != 2 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestBadLabels(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		notes []Annotation
		want  error
	}{
		"unsorted":          {[]Annotation{note(1, 1, 2, "x"), note(1, 0, 1, "x")}, ErrLabels},
		"gap":               {[]Annotation{note(1, 0, 1, "x"), note(1, 2, 3, "x")}, ErrLabels},
		"overlap":           {[]Annotation{note(1, 0, 2, "x"), note(1, 1, 3, "x")}, ErrLabels},
		"ragged":            {[]Annotation{note(1, 0, 1.5, "x"), note(1, 1.5, 3, "x")}, ErrLabels},
		"ragged at the end": {[]Annotation{note(1, 0, 1, "x"), note(1, 1, 2.5, "x")}, ErrLabels},
		"unknown label":     {[]Annotation{note(1, 0, 1, "z")}, ErrEncoding},
		"after the signal":  {[]Annotation{note(1, 99, 101, "x")}, ErrOutsideSignal},
		"too many":          {[]Annotation{{Recording: id(1), Span: Span{0, maxTime}, Label: "x", Group: id(1).String()}}, ErrLabels},
	} {
		_, err := LabelSignals([]Signal{testSignal(1)}, c.notes, xy)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), id(1).String()) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	late := testSignal(1)
	late.Span = seconds(5, 100)
	_, err := LabelSignals([]Signal{late}, []Annotation{note(1, 4, 6, "x")}, xy)
	wantErr(t, err, ErrOutsideSignal)
	for _, cfg := range []LabelConfig{{}, {Duration: time.Second}, {Duration: -1, Encoding: xy.Encoding}, {Duration: 1, RoundTo: -1, Encoding: xy.Encoding}} {
		_, err := LabelSignals(nil, nil, cfg)
		wantErr(t, err, ErrParams)
	}
}

func TestRounding(t *testing.T) {
	t.Parallel()
	cfg := xy
	cfg.RoundTo = time.Second
	for _, c := range []struct {
		notes  []Annotation
		labels []uint8
	}{
		{[]Annotation{note(1, 0, 0.996, "x"), note(1, 0.996, 2.01, "y")}, []uint8{7, 9}},
		// Half a second is rounded up.
		{[]Annotation{note(1, 0, 1.5, "x"), note(1, 1.5, 3, "y")}, []uint8{7, 7, 9}},
		// The rounded spans are longer than the real ones: cut.
		{[]Annotation{note(1, 98, 98.996, "x"), note(1, 98.996, 99.992, "y")}, []uint8{7}},
		// Too short to be a label.
		{[]Annotation{note(1, 0, 0.4, "x"), note(1, 0.4, 1.3, "y")}, []uint8{9}},
	} {
		got, err := LabelSignals([]Signal{testSignal(1)}, c.notes, cfg)
		if err != nil || len(got) != 1 || !slices.Equal(got[0].Labels.All(), c.labels) {
			t.Errorf("%v: got %+v, %v", c.notes, got, err)
		}
	}
}

func TestSortAndTrim(t *testing.T) {
	t.Parallel()
	in := []Annotation{note(1, 3, 4.5, "y"), note(1, 0, 3, "x")}
	before := slices.Clone(in)
	got, err := SortAndTrim(in, time.Second)
	if err != nil || !slices.Equal(got, []Annotation{note(1, 0, 3, "x"), note(1, 3, 4, "y")}) {
		t.Errorf("got %v, %v", got, err)
	}
	if !slices.Equal(in, before) {
		t.Error("the input was changed")
	}
	if got, err := SortAndTrim(in, 2*time.Second); err != nil || len(got) != 1 || got[0].Label != "x" {
		t.Errorf("nothing is left of the last: got %v, %v", got, err)
	}
	in = append(in, note(2, 7, 9, "x"), note(2, 5, 7, "y"))
	_, err = SortAndTrim(in, time.Second)
	wantErr(t, err, ErrLabels)
	got, err = SortAndTrimGroups(in, time.Second)
	if err != nil || !slices.Equal(got, []Annotation{note(1, 0, 3, "x"), note(1, 3, 4, "y"), note(2, 5, 7, "y"), note(2, 7, 9, "x")}) {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = SortAndTrim(in, 0)
	wantErr(t, err, ErrParams)
	if got, err := SortAndTrim(nil, time.Second); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// Labels are what one would get by asking, for every label's start, which
// annotation covers it.
func TestLabelsAgreeWithLookup(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.IntRange(1, 1000).Draw(t, "duration")) * time.Millisecond
		at := time.Duration(rapid.IntRange(0, 5000).Draw(t, "start")) * time.Millisecond
		var notes []Annotation
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 5), 1, 10).Draw(t, "lengths") {
			a := note(1, 0, 0, rapid.SampledFrom([]string{"x", "y"}).Draw(t, "label"))
			a.Span = Span{at, at + time.Duration(n)*d}
			at = a.Span.Stop
			notes = append(notes, a)
		}
		cfg := xy
		cfg.Duration = d
		got, err := LabelSignals([]Signal{testSignal(1)}, notes, cfg)
		if err != nil {
			t.Fatal(err)
		}
		var want []uint8
		for start := notes[0].Span.Start; start < at; start += d {
			for _, a := range notes {
				if a.Span.Start <= start && start < a.Span.Stop {
					want = append(want, cfg.Encoding[a.Label])
				}
			}
		}
		if len(want) == 0 && len(got) == 0 {
			return
		}
		if !slices.Equal(got[0].Labels.All(), want) {
			t.Fatalf("got %v, want %v", got[0].Labels.All(), want)
		}
	})
}

func TestSubSpan(t *testing.T) {
	t.Parallel()
	all, err := LabelSignals([]Signal{testSignal(1)}, []Annotation{note(1, 10, 12, "x"), note(1, 12, 20, "y")}, xy)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := all[0].SubSpan(seconds(11, 14))
	if err != nil || sub.LabelSpan != seconds(11, 14) || !slices.Equal(sub.Labels.All(), []uint8{7, 9, 9}) {
		t.Errorf("got %+v, %v", sub, err)
	}
	if again, err := sub.SubSpan(seconds(12, 13)); err != nil || !slices.Equal(again.Labels.All(), []uint8{9}) {
		t.Errorf("got %+v, %v", again, err)
	}
	if all[0].LabelCount() != 10 || all[0].Labels.Len() != 10 {
		t.Error("the original was changed")
	}
	for span, want := range map[Span]error{
		seconds(9, 11): ErrOutsideSignal, seconds(19, 21): ErrOutsideSignal, seconds(14, 13): ErrOutsideSignal,
		seconds(10.5, 12): ErrLabels, seconds(11, 12.5): ErrLabels, seconds(11, 11): ErrLabels,
	} {
		if _, err := all[0].SubSpan(span); !errors.Is(err, want) {
			t.Errorf("%v: got %v", span, err)
		}
	}
}

func TestStoredLabels(t *testing.T) {
	t.Parallel()
	a, b := testSignal(1), testSignal(2)
	b.Path, b.Format = "sub/b.lpcm.zst", formatZstd
	inMemory, err := LabelSignals([]Signal{a, b}, []Annotation{note(1, 0, 9, "x"), note(1, 9, 30, "y"), note(2, 5, 50, "y")}, xy)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	stored, err := StoreLabels(dir, inMemory)
	if err != nil {
		t.Fatal(err)
	}
	var rows []Signal
	for i, l := range stored {
		if l.Labels.Len() > 0 || l.Stored == nil || inMemory[i].Labels.Len() == 0 {
			t.Fatalf("got %+v", l)
		}
		rows = append(rows, *l.Stored)
	}
	if rows[0].Path != "labels_a.lpcm" || rows[1].Path != "labels_b.lpcm" {
		t.Errorf("stored as %s and %s", rows[0].Path, rows[1].Path)
	}
	again, err := AttachLabels([]Signal{a, b}, rows, xy)
	if err != nil || len(again) != 2 || again[1].LabelSpan != seconds(5, 50) {
		t.Fatalf("got %+v, %v", again, err)
	}
	// A sub-span reads the range that it covers.
	sub, err := again[0].SubSpan(seconds(8, 11))
	if err != nil {
		t.Fatal(err)
	}
	src := &counting{Source: Dir(dir)}
	d := &Dataset{signals: []LabeledSignal{sub}, reader: testReader(t, src, 0)}
	got := make([]uint8, 2)
	if err := d.readLabels(t.Context(), &window{signal: &sub, span: seconds(9, 11)}, got); err != nil || got[0] != 9 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := d.readLabels(t.Context(), &window{signal: &sub, span: seconds(8, 10)}, got); err != nil || !slices.Equal(got, []uint8{7, 9}) {
		t.Errorf("got %v, %v", got, err)
	}
	if n := src.bytes.Load(); n != 4 {
		t.Errorf("read %d bytes for 4 labels", n)
	}

	clash := slices.Clone(inMemory)
	clash[1].Path = "other/a.lpcm"
	_, err = StoreLabels(dir, clash)
	wantErr(t, err, ErrPath)
	_, err = AttachLabels([]Signal{a}, rows, LabelConfig{Duration: 2 * time.Second})
	wantErr(t, err, ErrLabels)
	_, err = AttachLabels([]Signal{a}, rows, LabelConfig{})
	wantErr(t, err, ErrParams)
	for _, spoil := range []func(*Signal){
		func(s *Signal) { s.Resolution = 2 }, func(s *Signal) { s.Offset = 1 },
	} {
		other := slices.Clone(rows)
		spoil(&other[1])
		_, err = AttachLabels([]Signal{a}, other, xy)
		wantErr(t, err, ErrLabels)
	}
	short := a
	short.Span = seconds(0, 20)
	_, err = AttachLabels([]Signal{short}, rows, xy)
	wantErr(t, err, ErrOutsideSignal)
	if none, err := AttachLabels([]Signal{testSignal(3)}, rows, xy); err != nil || len(none) != 0 {
		t.Errorf("got %v, %v", none, err)
	}
}

func TestSortedEncoding(t *testing.T) {
	t.Parallel()
	got, err := SortedEncoding([]Annotation{note(1, 0, 1, "y"), note(1, 1, 2, "x"), note(1, 2, 3, "y")})
	if err != nil || len(got) != 2 || got["x"] != 0 || got["y"] != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	var many []Annotation
	for i := range 257 {
		many = append(many, note(1, 0, 1, fmt.Sprint(i)))
	}
	_, err = SortedEncoding(many)
	wantErr(t, err, ErrEncoding)
}

// applied are the signals of the part in use.
func applied(s *Split, signals []Signal) ([]Signal, error) {
	in, err := s.part(signalTable{signals: signals})
	if err != nil {
		return nil, err
	}
	var kept []Signal
	for i := range signals {
		if in(i) {
			kept = append(kept, signals[i])
		}
	}
	return kept, nil
}

func TestSplit(t *testing.T) {
	t.Parallel()
	var signals []Signal
	d := seeded(5).dice()
	for range 2000 {
		s := testSignal(1)
		s.Recording = d.uuid()
		signals = append(signals, s)
		if len(signals)%3 == 0 { // a second sensor of the same recording
			signals = append(signals, s)
		}
	}
	parts := []Part{{Name: "train", Fraction: 0.7}, {Name: "validation", Fraction: 0.2, Recordings: []uuid.UUID{signals[0].Recording}}, {Name: "test", Fraction: 0.1}}
	seen := map[uuid.UUID]string{}
	total := 0
	for _, p := range parts {
		split := Split{Use: p.Name, Parts: parts, Seed: 3}
		kept, err := applied(&split, signals)
		if err != nil {
			t.Fatal(err)
		}
		total += len(kept)
		if share := float64(len(kept)) / float64(len(signals)); share < p.Fraction-0.04 || share > p.Fraction+0.04 {
			t.Errorf("%s has a share of %v", p.Name, share)
		}
		for _, s := range kept {
			if other, ok := seen[s.Recording]; ok && other != p.Name {
				t.Fatalf("recording %s is in %s and %s", s.Recording, other, p.Name)
			}
			seen[s.Recording] = p.Name
		}
		// More recordings move none.
		fewer, err := applied(&split, signals[:100])
		if err != nil || len(fewer) > len(kept) || fewer[0].Recording != kept[0].Recording {
			t.Errorf("%s: %d of %d, %v", p.Name, len(fewer), len(kept), err)
		}
	}
	if total != len(signals) {
		t.Errorf("%d of %d signals are in a part", total, len(signals))
	}
	if seen[signals[0].Recording] != "validation" {
		t.Error("a named recording is elsewhere")
	}
	for name, s := range map[string]Split{
		"unknown part": {Use: "dev"},
		"no part":      {},
		"over 1":       {Use: "a", Parts: []Part{{Name: "a", Fraction: 0.7}, {Name: "b", Fraction: 0.5}}},
		"negative":     {Use: "a", Parts: []Part{{Name: "a", Fraction: -0.7}}},
		"twice":        {Use: "a", Parts: []Part{{Name: "a", Fraction: 0.1}, {Name: "a", Fraction: 0.1}}},
		"in two":       {Use: "a", Parts: []Part{{Name: "a", Recordings: []uuid.UUID{id(1)}}, {Name: "b", Recordings: []uuid.UUID{id(1)}}}},
	} {
		if _, err := applied(&s, signals); !errors.Is(err, ErrParams) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
