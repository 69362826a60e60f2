package onda

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/dataset"
)

// made is a data set in memory. Every sample of signal n is n, or what a test
// says.
type made struct {
	t       testing.TB
	signals []Signal
	notes   []Annotation
	files   files
}

func newMade(t testing.TB) *made { return &made{t: t, files: files{}} }

// add adds signal n of 100 s, 10 Hz and the channels a and b, as spoil changes
// it, and labels it with "x" throughout.
func (m *made) add(n byte, spoil func(*Signal)) *made {
	s := testSignal(n)
	s.Path = fmt.Sprintf("%d.lpcm", len(m.signals))
	if spoil != nil {
		spoil(&s)
	}
	m.signals = append(m.signals, s)
	if _, ok := m.files[s.Path]; !ok {
		m.files[s.Path] = bytes.Repeat([]byte{n, 0}, int(s.samples())*len(s.Channels))[:s.samples()*s.frame()]
	}
	return m
}

func (m *made) note(n byte, from, to float64, label string) *made {
	m.notes = append(m.notes, note(n, from, to, label))
	return m
}

// labelled labels every recording over the whole of its first signal.
func (m *made) labelled() *made {
	seen := map[uuid.UUID]bool{}
	for _, s := range m.signals {
		if !seen[s.Recording] {
			seen[s.Recording] = true
			n := note(s.Recording[15], 0, 0, "x")
			n.Span = s.Span
			m.notes = append(m.notes, n)
		}
	}
	return m
}

func (m *made) source() Source {
	var s, a bytes.Buffer
	if err := errors.Join(WriteSignals(&s, TableFormat{}, m.signals),
		WriteAnnotations(&a, TableFormat{}, "label", m.notes)); err != nil {
		m.t.Fatal(err)
	}
	m.files["onda.signals.arrow"], m.files["onda.annotations.arrow"] = s.Bytes(), a.Bytes()
	return m.files
}

func (m *made) open(p Params) (*Dataset, error) {
	return New(m.t.Context(), p, Config{Source: m.source()})
}

func (m *made) must(p Params) *Dataset {
	m.t.Helper()
	d, err := m.open(p)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// mention checks that an error is of a kind and says all of the texts.
func mention(t testing.TB, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%v does not say %q", err, text)
		}
	}
}

// Unlike signals are refused with both recordings named, and dropped if so
// asked, whichever is first.
func TestUnlikeSignals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(*Signal)
		want  error
		text  string
	}{
		"channels": {func(s *Signal) { s.Channels = []string{"a", "c"} }, ErrUnlike, "channels"},
		"fewer":    {func(s *Signal) { s.Channels = []string{"a"} }, ErrUnlike, "channels"},
		"sensor":   {func(s *Signal) { s.SensorType = "respiration" }, ErrUnlike, "respiration"},
		"unit":     {func(s *Signal) { s.Unit = "percent" }, ErrUnlike, "percent"},
		"quantity": {func(s *Signal) { s.Unit = "tesla" }, ErrUnlike, "tesla"},
		"rate":     {func(s *Signal) { s.SampleRate = 10.004 }, ErrUnlike, "10.004"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, odd := range []byte{1, 4} {
				m := newMade(t)
				for n := range byte(4) {
					if n+1 == odd%4+1 {
						m.add(n+1, c.spoil)
					} else {
						m.add(n+1, nil)
					}
				}
				m.labelled()
				_, err := m.open(Params{})
				mention(t, err, c.want, id(odd%4+1).String(), c.text)
				var refused *RefusedError
				if !errors.As(err, &refused) {
					t.Fatalf("got %#v", err)
				}
				d := m.must(Params{OnBad: "drop"})
				if got := d.Report().String(); got != "kept 3 of 4 recordings: 1 unlike the others" {
					t.Error(got)
				}
				for _, l := range d.Signals() {
					if l.Recording == id(odd%4+1) {
						t.Error("the odd one was kept")
					}
				}
			}
		})
	}
	// Rates of a millionth apart are one rate in six digits.
	m := newMade(t).add(1, nil).add(2, func(s *Signal) { s.SampleRate = 10.0000001 }).labelled()
	m.must(Params{})
}

