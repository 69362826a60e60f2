package bench

// A limit says what a measure of a row is to be, as a ratio to the floor's.
type limit struct {
	of, row, against string
	measure          string
	target           float64 // what the service is built for
	gate             float64 // what a check fails at: worse than the service is by more than the noise of short measurements
	atMost           bool    // else at least
}

// Measures that limits speak of.
const (
	byFigure   = "figure"
	byCPU      = "CPU/batch"
	byCPUPerMB = "CPU/MB"
	byAllocs   = "allocs/batch"
)

var limits = []limit{
	{"small", "1 KB jobs and results", "raw NATS", byFigure, 0.9, 0.5, false},
	{"small", "1 KB jobs and results", "raw NATS", byCPU, 1.15, 2, true},

	{"sizes", "20 MB, direct", "raw TCP", byFigure, 0.75, 0.3, false},
	{"sizes", "20 MB, direct", "raw TCP", byCPUPerMB, 1.5, 6, true},
	{"sizes", "20 MB, chunked", "raw stream", byFigure, 0.9, 0.5, false},
	{"sizes", "1 MB, direct", "raw TCP", byFigure, 0.6, 0.15, false},

	{"scale", "1 slot", againstSlots, byFigure, 0.95, 0.7, false},
	{"scale", "4 slots", againstSlots, byFigure, 0.95, 0.7, false},
	{"scale", "16 slots", againstSlots, byFigure, 0.95, 0.7, false},
	{"scale", "64 slots", againstSlots, byFigure, 0.95, 0.6, false},
	{"scale", "256 slots", againstSlots, byFigure, 0.9, 0.4, false},
	{"scale", "16 slots, window 33, 1 in 100", againstModel, byFigure, 0.9, 0.7, false},
	{"scale", "16 slots, window 1024, 1 in 100", againstModel, byFigure, 0.9, 0.7, false},

	{"latency", "round trip, p50", "raw NATS", byFigure, 1.5, 4, true},
	{"latency", "round trip, p50", "raw NATS, no credit", byFigure, 1.5, 5, true},
	{"latency", "re-seat, held", againstRequest, byFigure, 3, 12, true},

	{"fanout", "8 batchers", "raw NATS, one sequence", byFigure, 0.6, 0.3, false},

	// Beside other load a service waits for its goroutines where a loop does not, so that its pace says little. CPU does.
	{"onda", "16 windows per batch", againstLoop, byFigure, 1.5, 0.03, false},
	{"onda", "16 windows per batch", againstLoop, byCPU, 2, 4, true},
	{"onda", "64 windows per batch", againstLoop, byFigure, 1.5, 0.03, false},
	{"onda", "64 windows per batch", againstLoop, byCPU, 1.2, 2.2, true},

	{"soak", "broker, goroutines", againstHalf, byFigure, 1.1, 1.3, true},
	{"soak", "broker, resident memory", againstHalf, byFigure, 1.1, 1.5, true},
	{"soak", "coordinator, goroutines", againstHalf, byFigure, 1.1, 1.3, true},
	{"soak", "coordinator, resident memory", againstHalf, byFigure, 1.1, 1.5, true},
	{"soak", "trainer, goroutines", againstHalf, byFigure, 1.1, 1.3, true},
	{"soak", "trainer, resident memory", againstHalf, byFigure, 1.1, 1.5, true},
	{"soak", "worker, goroutines", againstHalf, byFigure, 1.1, 1.3, true},
	{"soak", "worker, resident memory", againstHalf, byFigure, 1.1, 1.5, true},
}

// Floors that several limits name.
const (
	againstSlots   = "slots / 20 ms"
	againstModel   = "the window's model"
	againstRequest = "one request and answer"
	againstLoop    = "loop"
	againstHalf    = "first half"
)

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
