package onda

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/schema"
)

// dumb is the filter as its formula has it, for one output.
func dumb(r *resampler, in []float64, k int) float64 {
	narrow, reach := min(1, float64(r.up)/float64(r.down))*cutoff, float64(r.half)
	if r.down > r.up {
		reach = zeroCrossings * float64(r.down) / float64(r.up)
	}
	place := float64(k) * float64(r.down) / float64(r.up)
	sum, weights := 0.0, 0.0
	for i := int(math.Floor(place)) - int(r.half) + 1; i <= int(math.Floor(place))+int(r.half); i++ {
		x := place - float64(i)
		weight := 1.0
		if x != 0 {
			weight = math.Sin(math.Pi*narrow*x) / (math.Pi * narrow * x)
		}
		weight *= kaiser(x / reach)
		sum, weights = sum+weight*in[min(max(i, 0), len(in)-1)], weights+weight
	}
	return sum / weights
}

func TestResampleFormula(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	in := make([]float64, 700)
	for i := range in {
		in[i] = rng.NormFloat64()
	}
	for _, c := range [][2]float64{{360, 250}, {100, 128}, {256, 100}, {1, 3}, {12.8, 100}, {100, 100.04}, {1000, 10}} {
		r, err := newResampler(c[0], c[1], maxFilters, nil)
		if err != nil {
			t.Fatal(c, err)
		}
		n := min(300, int(float64(len(in))*c[1]/c[0]))
		out := make([]float64, n)
		r.apply(out, in, 0, 0)
		for k := range out {
			if want := dumb(r, in, k); math.Abs(out[k]-want) > 1e-11 {
				t.Fatalf("%v: output %d is %v, want %v", c, k, out[k], want)
			}
		}
	}
	if _, err := newResampler(100, 100.0001234, maxFilters, nil); !errors.Is(err, ErrParams) {
		t.Errorf("got %v", err)
	}
	if _, err := newResampler(100, 128, 1000, nil); !errors.Is(err, ErrParams) {
		t.Errorf("where the filters of other rates left room for 1000 numbers: got %v", err)
	}
}

// The figures of the filter: tones up to 0.82 of the lower Nyquist frequency come through, those beyond it do not, and
// a constant stays what it is.
func TestResampleFigures(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]float64{{360, 250}, {100, 128}, {256, 100}, {500, 499}} {
		r, err := newResampler(c[0], c[1], maxFilters, nil)
		if err != nil {
			t.Fatal(err)
		}
		lower := min(c[0], c[1]) / 2
		// gain is the largest difference to a tone of amplitude 1 at hz, of which pass says whether it is wanted.
		gain := func(hz float64, pass bool) float64 {
			in := make([]float64, 6000)
			for i := range in {
				in[i] = math.Cos(2 * math.Pi * hz * float64(i) / c[0])
			}
			first := int64(1000 * c[1] / c[0])
			out := make([]float64, 1000)
			r.apply(out, in, first, 0)
			worst := 0.0
			for k, v := range out {
				if pass {
					v -= math.Cos(2 * math.Pi * hz * float64(first+int64(k)) / c[1])
				}
				worst = max(worst, math.Abs(v))
			}
			return 20 * math.Log10(worst)
		}
		for _, part := range []float64{0.01, 0.3, 0.6, 0.8, 0.82} {
			if db := gain(part*lower, true); db > -80 {
				t.Errorf("%v: a tone at %v of Nyquist is off by %.1f dB", c, part, db)
			}
		}
		for _, part := range []float64{1.0, 1.1, 1.3} {
			if hz := part * lower; hz < c[0]/2 {
				if db := gain(hz, false); db > -80 {
					t.Errorf("%v: a tone at %v of Nyquist is left with %.1f dB", c, part, db)
				}
			}
		}
		out := make([]float64, 50)
		r.apply(out, []float64{3, 3, 3}, 0, 0)
		if lo, hi := slices.Min(out), slices.Max(out); hi-lo > 1e-14 || math.Abs(lo-3) > 1e-14 {
			t.Errorf("%v: a constant becomes %v to %v", c, lo, hi)
		}
	}
}