// Channels in another order are read by name.
func TestChannelOrder(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).add(2, func(s *Signal) { s.Channels = []string{"b", "a"} }).labelled()
	frames := func(a, b byte) []byte { return bytes.Repeat([]byte{a, 0, b, 0}, 1000) }
	m.files["0.lpcm"], m.files["1.lpcm"] = frames(10, 20), frames(20, 10)
	d := m.must(Params{Mode: ModeEpochs, Epochs: 1})
	state := d.start
	_, batch, _ := take(t, d, state)
	x := view[float32](t, batch, "x", 16, 2, 100)
	for i := range 16 {
		if x[i*200] != 6 || x[i*200+100] != 11 {
			t.Fatalf("item %d: channels begin with %v and %v", i, x[i*200], x[i*200+100])
		}
	}
	if got := d.Report().String(); got != "kept 2 of 2 recordings; 1 with the channels in another order" {
		t.Error(got)
	}
}

func TestUnitsAreConverted(t *testing.T) {
	t.Parallel()
	m := newMade(t)
	for i, unit := range []string{"microvolt", "millivolt", "uV", "volt", "nV"} {
		m.add(byte(i+1), func(s *Signal) {
			s.Unit = unit
			power, ok := unitPower("microvolt", unit)
			if !ok {
				t.Fatalf("no multiple of a microvolt: %s", unit)
			}
			s.Resolution, s.Offset = scaled(0.5, power), scaled(1, power)
		})
		m.files[fmt.Sprintf("%d.lpcm", i)] = bytes.Repeat([]byte{100, 0}, 2000)
	}
	m.labelled()
	for unit, want := range map[string]float64{"": 51, "microvolt": 51, "millivolt": 0.051, "mV": 0.051} {
		d := m.must(Params{Unit: unit, DType: "float64", Mode: ModeEpochs, BatchSize: 50})
		_, batch, _ := take(t, d, d.start)
		for i, got := range view[float64](t, batch, "x", 50, 2, 100) {
			if got < want*(1-1e-15) || got > want*(1+1e-15) {
				t.Fatalf("unit %q: value %d is %v, want %v", unit, i, got, want)
			}
		}
		for _, l := range d.Signals() {
			if unit != "" && l.Unit != unit {
				t.Errorf("unit is %s", l.Unit)
			}
		}
	}
	_, err := m.open(Params{Unit: "tesla"})
	mention(t, err, ErrUnlike, "tesla", id(1).String())
}

// A recording of several sensors is used by choosing one.
func TestSensorsAreChosen(t *testing.T) {
	t.Parallel()
	m := newMade(t)
	for n := range byte(3) {
		m.add(n+1, nil).
			add(n+1, func(s *Signal) { s.SensorType, s.SensorLabel, s.SampleRate = "ecg", "ecg", 20 }).
			add(n+1, func(s *Signal) { s.SensorType, s.SensorLabel, s.Unit = "spo2", "finger", "percent" })
	}
	m.labelled()
	_, err := m.open(Params{})
	mention(t, err, ErrUnlike, "sensor_type")
	for _, text := range []string{`{"sensor_type":"ecg"}`, `{"sensor_type":["ecg"],"sensor_label":"ecg"}`} {
		var p Params
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		d := m.must(p)
		if len(d.Signals()) != 3 || d.Signals()[2].SensorType != "ecg" {
			t.Errorf("%s: %d signals", text, len(d.Signals()))
		}
	}
	_, err = m.open(Params{SensorType: Names{"emg"}})
	mention(t, err, ErrNoSignals, "emg", "eeg/eeg", "spo2/finger")
	var p Params
	if err := json.Unmarshal([]byte(`{"sensor_type":3}`), &p); !errors.Is(err, ErrParams) {
		t.Errorf("got %v", err)
	}
}

