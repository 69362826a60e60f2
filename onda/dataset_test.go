package onda

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/datasettest"
	"github.com/jetbatch/jetbatch/schema"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 4, Duration: 30 * time.Second})
	for name, p := range map[string]Params{
		"defaults": {Dir: dir},
		"random":   {Dir: dir, BatchSize: 3, NChannels: 1, DType: "float64", ClassWeights: map[string]float64{"burst": 5}},
		"epochs":   {Dir: dir, Mode: ModeEpochs, Epochs: 2, BatchSize: 4, NChannels: 1},
		"selector": {Dir: dir, Mode: ModeEpochs, Epochs: 1, BatchSize: 5, Selector: "even_odds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := openPlain(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			start, err := d.Start()
			if err != nil {
				t.Fatal(err)
			}
			datasettest.Run(t, openPlain, p, start)
		})
	}
}

func openPlain(ctx context.Context, p Params) (*Dataset, error) { return New(ctx, p, Config{}) }

func TestConformanceOnRealData(t *testing.T) {
	t.Parallel()
	p := realParams(t)
	p.BatchSize = 4
	datasettest.Run(t, openPlain, p, StartState(ModeRandom, 1))
}

func take(t testing.TB, d *Dataset, state State) (Job, schema.Batch, State) {
	t.Helper()
	job, next, err := d.Next(state)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := d.Materialize(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return job, batch, next
}

func view[T schema.Element](t testing.TB, b schema.Batch, name string, shape ...int) []T {
	t.Helper()
	tensor, ok := b.Get(name)
	if !ok || !slices.Equal(tensor.Shape, shape) {
		t.Fatalf("%s has shape %v, want %v", name, tensor.Shape, shape)
	}
	v, err := schema.View[T](tensor)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The tables of the real data say what their README says, and batches hold
// what a plain reading of the sample files gives.
func TestRealData(t *testing.T) {
	t.Parallel()
	p := realParams(t)
	d := open(t, p, Config{})
	if len(d.Signals()) != 12 {
		t.Fatalf("%d recordings", len(d.Signals()))
	}
	compressed, pvc := 0, 0
	for _, l := range d.Signals() {
		if l.LabelSpan != seconds(0, 1805) || l.LabelCount() != 1805 || l.samples() != 650000 {
			t.Errorf("%s: labels %v, %d samples", l.Path, l.LabelSpan, l.samples())
		}
		if l.Format == formatZstd {
			compressed++
		}
		for _, code := range l.Labels.All() {
			pvc += int(code)
		}
	}
	beats, err := ReadAnnotations(t.Context(), Dir(p.Dir), "beats.onda.annotations.arrow", "label", "")
	if err != nil {
		t.Fatal(err)
	}
	ventricular := 0
	inSecond := map[[2]any]bool{}
	for _, b := range beats {
		if b.Label == "PVC" {
			ventricular++
			if s := b.Span.Start / time.Second; s < 1805 {
				inSecond[[2]any{b.Recording, s}] = true
			}
		}
	}
	if compressed != 6 || len(beats) != 25311 || ventricular != 2011 || pvc != len(inSecond) {
		t.Errorf("%d compressed, %d beats, %d ventricular in %d seconds, %d seconds labelled", compressed, len(beats), ventricular, len(inSecond), pvc)
	}

	raw := map[string][]byte{}
	for _, l := range d.Signals() {
		data, err := os.ReadFile(filepath.Join(p.Dir, l.Path))
		if err != nil {
			t.Fatal(err)
		}
		if l.Format == formatZstd {
			dec, err := zstd.NewReader(nil)
			if err != nil {
				t.Fatal(err)
			}
			if data, err = dec.DecodeAll(data, nil); err != nil {
				t.Fatal(err)
			}
			dec.Close()
		}
		raw[l.Recording.String()] = data
	}
	p.DType = "float64"
	double := open(t, p, Config{CacheBytes: -1})
	state := d.start
	for range 3 {
		job, batch, next := take(t, d, state)
		_, batch64, _ := take(t, double, state)
		x, x64 := view[float32](t, batch, "x", 16, 1, 3600), view[float64](t, batch64, "x", 16, 1, 3600)
		y := view[uint8](t, batch, "y", 16, 1, 10)
		for i, item := range job.Items {
			second := int(item.Start / 1e9)
			for j := range 3600 {
				stored := int16(binary.LittleEndian.Uint16(raw[item.Recording][2*(second*360+j):]))
				want := float64(stored) * 0.005
				if x64[i*3600+j] != want || x[i*3600+j] != float32(want) {
					t.Fatalf("item %d, sample %d is %v and %v, want %v", i, j, x[i*3600+j], x64[i*3600+j], want)
				}
			}
			for j := range 10 {
				want := uint8(0)
				if inSecond[[2]any{d.Signals()[item.Signal].Recording, time.Duration(second + j)}] {
					want = 1
				}
				if y[i*10+j] != want {
					t.Fatalf("item %d, label %d is %d, want %d", i, j, y[i*10+j], want)
				}
			}
		}
		state = next
	}

	p = realParams(t)
	p.Mode, p.Epochs = ModeEpochs, 1
	iterator, err := open(t, p, Config{}).iterator()
	if err != nil {
		t.Fatal(err)
	}
	if n := iterator.(*EpochBatches).Windows(); n != 12*180 {
		t.Errorf("%d windows", n)
	}
	guessed, err := Guess(p.Dir)
	if err != nil || guessed.Annotations != "rhythm.onda.annotations.arrow" || guessed.LabelColumn != "rhythm" ||
		guessed.Encoding["pvc"] != 1 || time.Duration(guessed.BatchDuration) != 10*time.Second {
		t.Errorf("guessed %+v, %v", guessed, err)
	}
}

func TestSplitsOfADatasetAreDisjoint(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 20, Duration: 20 * time.Second})
	seen := map[string]string{}
	for _, part := range []string{"train", "validation"} {
		for _, l := range open(t, Params{Dir: dir, Split: &Split{Use: part, Seed: 1}}, Config{}).Signals() {
			seen[l.Recording.String()] += part
		}
	}
	for id, parts := range seen {
		if parts != "train" && parts != "validation" {
			t.Errorf("recording %s is in %s", id, parts)
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20 recordings are used", len(seen))
	}
	_, err := New(t.Context(), Params{Dir: dir, Split: &Split{Use: "a", Parts: []Part{{Name: "a"}}}}, Config{})
	wantErr(t, err, ErrNoSignals)
}

func TestSelectors(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 2, Duration: 20 * time.Second, Channels: []string{"a", "b", "c", "d"}})
	p := Params{Dir: dir, BatchSize: 2, DType: "float64"}
	plain := open(t, p, Config{})
	_, batch, _ := take(t, plain, plain.start)
	const n = 1280
	x := view[float64](t, batch, "x", 2, 4, n)
	row := func(item, c int) []float64 { return x[(item*4+c)*n : (item*4+c+1)*n] }

	p.Selector = "even_odds"
	_, batch, _ = take(t, open(t, p, Config{}), plain.start)
	eo := view[float64](t, batch, "x", 2, 2, 2, n)
	for i, c := range []int{1, 3, 0, 2, 5, 7, 4, 6} {
		if !slices.Equal(eo[i*n:(i+1)*n], row(c/4, c%4)) {
			t.Errorf("row %d of even and odd is not channel %d", i, c)
		}
	}

	p.Selector, p.Channels = "zero_missing", []string{"z", "b"}
	_, batch, _ = take(t, open(t, p, Config{}), plain.start)
	zm := view[float64](t, batch, "x", 2, 2, n)
	if slices.Max(zm[:n]) != 0 || slices.Min(zm[:n]) != 0 || !slices.Equal(zm[n:2*n], row(0, 1)) {
		t.Error("a missing channel is not zero, or the other not itself")
	}

	p.Selector, p.Channels = "", []string{"d", "a"}
	_, batch, _ = take(t, open(t, p, Config{}), plain.start)
	if got := view[float64](t, batch, "x", 2, 2, n); !slices.Equal(got[:n], row(0, 3)) || !slices.Equal(got[n:2*n], row(0, 0)) {
		t.Error("channels are not in the order of their names in the parameters")
	}

	p.Channels = nil
	for name, c := range map[string]struct {
		sel  SelectorFunc
		want string
	}{
		"panic":       {func(Window) ([]int, []float64, error) { panic("boom") }, "boom"},
		"wrong shape": {func(Window) ([]int, []float64, error) { return []int{3}, make([]float64, 2), nil }, "shape"},
		"overflow":    {func(Window) ([]int, []float64, error) { return []int{math.MaxInt, 2}, nil, nil }, "shape"},
		"unequal": {func(w Window) ([]int, []float64, error) {
			n := int(w.Span.Start/time.Second)%9 + 1
			return []int{n}, make([]float64, n), nil
		}, "unequal"},
	} {
		d := open(t, p, Config{Selector: c.sel})
		job := Job{Items: []Item{
			{Recording: d.Signals()[0].Recording.String(), Sensor: "ecg", Start: 0, Stop: 2e9},
			{Recording: d.Signals()[0].Recording.String(), Sensor: "ecg", Start: 3e9, Stop: 5e9},
		}}
		_, err := d.Materialize(t.Context(), job)
		if err == nil || !strings.Contains(err.Error(), c.want) || !dataset.IsPermanent(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestStoredLabelsGiveTheSameBatches(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 3, Duration: 20 * time.Second})
	memory := open(t, Params{Dir: dir}, Config{})
	stored, err := StoreLabels(dir, memory.Signals())
	if err != nil {
		t.Fatal(err)
	}
	var rows []Signal
	for _, l := range stored {
		rows = append(rows, *l.Stored)
	}
	f, err := os.Create(filepath.Join(dir, "labels.onda.signals.arrow"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(WriteSignals(f, TableFormat{}, rows), f.Close()); err != nil {
		t.Fatal(err)
	}
	disk := open(t, Params{Dir: dir, LabelSignals: "labels.onda.signals.arrow"}, Config{})
	_, a, _ := take(t, memory, memory.start)
	_, b, _ := take(t, disk, memory.start)
	if !slices.Equal(view[uint8](t, a, "y", 16, 1, 10), view[uint8](t, b, "y", 16, 1, 10)) {
		t.Error("labels differ")
	}
}

func TestBadParams(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 2, Duration: 20 * time.Second})
	for name, c := range map[string]struct {
		p    Params
		want error
	}{
		"no dir":          {Params{}, ErrParams},
		"missing table":   {Params{Signals: "x.arrow"}, fs.ErrNotExist},
		"outside":         {Params{Annotations: "../x.arrow"}, ErrPath},
		"not a column":    {Params{LabelColumn: "x"}, ErrTable},
		"not a group":     {Params{GroupColumn: "x"}, ErrTable},
		"encoding":        {Params{Encoding: map[string]uint8{"rest": 0}}, ErrEncoding},
		"class":           {Params{ClassWeights: map[string]float64{"x": 1}}, ErrEncoding},
		"NaN class":       {Params{ClassWeights: map[string]float64{"rest": math.NaN()}}, ErrWeights},
		"NaN signal":      {Params{SignalWeights: []float64{1, math.NaN()}}, ErrWeights},
		"mode":            {Params{Mode: "x"}, ErrParams},
		"dtype":           {Params{DType: "int8"}, ErrParams},
		"selector":        {Params{Selector: "x"}, ErrParams},
		"zeros of what":   {Params{Selector: "zero_missing"}, ErrParams},
		"weights, epochs": {Params{Mode: ModeEpochs, SignalWeights: []float64{1, 1}}, ErrParams},
		"epochs, random":  {Params{Epochs: 1}, ErrParams},
		"both weights":    {Params{ClassWeights: map[string]float64{}, LabelWeights: [][]float64{}}, ErrParams},
		"both labels":     {Params{LabelSignals: "x", LabelColumn: "y"}, ErrParams},
		"negative":        {Params{LabelDuration: -1}, ErrParams},
		"negative batch":  {Params{BatchSize: -1}, ErrParams},
		"too long":        {Params{BatchDuration: Duration(time.Hour)}, ErrWindow},
		"half a label":    {Params{BatchDuration: Duration(1500 * time.Millisecond)}, ErrWindow},
		"channel":         {Params{Channels: []string{"x"}}, ErrChannels},
		"split":           {Params{Split: &Split{Use: "x"}}, ErrParams},
	} {
		if name != "no dir" {
			c.p.Dir = dir
		}
		if _, err := New(t.Context(), c.p, Config{}); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var p Params
	if err := json.Unmarshal([]byte(`{"batch_duration":"ten"}`), &p); !errors.Is(err, ErrParams) {
		t.Errorf("got %v", err)
	}
	full := Params{Dir: "d", BatchDuration: Duration(90 * time.Second), Split: &Split{Use: "a", Parts: []Part{{Name: "a"}}}}
	text, err := json.Marshal(full)
	if err != nil || string(text) != `{"dir":"d","split":{"use":"a","parts":[{"name":"a"}]},"batch_duration":"1m30s"}` {
		t.Errorf("%s, %v", text, err)
	}
}

func TestBadJobsAndFiles(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 3, Duration: 20 * time.Second})
	d := open(t, Params{Dir: dir}, Config{})
	id := func(i int) string { return d.Signals()[i].Recording.String() }
	item := func(i int, from, to int64) Item {
		return Item{Signal: i, Recording: id(i), Sensor: "ecg", Start: from * 1e9, Stop: to * 1e9}
	}
	if err := os.Truncate(filepath.Join(dir, "samples", "000.lpcm"), 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "samples", "002.lpcm")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		items     []Item
		want      error
		permanent bool
	}{
		"empty":           {nil, ErrJob, true},
		"no such signal":  {[]Item{{Signal: 7, Recording: id(0)}}, ErrJob, true},
		"negative signal": {[]Item{{Signal: -1, Recording: id(0)}}, ErrJob, true},
		"other recording": {[]Item{{Signal: 1, Recording: id(0), Sensor: "ecg", Stop: 1e9}}, ErrJob, true},
		"other sensor":    {[]Item{{Signal: 1, Recording: id(1), Sensor: "eeg", Stop: 1e9}}, ErrJob, true},
		"outside":         {[]Item{item(1, 20, 22)}, ErrOutsideSignal, true},
		"unequal":         {[]Item{item(1, 0, 2), item(1, 0, 3)}, ErrShape, true},
		"channel": {[]Item{{
			Signal: 1, Recording: id(1), Sensor: "ecg", Stop: 1e9, Channels: []string{"x"},
		}}, ErrChannels, true},
		"truncated": {[]Item{item(1, 0, 2), item(0, 0, 2)}, ErrTruncated, true},
		"missing":   {[]Item{item(2, 0, 2)}, fs.ErrNotExist, false},
	} {
		_, err := d.Materialize(t.Context(), Job{Items: c.items})
		if !errors.Is(err, c.want) || dataset.IsPermanent(err) != c.permanent {
			t.Errorf("%s: got %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Materialize(ctx, Job{Items: []Item{item(1, 0, 2)}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSynthesizeIsDeterministic(t *testing.T) {
	t.Parallel()
	read := func(seed uint64) map[string]string {
		root := synth(t, SynthConfig{Recordings: 3, Duration: 12 * time.Second, Seed: seed})
		out := map[string]string{}
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			name, _ := filepath.Rel(root, path)
			out[filepath.ToSlash(name)] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	a, b, c := read(1), read(1), read(2)
	if len(a) != 5 || len(c) != 5 {
		t.Errorf("%d files", len(a))
	}
	for name, data := range a {
		if b[name] != data {
			t.Errorf("%s differs with one seed", name)
		}
		if c[name] == data {
			t.Errorf("%s is the same with another seed", name)
		}
	}
	wantErr(t, Synthesize(t.TempDir(), SynthConfig{Duration: 1}), ErrParams)
}

func TestGuess(t *testing.T) {
	t.Parallel()
	dir := synth(t, SynthConfig{Recordings: 2, Duration: 5 * time.Second})
	p, err := Guess(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p.LabelColumn != "label" || len(p.Encoding) != 2 || time.Duration(p.BatchDuration) != 5*time.Second {
		t.Errorf("guessed %+v", p)
	}
	d := open(t, p, Config{})
	take(t, d, d.start)
	_, err = Guess(t.TempDir())
	wantErr(t, err, ErrParams)
	_, err = Guess(filepath.Join(dir, "none"))
	wantErr(t, err, fs.ErrNotExist)
}