// Whatever part is read, an output is the same.
func TestResampleParts(t *testing.T) {
	t.Parallel()
	r, err := newResampler(360, 250, maxFilters, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := make([]float64, 2000)
	for i := range in {
		in[i] = float64(i*i%97) - 40
	}
	all := make([]float64, 1388)
	r.apply(all, in, 0, 0)
	for first := int64(0); first < 1300; first += 41 {
		from, to := r.inputs(first, 80, 2000)
		part := make([]float64, 80)
		r.apply(part, in[from:to], first, from)
		if !slices.Equal(part, all[first:first+80]) {
			t.Fatalf("outputs from %d on differ", first)
		}
	}
	if from, to := r.inputs(1387, 1, 2000); from < 0 || to != 2000 {
		t.Errorf("%d to %d", from, to)
	}
}

// recordings are some of different rates and scales, with a label of 2 s in turn.
func recordingsOf(t *testing.T, rates []float64) string {
	t.Helper()
	dir := t.TempDir()
	var signals []Signal
	var notes []Annotation
	for i, hz := range rates {
		id := uuid.UUID{15: byte(i + 1)}
		n := int(hz * 20)
		data := make([]byte, 0, 4*n)
		for k := range n {
			v := 1000 * math.Sin(2*math.Pi*float64(k)/hz)
			data = append(data, byte(int16(v)), byte(int16(v)>>8), byte(100+i), 0)
		}
		path := string(rune('a'+i)) + ".lpcm"
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
			t.Fatal(err)
		}
		signals = append(signals, Signal{
			Recording: id, SensorType: "eeg", SensorLabel: "eeg", Channels: []string{"c3", "flat"}, Unit: "microvolt",
			Resolution: 0.5, Offset: 7, SampleType: "int16", SampleRate: hz, Path: path, Format: "lpcm",
			Span: Span{Stop: 20 * time.Second},
		})
		notes = append(notes, Annotation{Recording: id, ID: id, Span: Span{Stop: 20 * time.Second}, Label: "x"})
	}
	for name, write := range map[string]func(f *os.File) error{
		"onda.signals.arrow":     func(f *os.File) error { return WriteSignals(f, TableFormat{}, signals) },
		"onda.annotations.arrow": func(f *os.File) error { return WriteAnnotations(f, TableFormat{}, "label", notes) },
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func firstBatch(t *testing.T, p Params) []float32 {
	t.Helper()
	d, err := New(t.Context(), p, Config{})
	if err != nil {
		t.Fatal(err)
	}
	state, _ := d.Start()
	job, _, err := d.Next(state)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := d.Materialize(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := batch.Get("x")
	values, err := schema.View[float32](x)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// Recordings of three rates share a tensor at one: each is the same sine.
func TestResampledBatch(t *testing.T) {
	t.Parallel()
	dir := recordingsOf(t, []float64{100, 128, 360})
	p := Params{Dir: dir, BatchDuration: Duration(4 * time.Second), Mode: ModeEpochs, BatchSize: 15, Epochs: 1}
	if _, err := New(t.Context(), p, Config{}); !errors.Is(err, ErrUnlike) {
		t.Errorf("got %v", err)
	}
	p.Resample = 128
	values := firstBatch(t, p)
	if len(values) != 15*2*512 {
		t.Fatalf("%d values", len(values))
	}
	for w := range 15 {
		// At the ends of a signal its first and last sample go on, which no sine does: the middle is compared.
		for k := 64; k < 448; k++ {
			v := float64(values[w*1024+k])
			if want := 7 + 500*math.Sin(2*math.Pi*float64(k)/128); math.Abs(v-want) > 1 {
				t.Fatalf("window %d, sample %d: %v, want %v", w, k, v, want)
			}
		}
	}
	p.Resample = math.Inf(1)
	if _, err := New(t.Context(), p, Config{}); !errors.Is(err, ErrParams) {
		t.Errorf("got %v", err)
	}
}

// A signal within a millionth of the rate has windows of the same length, also where it ends a sample before one does.
func TestResampleToNearRate(t *testing.T) {
	t.Parallel()
	m := newMade(t)
	for i, hz := range []float64{99.99995, 100, 250} {
		m.add(byte(i+1), func(s *Signal) { s.SampleRate, s.Span = hz, seconds(0, 10) })
	}
	d := m.labelled().must(Params{Resample: 100, Mode: ModeEpochs, BatchSize: 3})
	job, batch, _ := take(t, d, d.start)
	x := view[float32](t, batch, "x", 3, 2, 1000)
	for i, item := range job.Items {
		if first, last := x[2000*i], x[2000*i+999]; math.Abs(float64(first-last)) > 1e-6 {
			t.Errorf("the window at %d of signal %d begins with %v and ends with %v", item.Start, item.Signal, first, last)
		}
	}
}

// Windows that are read together, whose inputs overlap, are what they are alone: resampled, normalized and selected.
func TestJoinedReads(t *testing.T) {
	t.Parallel()
	p := Params{
		Dir: recordingsOf(t, []float64{100, 128, 360}), BatchDuration: Duration(2 * time.Second), Mode: ModeRandom,
		BatchSize: 24, Resample: 128,
	}
	var err error
	if p.Normalize, err = Normalize(t.Context(), p, Config{}, nil); err != nil {
		t.Fatal(err)
	}
	second := SelectorFunc(func(w Window) ([]int, []float64, error) {
		return []int{1, w.Time}, slices.Clone(w.Data[w.Time : 2*w.Time]), nil
	})
	for name, cfg := range map[string]Config{"all channels": {}, "selector": {Selector: second}} {
		d, err := New(t.Context(), p, cfg)
		if err != nil {
			t.Fatal(err)
		}
		job, _, err := d.Next(StartState(ModeRandom, 1))
		if err != nil {
			t.Fatal(err)
		}
		windows := make([]window, len(job.Items))
		for i, item := range job.Items {
			if windows[i], err = d.window(item); err != nil {
				t.Fatal(err)
			}
		}
		var want []byte
		reads := len(windows) + 1
		for _, near := range []int64{-1, 64, 1 << 20} {
			d.reader.near = near
			if n := len(d.reads(windows)); n >= reads {
				t.Errorf("%s, near %d: %d reads, and %d without", name, near, n, reads)
			} else {
				reads = n
			}
			batch, err := d.Materialize(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			x, _ := batch.Get("x")
			if want == nil {
				want = x.Data
			}
			if !bytes.Equal(x.Data, want) {
				t.Errorf("%s, near %d: other samples", name, near)
			}
		}
		if reads != 3 {
			t.Errorf("%s: %d reads of three files", name, reads)
		}
	}
}

// What is computed over the training part has mean 0 and scale 1 there, is the same each time, and is refused with
// other data.
func TestNormalize(t *testing.T) {
	t.Parallel()
	dir := recordingsOf(t, []float64{100, 100, 100, 100})
	ids := func(n ...byte) (out []uuid.UUID) {
		for _, b := range n {
			out = append(out, uuid.UUID{15: b})
		}
		return out
	}
	p := Params{
		Dir: dir, BatchDuration: Duration(20 * time.Second), Mode: ModeEpochs, BatchSize: 3, Epochs: 1,
		Split: &Split{Use: "train", Parts: []Part{
			{Name: "train", Recordings: ids(1, 2, 3)}, {Name: "test", Recordings: ids(4)},
		}},
	}
	n, err := Normalize(t.Context(), p, Config{Concurrency: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Normalize(t.Context(), p, Config{Concurrency: 3}, nil)
	if err != nil || again.Channels["c3"] != n.Channels["c3"] || again.Fingerprint != n.Fingerprint || n.Part != "train" {
		t.Errorf("%+v and %+v, %v", n, again, err)
	}
	if c := n.Channels["c3"]; math.Abs(c.Mean-7) > 0.01 || math.Abs(c.Scale-500/math.Sqrt2) > 0.3 {
		t.Errorf("%+v", c)
	}
	if c := n.Channels["flat"]; math.Abs(c.Mean-(7+0.5*101)) > 1e-9 || math.Abs(c.Scale-0.5*math.Sqrt(2.0/3)) > 1e-9 {
		t.Errorf("%+v", c)
	}
	p.Normalize = n
	values := firstBatch(t, p)
	for c := range 2 {
		sum, squares := 0.0, 0.0
		for w := range 3 {
			for _, v := range values[(2*w+c)*2000 : (2*w+c+1)*2000] {
				sum, squares = sum+float64(v), squares+float64(v)*float64(v)
			}
		}
		if math.Abs(sum/6000) > 1e-5 || math.Abs(squares/6000-1) > 1e-5 {
			t.Errorf("channel %d: mean %v, variance %v", c, sum/6000, squares/6000)
		}
	}
	// The other part has the same.
	test := p
	test.Split = &Split{Use: "test", Parts: p.Split.Parts}
	test.BatchSize = 1
	if v := firstBatch(t, test)[2000]; math.Abs(float64(v)-2/math.Sqrt(2.0/3)) > 1e-5 {
		t.Errorf("%v", v)
	}
	// A split that lets the test part in is another training part.
	leaking := p
	leaking.Split = &Split{Use: "train", Parts: []Part{
		{Name: "train", Recordings: ids(1, 2, 4)}, {Name: "test", Recordings: ids(3)},
	}}
	lacking, unit, scale := *n, *n, *n
	lacking.Channels = map[string]Scale{"c3": {0, 1}}
	unit.Unit = "millivolt"
	scale.Channels = map[string]Scale{"c3": {0, 0}, "flat": {0, 1}}
	for name, q := range map[string]Params{"split": leaking, "channel": with(p, &lacking), "unit": with(p, &unit),
		"scale": with(p, &scale)} {
		if _, err := New(t.Context(), q, Config{}); !errors.Is(err, ErrNormalize) || !errors.Is(err, ErrParams) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	lacked := with(p, &lacking)
	lacked.Channels = []string{"c3"} // the other is not asked for
	firstBatch(t, lacked)
}

func with(p Params, n *Normalization) Params {
	p.Normalize = n
	return p
}