func TestChannelMap(t *testing.T) {
	t.Parallel()
	m := newMade(t).
		add(1, func(s *Signal) { s.Channels = []string{"C3-A2", "O1"} }).
		add(2, func(s *Signal) { s.Channels = []string{"C3:A2", "EEG O1"} }).
		add(3, func(s *Signal) { s.Channels = []string{"O1", "EEG C3-A2"} }).labelled()
	p := Params{ChannelMap: map[string][]string{"C3-A2": {"C3:A2", "EEG C3-A2"}, "O1": {"EEG O1"}}}
	d := m.must(p)
	job, _, _ := take(t, d, d.start)
	if len(d.Signals()) != 3 || !slices.Equal(job.Items[0].Channels, []string{"C3-A2", "O1"}) {
		t.Errorf("%d signals, %v", len(d.Signals()), job.Items[0].Channels)
	}
	p.Channels = []string{"O1"}
	m.must(p)
	_, err := m.open(Params{})
	mention(t, err, ErrUnlike, "C3:A2")
	m.add(4, func(s *Signal) { s.Channels = []string{"C3-A2", "C3:A2"} }).note(4, 0, 100, "x")
	_, err = m.open(p)
	mention(t, err, ErrChannels, id(4).String(), "twice")
	for _, bad := range []map[string][]string{{"a": {"c"}, "b": {"c"}}, {"a": {"b"}, "b": {}}} {
		_, err := m.open(Params{ChannelMap: bad})
		wantErr(t, err, ErrParams)
	}
}

// All that is wrong is listed, and what can be used is.
func TestOnBad(t *testing.T) {
	t.Parallel()
	m := newMade(t)
	for n := range byte(11) {
		m.add(n+1, nil)
	}
	m.note(1, 0, 100, "x") // good
	// 2 and 3 have no labels
	m.note(4, 10, 15, "x")                                               // shorter than a window
	m.note(5, 50, 130, "x")                                              // beyond the signal
	m.note(6, 0, 20, "x").note(6, 25, 60, "y")                           // a gap
	m.note(7, 0, 30, "x").note(7, 20, 50, "y")                           // an overlap
	m.note(8, 0, 15.5, "x").note(8, 15.5, 40, "x")                       // no whole labels
	m.note(9, 0, 40, "z")                                                // not in the encoding
	m.note(10, 50, 90, "y").note(10, 10, 50, "x")                        // not sorted
	m.note(11, 0, 40, "x").note(12, 0, 40, "x").note(13, 0, 3, "x")      // of recordings that are absent
	m.files["10.lpcm"] = m.files["10.lpcm"][:len(m.files["10.lpcm"])-40] // too short
	p := Params{Encoding: map[string]uint8{"x": 1, "y": 2}, Mode: ModeEpochs, Epochs: 1, BatchSize: 100}

	_, err := m.open(p)
	for _, want := range []error{ErrLabels, ErrWindow, ErrOutsideSignal, ErrEncoding, ErrFile} {
		wantErr(t, err, want)
	}
	mention(t, err, ErrLabels, "2 without labels", "1 shorter than 10s", "2 with labels and without a signal",
		"1 with labels beyond the signal", "1 with labels that the encoding lacks", "1 with a file",
		"4 with label spans", "and 1 more", id(3).String(), id(12).String())

	p.OnBad = OnBadDrop
	d := m.must(p)
	const want = "kept 5 of 11 recordings: 2 without labels, 1 with a file that is not what its row says, " +
		"1 shorter than 10s, 1 with label spans that are unsorted, have gaps or overlap, or are no whole numbers of labels, " +
		"1 with labels that the encoding lacks; " +
		"2 with labels and without a signal, 1 with labels cut to the signal, 1 with gaps between labels, 1 with labels that overlap"
	if got := d.Report().String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var spans []string
	for _, l := range d.Signals() {
		spans = append(spans, fmt.Sprintf("%d %v %d", l.Recording[15], l.LabelSpan, l.Labels.At(0)))
	}
	if want := []string{
		"1 [0s, 1m40s) 1", "5 [50s, 1m40s) 1", "6 [0s, 20s) 1", "6 [25s, 1m0s) 2", "7 [0s, 20s) 1", "7 [30s, 50s) 2",
		"10 [10s, 1m30s) 1",
	}; !slices.Equal(spans, want) {
		t.Errorf("got %q", spans)
	}
	job, batch, _ := take(t, d, d.start)
	if len(job.Items) != 10+5+2+3+2+2+8 {
		t.Errorf("%d windows", len(job.Items))
	}
	y, _ := batch.Get("y")
	if y.Shape[0] != len(job.Items) {
		t.Errorf("shape %v", y.Shape)
	}

	p.Split = &Split{Use: "a", Parts: []Part{{Name: "a", Recordings: []uuid.UUID{id(2), id(3)}}}}
	_, err = m.open(p)
	mention(t, err, ErrNoSignals, "kept 0 of 2 recordings: 2 without labels")
}

