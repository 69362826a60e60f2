package main

import (
	"slices"
	"testing"
	"time"
)

func samplesOf(values ...float64) []sample {
	var s []sample
	for i, v := range values {
		s = append(s, sample{outcome{Value: v, Batches: 10, Bytes: 2e6}, time.Duration(i+1) * time.Millisecond, uint64(100 * (i + 1))})
	}
	return s
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		of   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1}, 5},
		{[]float64{5, 1000, 1}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(tc.of)
		if got := median(tc.of); got != tc.want || !slices.Equal(tc.of, before) {
			t.Errorf("median of %v is %v, want %v", before, got, tc.want)
		}
	}
}

// A machine that gets slower from round to round changes the figures and not their ratio.
func TestRatioIsTakenRoundByRound(t *testing.T) {
	t.Parallel()
	r := row("a", "b", "c", samplesOf(50, 10, 5, 1), samplesOf(100, 20, 10, 2))
	if r.Pair != (Pair{7.5, 15, 0.5, 0.5, 0.5}) {
		t.Errorf("figure %+v", r.Pair)
	}
	if p := row("a", "b", "c", samplesOf(1, 3, 2), samplesOf(1, 1, 1)).Pair; p != (Pair{2, 1, 2, 1, 3}) {
		t.Errorf("figure %+v, want the least and the most of the ratios, too", p)
	}
	if r.CPUPerBatch != (Pair{250, 250, 1, 1, 1}) { // 1 to 4 ms for 10 batches
		t.Errorf("CPU per batch %+v", r.CPUPerBatch)
	}
	if r.CPUPerMB != (Pair{1.25, 1.25, 1, 1, 1}) {
		t.Errorf("CPU per MB %+v", r.CPUPerMB)
	}
	if r.Allocs != (Pair{25, 25, 1, 1, 1}) {
		t.Errorf("allocations %+v", r.Allocs)
	}
}

// A target is met by the median, and a gate passed by the best of the rounds, at two thirds of the target.
func TestLimits(t *testing.T) {
	t.Parallel()
	least := limit{measure: byFigure, target: 0.9}
	most := limit{measure: byCPU, target: 1.2, atMost: true}
	for _, tc := range []struct {
		l           limit
		ratio, best float64
		met, pass   bool
	}{
		{least, 0.9, 0.9, true, true},
		{least, 0.89, 0.89, false, true},
		{least, 0.5, 0.61, false, true},
		{least, 0.5, 0.59, false, false},
		{most, 1.2, 1.2, true, true},
		{most, 1.3, 1.3, false, true},
		{most, 1.9, 1.79, false, true},
		{most, 1.9, 1.81, false, false},
	} {
		r := Row{Pair: Pair{Ratio: -1}, CPUPerBatch: Pair{Ratio: -1}}
		if tc.l.atMost {
			r.CPUPerBatch = Pair{Ratio: tc.ratio, Least: tc.best, Most: 9}
		} else {
			r.Pair = Pair{Ratio: tc.ratio, Most: tc.best}
		}
		if v := tc.l.verdict(&r); v.Met != tc.met || v.Pass != tc.pass || v.Ratio != tc.ratio || v.Best != tc.best {
			t.Errorf("%+v of %v: %+v", tc.l, tc.ratio, v)
		}
	}
}

// A gate looks at the best of all tries, whether that is the least or the most.
func TestKeepBest(t *testing.T) {
	t.Parallel()
	report := func(pace, cpu float64) *Report {
		r := &Report{Case: "small", Rows: []Row{{
			Name: "1 KB jobs and results", Against: "raw NATS", Pair: Pair{Ratio: pace, Most: pace}, CPUPerBatch: Pair{Ratio: cpu, Least: cpu},
		}}}
		r.judge()
		return r
	}
	now := report(0.5, 2)
	now.keepBest(report(0.4, 3))
	if failed := now.failed(); len(failed) != 2 {
		t.Errorf("failed: %q", failed)
	}
	now.keepBest(report(0.7, 3))
	if failed := now.failed(); len(failed) != 1 || now.Rows[0].Limits[0].Best != 0.7 || now.Rows[0].Limits[1].Best != 2 {
		t.Errorf("failed: %q, %+v", failed, now.Rows[0].Limits)
	}
	now.keepBest(report(0.1, 1.7))
	if failed := now.failed(); len(failed) != 0 || now.Rows[0].Limits[0].Best != 0.7 || now.Rows[0].Limits[1].Best != 1.7 {
		t.Errorf("failed: %q, %+v", failed, now.Rows[0].Limits)
	}
}

// Other load excuses what needs processors of its own, with a word, and nothing else.
func TestExcuse(t *testing.T) {
	t.Parallel()
	report := func(share float64) *Report {
		r := &Report{Case: "onda", Rows: []Row{{
			Name: "16 windows per batch", Against: againstLoop, Pair: Pair{Ratio: 0.5, Most: 0.5}, CPUPerBatch: Pair{Ratio: 9, Least: 9},
		}}}
		r.judge()
		r.excuse(share)
		return r
	}
	if r := report(0.9); len(r.failed()) != 2 || len(r.Notes) != 0 {
		t.Errorf("alone: %q, %q", r.failed(), r.Notes)
	}
	if r := report(0.25); len(r.failed()) != 1 || len(r.Notes) != 1 || r.Notes[0] != "not judged: 16 windows per batch: figure: other programs have 75 % of the processors" {
		t.Errorf("beside other load: %q, %q", r.failed(), r.Notes)
	}
	if share := processorShare(); share <= 0 || share > 1 {
		t.Errorf("share of the processors: %v", share)
	}
}

// Every limit is of a case that is there.
func TestLimitsAreOfCases(t *testing.T) {
	t.Parallel()
	for _, l := range limits {
		if !slices.ContainsFunc(cases(), func(c benchCase) bool { return c.name == l.of }) {
			t.Errorf("%+v: no such case", l)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	r := &Report{
		Case: "small", What: "what it is",
		Rows: []Row{
			{Name: "1 KB jobs and results", Against: "raw NATS", Unit: "batches/s", Pair: Pair{9000, 10000, 0.9, 0.8, 1}, CPUPerBatch: Pair{480, 120, 4, 3.5, 4.5}, Allocs: Pair{12.34, 1.5, 8.2, 8, 9}},
			{Name: "ä", Against: "nothing", Unit: "ms", Pair: Pair{Ours: 0.1234}},
		},
		Peaks: map[string]map[string]float64{"service": {"worker": 20.4, "broker": 50}},
		Notes: []string{"a note"},
	}
	r.judge()
	const want = `small: what it is
                         against   unit       figure  floor          ratio  CPU µs/batch          ratio  CPU ms/MB  ratio  allocs/batch  ratio
  1 KB jobs and results  raw NATS  batches/s    9000  10000  ✓ ≥0.90: 0.90     480 / 120  ✗ ≤1.15: 4.00                     12.3 / 1.50   8.20
  ä                      nothing   ms           0.12      0           0.00
  peak memory, MB  broker  worker
  service            50.0    20.4
  a note
`
	if got := r.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	failed := r.failed()
	if len(failed) != 1 || failed[0] != "small: 1 KB jobs and results: CPU/batch is at best 3.50 of the floor's, and must be at most 1.72" {
		t.Errorf("failed: %q", failed)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 0.1234: "0.12", 9.876: "9.88", 12.34: "12.3", 1234.5: "1234"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(100-i)*time.Microsecond)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(took, q); got != want {
			t.Errorf("%v: got %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of none: %v", got)
	}
}
