package bench

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
	if r.Pair != (Pair{7.5, 15, 0.5}) {
		t.Errorf("figure %+v", r.Pair)
	}
	if r.CPUPerBatch != (Pair{250, 250, 1}) { // 1 to 4 ms for 10 batches
		t.Errorf("CPU per batch %+v", r.CPUPerBatch)
	}
	if r.CPUPerMB != (Pair{1.25, 1.25, 1}) {
		t.Errorf("CPU per MB %+v", r.CPUPerMB)
	}
	if r.Allocs != (Pair{25, 25, 1}) {
		t.Errorf("allocations %+v", r.Allocs)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	least := limit{measure: byFigure, target: 0.9, gate: 0.6}
	most := limit{measure: byCPU, target: 1.2, gate: 1.8, atMost: true}
	for _, tc := range []struct {
		l         limit
		ratio     float64
		met, pass bool
	}{
		{least, 0.9, true, true},
		{least, 0.89, false, true},
		{least, 0.59, false, false},
		{most, 1.2, true, true},
		{most, 1.3, false, true},
		{most, 1.9, false, false},
	} {
		r := Row{Pair: Pair{Ratio: -1}, CPUPerBatch: Pair{Ratio: -1}}
		if tc.l.atMost {
			r.CPUPerBatch.Ratio = tc.ratio
		} else {
			r.Ratio = tc.ratio
		}
		if v := tc.l.verdict(&r); v.Met != tc.met || v.Pass != tc.pass || v.Ratio != tc.ratio {
			t.Errorf("%+v of %v: %+v", tc.l, tc.ratio, v)
		}
	}
}

// Every limit is of a case that is there, and asks for less than its target.
func TestLimitsAreInReach(t *testing.T) {
	t.Parallel()
	for _, l := range limits {
		if !slices.ContainsFunc(Cases(), func(c Case) bool { return c.Name == l.of }) {
			t.Errorf("%+v: no such case", l)
		}
		if l.atMost != (l.gate > l.target) {
			t.Errorf("%+v: the gate is stricter than the target", l)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	r := &Report{
		Case: "small", What: "what it is",
		Rows: []Row{
			{Name: "1 KB jobs and results", Against: "raw NATS", Unit: "batches/s", Pair: Pair{9000, 10000, 0.9}, CPUPerBatch: Pair{480, 120, 4}, Allocs: Pair{12.34, 1.5, 8.2}},
			{Name: "ä", Against: "nothing", Unit: "ms", Pair: Pair{0.1234, 0, 0}},
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
	failed := r.Failed()
	if len(failed) != 1 || failed[0] != "small: 1 KB jobs and results: CPU/batch is 4.00 of the floor's, and must be at most 2.00" {
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