// Overlaps are left out, equal ones count once, and every label is that of all
// annotations that cover it.
func TestBreaksAgreeWithLookup(t *testing.T) {
	t.Parallel()
	d := seeded(9).dice()
	for range 300 {
		var notes []Annotation
		for range 1 + d.below(8) {
			from := d.below(20)
			notes = append(notes, note(1, float64(from), float64(from+d.below(6)), []string{"x", "y"}[d.below(2)]))
		}
		got := map[time.Duration]string{}
		stretches, _ := runs(notes, 0)
		last := time.Duration(-1)
		for _, run := range stretches {
			if err := contiguous(run); err != nil || run[0].Span.Start == last {
				t.Fatalf("%v: run %v, %v", notes, run, err)
			}
			last = run[len(run)-1].Span.Stop
			for _, a := range run {
				for at := a.Span.Start; at < a.Span.Stop; at += time.Second {
					got[at] = a.Label
				}
			}
		}
		want := map[time.Duration]string{}
		for at := time.Duration(0); at < 30*time.Second; at += time.Second {
			labels := map[string]bool{}
			for _, a := range notes {
				if a.Span.Start <= at && at < a.Span.Stop {
					labels[a.Label] = true
				}
			}
			if len(labels) == 1 {
				want[at] = slices.Collect(maps.Keys(labels))[0]
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("%v: got %v, want %v", notes, got, want)
		}
	}
}

// Annotations of one label that overlap are one stretch, also where one of them
// begins within a label.
func TestEqualOverlaps(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).note(1, 0, 4, "x").note(1, 1.5, 30, "x").note(1, 2, 3, "x").note(1, 30, 40, "y")
	d := m.must(Params{OnBad: OnBadDrop})
	if l := d.Signals(); len(l) != 1 || l[0].LabelSpan != seconds(0, 40) || l[0].Labels.At(29) != 0 ||
		l[0].Labels.At(30) != 1 {
		t.Errorf("%+v", l)
	}
	// A gap and an overlap of less than half of round_to are none.
	m = newMade(t).add(1, nil).note(1, 0, 20.004, "x").note(1, 20, 39.99, "y").note(1, 40, 60, "x")
	d = m.must(Params{OnBad: OnBadDrop, RoundTo: Duration(time.Second)})
	if l := d.Signals(); len(l) != 1 || l[0].LabelSpan != seconds(0, 60) || l[0].Labels.At(39) != 1 ||
		l[0].Labels.At(40) != 0 {
		t.Errorf("%+v", l)
	}
}

func TestDuplicateRows(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(*Signal){
		"the row":        func(s *Signal) { s.Path = "0.lpcm" },
		"the file":       func(s *Signal) { s.Path, s.Recording, s.Group = "0.lpcm", id(3), id(3).String() },
		"the sensor":     func(s *Signal) {},
		"part of a span": func(s *Signal) { s.Span = seconds(90, 120) },
	} {
		m := newMade(t).add(1, nil).add(2, nil).add(1, again).labelled()
		_, err := m.open(Params{})
		mention(t, err, ErrDuplicate, id(1).String())
		if d := m.must(Params{OnBad: "drop"}); len(d.Signals()) != 2 {
			t.Errorf("%s: %s", name, d.Report())
		}
	}
	// A row is held against those that are kept, in whatever order spans come.
	for _, order := range [][]float64{{0, 30, 60}, {60, 30, 0}, {60, 0, 30}} {
		m := newMade(t).note(1, 0, 100, "x")
		var want []Span
		for _, at := range order {
			m.add(1, func(s *Signal) { s.Span = seconds(at, at+40) })
			if at != 30 {
				want = append(want, seconds(at, at+40))
			}
		}
		var got []Span
		for _, s := range m.must(Params{OnBad: "drop"}).Signals() {
			got = append(got, s.Span)
		}
		if !slices.Equal(got, want) {
			t.Errorf("of rows at %v are kept %v", order, got)
		}
	}
	// Two signals one after the other are no duplicates.
	newMade(t).add(1, nil).add(1, func(s *Signal) { s.Span = seconds(100, 150) }).
		note(1, 0, 100, "x").note(2, 0, 10, "x").must(Params{OnBad: "drop"})
}

