package onda

import (
	"errors"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func labeled(t testing.TB, lengths ...int) []LabeledSignal {
	t.Helper()
	var signals []Signal
	var notes []Annotation
	for i, n := range lengths {
		signals = append(signals, testSignal(byte(i)))
		notes = append(notes, note(byte(i), 5, float64(5+n), "x"))
	}
	out, err := LabelSignals(signals, notes, xy)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func windowsOf(signals []LabeledSignal) WindowConfig {
	return WindowConfig{Signals: signals, BatchSize: 4, BatchDuration: 3 * time.Second}
}

func TestRandomBatches(t *testing.T) {
	t.Parallel()
	cfg := RandomConfig{WindowConfig: windowsOf(labeled(t, 3, 8, 40)), SignalWeights: []float64{1, 2, 1}}
	cfg.LabelWeights = [][]float64{nil, {0, 0, 0, 0, 1, 0, 0, 0}, nil}
	cfg.NChannels = 1
	r, err := NewRandomBatches(cfg)
	if err != nil {
		t.Fatal(err)
	}
	state := StartState(ModeRandom, 1)
	signals, starts, channels := map[int]int{}, map[int64]int{}, map[string]int{}
	const batches = 2000
	for i := range batches {
		before := state
		job, next, err := r.Next(state)
		if err != nil {
			t.Fatal(err)
		}
		again, _, _ := r.Next(before)
		if d := cmp.Diff(job, again); d != "" || state != before || next.Index != uint64(i+1) {
			t.Fatalf("not a pure function: %s", d)
		}
		for _, item := range job.Items {
			l := cfg.Signals[item.Signal]
			span := Span{time.Duration(item.Start), time.Duration(item.Stop)}
			if _, err := l.SubSpan(span); err != nil || span.Duration() != cfg.BatchDuration || item.Recording != l.Recording.String() {
				t.Fatalf("%+v: %v", item, err)
			}
			signals[item.Signal]++
			if item.Signal == 1 {
				starts[item.Start/1e9]++
			}
			channels[item.Channels[0]]++
		}
		state = next
	}
	near := func(got int, share float64, of int) bool {
		return math.Abs(float64(got)-share*float64(of)) < 0.05*float64(of)
	}
	const items = 4 * batches
	if !near(signals[0], 0.25, items) || !near(signals[1], 0.5, items) || !near(channels["a"], 0.5, items) {
		t.Errorf("signals %v, channels %v", signals, channels)
	}
	// Label 4 lies in the windows that begin with labels 2, 3 and 4: alike.
	if len(starts) != 3 || !near(starts[7], 1.0/3, signals[1]) || !near(starts[8], 1.0/3, signals[1]) || !near(starts[9], 1.0/3, signals[1]) {
		t.Errorf("starts %v", starts)
	}
}

func TestBadIterators(t *testing.T) {
	t.Parallel()
	good := labeled(t, 10, 20)
	spoiled := slices.Clone(good)
	spoiled[1].Labels = LabelsOf(spoiled[1].Labels.All()[1:]...)
	for name, c := range map[string]struct {
		spoil func(*RandomConfig)
		want  error
	}{
		"no signals":         {func(c *RandomConfig) { c.Signals = nil }, ErrNoSignals},
		"no batch size":      {func(c *RandomConfig) { c.BatchSize = 0 }, ErrParams},
		"negative channels":  {func(c *RandomConfig) { c.NChannels = -1 }, ErrParams},
		"no duration":        {func(c *RandomConfig) { c.BatchDuration = 0 }, ErrWindow},
		"window too long":    {func(c *RandomConfig) { c.BatchDuration = 11 * time.Second }, ErrWindow},
		"half a label":       {func(c *RandomConfig) { c.BatchDuration = 2500 * time.Millisecond }, ErrWindow},
		"unknown channel":    {func(c *RandomConfig) { c.Channels = []string{"a", "z"} }, ErrChannels},
		"too many channels":  {func(c *RandomConfig) { c.NChannels = 3 }, ErrChannels},
		"labels do not fit":  {func(c *RandomConfig) { c.Signals = spoiled }, ErrLabels},
		"few signal weights": {func(c *RandomConfig) { c.SignalWeights = []float64{1} }, ErrWeights},
		"NaN signal weight":  {func(c *RandomConfig) { c.SignalWeights = []float64{1, math.NaN()} }, ErrWeights},
		"few label weights":  {func(c *RandomConfig) { c.LabelWeights = [][]float64{{1}, nil} }, ErrWeights},
		"one label weights":  {func(c *RandomConfig) { c.LabelWeights = [][]float64{nil} }, ErrWeights},
		"negative label weight": {func(c *RandomConfig) {
			c.LabelWeights = [][]float64{nil, append([]float64{-1}, make([]float64, 19)...)}
		}, ErrWeights},
	} {
		cfg := RandomConfig{WindowConfig: windowsOf(good)}
		c.spoil(&cfg)
		if _, err := NewRandomBatches(cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		spoil func(*EpochConfig)
		want  error
	}{
		"half a stride":     {func(c *EpochConfig) { c.Stride = 1500 * time.Millisecond }, ErrWindow},
		"backward":          {func(c *EpochConfig) { c.Stride = -time.Second }, ErrWindow},
		"nothing to drop":   {func(c *EpochConfig) { c.DropLast, c.BatchSize = true, 100 }, ErrParams},
		"no signals at all": {func(c *EpochConfig) { c.Signals = nil }, ErrNoSignals},
	} {
		cfg := EpochConfig{WindowConfig: windowsOf(good)}
		c.spoil(&cfg)
		if _, err := NewEpochBatches(cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestForeignStates(t *testing.T) {
	t.Parallel()
	w := windowsOf(labeled(t, 10))
	random, err := NewRandomBatches(RandomConfig{WindowConfig: w})
	if err != nil {
		t.Fatal(err)
	}
	epochs, err := NewEpochBatches(EpochConfig{WindowConfig: w})
	if err != nil {
		t.Fatal(err)
	}
	newer := StartState(ModeRandom, 1)
	newer.Version++
	for _, s := range []State{{}, newer, StartState(ModeEpochs, 1)} {
		_, _, err := random.Next(s)
		wantErr(t, err, ErrState)
	}
	_, _, err = epochs.Next(StartState(ModeRandom, 1))
	wantErr(t, err, ErrState)
}

// Epochs against a list of all windows: each once per epoch, batches full but
// for the last, and the end where it should be.
func TestEpochsVisitEveryWindowOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		lengths := rapid.SliceOfN(rapid.IntRange(3, 30), 1, 4).Draw(rt, "lengths")
		stride := rapid.IntRange(1, 4).Draw(rt, "stride")
		cfg := EpochConfig{WindowConfig: windowsOf(labeled(t, lengths...)), Stride: time.Duration(stride) * time.Second}
		cfg.Epochs = rapid.Uint64Range(1, 3).Draw(rt, "epochs")
		var all []Item
		for i, n := range lengths {
			for at := 0; at+3 <= n; at += stride {
				all = append(all, Item{Signal: i, Start: int64(5+at) * 1e9})
			}
		}
		cfg.BatchSize = rapid.IntRange(1, len(all)+3).Draw(rt, "size")
		cfg.DropLast = cfg.BatchSize <= len(all) && rapid.Bool().Draw(rt, "drop")
		e, err := NewEpochBatches(cfg)
		if err != nil {
			rt.Fatal(err)
		}
		state := StartState(ModeEpochs, rapid.Uint64().Draw(rt, "seed"))
		for epoch := range cfg.Epochs {
			visited := map[[2]int64]int{}
			n := 0
			for state.Epoch == epoch {
				p, err := e.Progress(state)
				if want := uint64(n / cfg.BatchSize); err != nil || p.Epoch != epoch+1 || p.Epochs != cfg.Epochs || p.Batch != want {
					rt.Fatalf("after %d windows of epoch %d: %+v, %v", n, epoch, p, err)
				}
				job, next, err := e.Next(state)
				if err != nil {
					rt.Fatal(err)
				}
				if short := len(job.Items) < cfg.BatchSize; short && (next.Epoch == epoch || cfg.DropLast) {
					rt.Fatalf("a batch of %d at %+v", len(job.Items), state)
				}
				for _, item := range job.Items {
					visited[[2]int64{int64(item.Signal), item.Start}]++
					n++
				}
				state = next
			}
			want := len(all)
			if cfg.DropLast {
				want -= want % cfg.BatchSize
			}
			if n != want || len(visited) != want {
				rt.Fatalf("epoch %d: %d windows, %d of them different, want %d", epoch, n, len(visited), want)
			}
		}
		if p, _ := e.Progress(state); p.Epoch != cfg.Epochs || p.Batch != p.Batches {
			rt.Fatalf("at the end of the data: %+v", p)
		}
		for range 3 {
			_, next, err := e.Next(state)
			if err != io.EOF { // exactly, as the contract says
				rt.Fatalf("after the last epoch: %v", err)
			}
			state = next
		}
	})
}

func TestEpochsDiffer(t *testing.T) {
	t.Parallel()
	cfg := EpochConfig{WindowConfig: windowsOf(labeled(t, 90))}
	cfg.BatchSize, cfg.NChannels = 30, 1
	e, err := NewEpochBatches(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first, state, _ := e.Next(StartState(ModeEpochs, 1))
	second, _, _ := e.Next(state)
	other, _, _ := e.Next(StartState(ModeEpochs, 2))
	if cmp.Equal(first, second) || cmp.Equal(first, other) || state.Epoch != 1 || state.Index != 0 {
		t.Errorf("epochs or seeds are alike, then %+v", state)
	}
	// The same windows in the same order, with the same channels, when a run
	// goes on with another batch size.
	cfg.BatchSize = 7
	small, err := NewEpochBatches(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var items []Item
	for state = StartState(ModeEpochs, 1); state.Epoch == 0; {
		var job Job
		if job, state, err = small.Next(state); err != nil {
			t.Fatal(err)
		}
		items = append(items, job.Items...)
	}
	if d := cmp.Diff(first.Items, items); d != "" {
		t.Error(d)
	}
}
