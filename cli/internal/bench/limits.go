package bench

// A limit says what a measure of a row is to be.
type limit struct {
	of, row, against string
	measure          string
	target           float64 // what the service is built for
	gate             float64 // what a check fails at: the target with room for the noise of short measurements
	atMost           bool    // else at least
}

// Measures that limits speak of: ratios, all of them.
const (
	byFigure   = "figure"
	byCPU      = "CPU/batch"
	byCPUPerMB = "CPU/MB"
	byAllocs   = "allocs/batch"
)

var limits = []limit{
	{"small", "1 KB jobs and results", "raw NATS", byFigure, 0.9, 0.3, false},
	{"small", "1 KB jobs and results", "raw NATS", byCPU, 1.15, 3.5, true},
}

// Verdict is what became of one limit.
type Verdict struct {
	Measure string  `json:"measure"`
	AtMost  bool    `json:"at_most,omitempty"`
	Ratio   float64 `json:"ratio"`
	Target  float64 `json:"target"`
	Gate    float64 `json:"gate"`
	Met     bool    `json:"met"`  // the target
	Pass    bool    `json:"pass"` // the gate
}

func (l limit) verdict(r *Row) Verdict {
	ratio := r.of(l.measure).Ratio
	holds := func(bound float64) bool {
		if l.atMost {
			return ratio <= bound
		}
		return ratio >= bound
	}
	return Verdict{l.measure, l.atMost, ratio, l.target, l.gate, holds(l.target), holds(l.gate)}
}

// judge fills in what became of the limits.
func (r *Report) judge() {
	for i := range r.Rows {
		row := &r.Rows[i]
		for _, l := range limits {
			if l.of == r.Case && l.row == row.Name && l.against == row.Against {
				row.Limits = append(row.Limits, l.verdict(row))
			}
		}
	}
}

// Failed lists the gates that were not passed.
func (r *Report) Failed() []string {
	var failed []string
	for _, row := range r.Rows {
		for _, v := range row.Limits {
			if !v.Pass {
				failed = append(failed, v.sentence(r.Case, row.Name))
			}
		}
	}
	return failed
}