// One file is one, however its rows spell the path.
func TestSpellingsOfOneFile(t *testing.T) {
	t.Parallel()
	for dir, spellings := range map[string][]string{
		"/data":          {"./rec/a.lpcm", "rec//a.lpcm", "/data/rec/a.lpcm", "file:///data/rec/a.lpcm"},
		"s3://b/data/":   {"S3://b/data/rec/a.lpcm"},
		"https://h/data": {"https://H/data/rec/a.lpcm", "HTTPS://h/data/rec/a.lpcm"},
	} {
		for _, path := range spellings {
			m := newMade(t).add(1, func(s *Signal) { s.Path = "rec/a.lpcm" }).add(2, func(s *Signal) { s.Path = path })
			_, err := m.labelled().open(Params{Dir: dir})
			mention(t, err, ErrDuplicate, id(1).String(), path)
		}
	}
}

func TestIgnoredLabels(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).note(1, 0, 10, "x").note(1, 10, 20, "?").note(1, 20, 40, "y")
	p := Params{Ignore: []string{"?", "artifact"}, Mode: ModeEpochs, Epochs: 1, BatchSize: 4}
	d := m.must(p)
	if !maps.Equal(d.Encoding(), map[string]uint8{"x": 0, "y": 1, "?": 255, "artifact": 255}) {
		t.Errorf("encoding %v", d.Encoding())
	}
	job, batch, _ := take(t, d, d.start)
	y := view[uint8](t, batch, "y", 4, 1, 10)
	for i, item := range job.Items {
		if want := map[int64]uint8{0: 0, 10e9: 255, 20e9: 1, 30e9: 1}[item.Start]; y[10*i] != want {
			t.Errorf("label at %d is %d", item.Start, y[10*i])
		}
	}
	p.IgnoreValue, p.Encoding = 7, map[string]uint8{"x": 7, "y": 1}
	_, err := m.open(p)
	mention(t, err, ErrParams, `"x"`, "7")
	p.Encoding = map[string]uint8{"x": 1, "?": 2}
	_, err = m.open(p)
	mention(t, err, ErrParams, `"?"`)
}

// Fewer windows are left when weights are given for none of the labels that
// the encoding lacks: class weights may name ignored labels.
func TestClassWeightsOfIgnoredLabels(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).note(1, 0, 50, "x").note(1, 50, 100, "?")
	d := m.must(Params{Ignore: []string{"?"}, ClassWeights: map[string]float64{"?": 0},
		BatchDuration: Duration(time.Second)})
	_, batch, _ := take(t, d, d.start)
	if y := view[uint8](t, batch, "y", 16, 1, 1); slices.Max(y) != 0 {
		t.Errorf("labels %v", y)
	}
}

// A recording of which one signal is left is kept, and said to be without the
// other.
func TestPartOfARecording(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).add(1, func(s *Signal) { s.SensorLabel, s.Channels = "other", []string{"c", "d"} }).
		add(2, nil).add(3, func(s *Signal) { s.Channels = []string{"c", "d"} }).labelled()
	const want = "kept 2 of 3 recordings: 1 unlike the others; 1 without one of the signals (unlike the others)"
	if got := m.must(Params{OnBad: OnBadDrop}).Report().String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	_, err := m.open(Params{})
	mention(t, err, ErrUnlike, "2 unlike the others", id(1).String(), id(3).String())
}

func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(255, nil).note(255, 0, 100, "x")
	for n := range byte(200) {
		m.add(n, nil).note(n, 0, 20, strings.Repeat("very ", 50))
	}
	_, err := m.open(Params{Encoding: map[string]uint8{"x": 0}})
	mention(t, err, ErrEncoding, "200 with labels that the encoding lacks", "and 197 more")
	if len(err.Error()) > 3000 || !dataset.IsPermanent(dataset.Permanent(err)) {
		t.Errorf("%d bytes", len(err.Error()))
	}
}
