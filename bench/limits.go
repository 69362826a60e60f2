package main

import "fmt"

// A limit says what a measure of a row is to be, as a ratio to the floor's.
type limit struct {
	of, row, against string
	measure          string
	target           float64 // what the service is built for
	atMost           bool    // else at least
	idle             bool    // its gate says something only while the processors are the benchmark's
}

// slack is the share of a target that a gate asks for: the best of a few short rounds beside other load comes to more,
// and a change that costs a third of a figure does not get by.
const slack = 2. / 3

// missed is what figures come to that do not meet their targets; docs/PERFORMANCE.md says why. Their gates are made of
// it, so that they do not grow worse.
var missed = map[string]float64{
	"successor's first batch":           4.3,
	"another world's first batch, held": 5,
	"move by agreement, held":           7,
	"move by agreement, not held":       20,
}

// gate is what a check fails at.
func (l limit) gate() float64 {
	bound := l.target
	if measured, ok := missed[l.row]; ok {
		bound = measured
	}
	if l.atMost {
		return bound / slack
	}
	return bound * slack
}

// Measures that limits speak of.
const (
	byFigure   = "figure"
	byCPU      = "CPU/batch"
	byCPUPerMB = "CPU/MB"
	byAllocs   = "allocs/batch"
)

var limits = []limit{
	{"small", "1 KB jobs and results", "raw NATS", byFigure, 0.9, false, false},
	{"small", "1 KB jobs and results", "raw NATS", byCPU, 1.15, true, false},

	{"sizes", "20 MB, direct", againstTCP, byFigure, 0.75, false, false},
	{"sizes", "20 MB, direct", againstTCP, byCPUPerMB, 1.5, true, false},
	{"sizes", "20 MB, chunked", "raw stream", byFigure, 0.9, false, false},
	{"sizes", "1 MB, direct", againstTCP, byFigure, 0.6, false, false},

	{"valley", "64 KB", againstTCP, byFigure, 0.6, false, false},
	{"valley", "256 KB", againstTCP, byFigure, 0.65, false, false},

	{"peers", "1 KB", againstTorch, byFigure, 1, false, false},
	{"peers", "16 KB", againstTorch, byFigure, 1, false, false},
	{"peers", "64 KB", againstTorch, byFigure, 1, false, false},
	{"peers", "128 KB", againstTorch, byFigure, 1, false, false},
	{"peers", "256 KB", againstTorch, byFigure, 1, false, false},
	{"peers", "500 KB", againstTorch, byFigure, 1, false, false},
	{"peers", "1 MB", againstTorch, byFigure, 1, false, false},
	{"peers", "20 MB", againstTorch, byFigure, 1, false, false},
	{"peers", "100 MB", againstTorch, byFigure, 1, false, false},

	{"scale", "1 slot", againstSlots, byFigure, 0.95, false, false},
	{"scale", "4 slots", againstSlots, byFigure, 0.95, false, false},
	{"scale", "16 slots", againstSlots, byFigure, 0.95, false, false},
	{"scale", "64 slots", againstSlots, byFigure, 0.95, false, false},
	{"scale", "256 slots", againstSlots, byFigure, 0.9, false, false},
	{"scale", "16 slots, window 33, 1 in 100", againstModel, byFigure, 0.9, false, false},
	{"scale", "16 slots, window 1024, 1 in 100", againstModel, byFigure, 0.9, false, false},

	{"workers", "200 workers x 1, batchers: 1", againstFew, byCPU, 1.5, true, false},
	{"workers", "200 workers x 1, batchers: 100", againstFew, byCPU, 1.5, true, false},
	{"workers", "200 workers x 1, batchers: 100", againstRate, byFigure, 0.85, false, true},
	{"workers", "1000 workers x 1, batchers: 1", againstFew, byCPU, 1.5, true, false},
	{"workers", "200 workers x 1, batchers: 100: first batch of the last", againstAllowed, byFigure, 1, true, true},
	{"workers", "200 workers x 1, batchers: 100: first job of a worker that comes", againstAllowed, byFigure, 1, true, true},
	{"workers", "200 workers x 1, batchers: 100: slowest batcher", againstMean, byFigure, 0.8, false, true},

	{"latency", "round trip, p50", "raw NATS", byFigure, 1.5, true, false},
	{"latency", "round trip, p50", "raw NATS, no credit", byFigure, 1.5, true, false},
	{"latency", "re-seat, held", againstRequest, byFigure, 3, true, false},

	{"fanout", "8 batchers", "raw NATS, one sequence", byFigure, 0.6, false, false},

	{"ranks", "4 ranks, quarters", againstOneRank, byFigure, 0.9, false, false},
	{"ranks", "4 ranks: bytes that a rank fetches", againstPayload, byFigure, 0.27, true, false},
	{"ranks", "4 ranks: bytes that all fetch", againstPayload, byFigure, 1.08, true, false},
	{"ranks", "2 ranks, 1 KB", againstListeners, byFigure, 0.85, false, false},
	{"ranks", "4 ranks, 1 KB", againstListeners, byFigure, 0.85, false, false},
	{"ranks", "8 ranks, 1 KB", againstListeners, byFigure, 0.85, false, false},
	{"ranks", "2 ranks, jobs of 20 ms", againstOne, byFigure, 0.99, false, false},
	{"ranks", "4 ranks, jobs of 20 ms", againstOne, byFigure, 0.97, false, false},
	{"ranks", "8 ranks, jobs of 20 ms", againstOne, byFigure, 0.93, false, false},
	{"ranks", "rank killed: the other's error", againstAllowed, byFigure, 1, true, false},
	{"ranks", "successor's first batch", againstRequest, byFigure, 3, true, false},
	{"ranks", "another world's first batch, held", againstRequest, byFigure, 3, true, false},
	// The last rank's own request is one more than what the agreement may take.
	{"ranks", "move by agreement, held", againstRequest, byFigure, 3, true, false},
	{"ranks", "move by agreement, not held", againstRequest, byFigure, 5, true, false},
	{"ranks", "reader beside one that stopped", againstReader, byFigure, 0.98, false, false},
	{"ranks", "64 ranks, 100 steps/s: coordinator", againstAllowed, byFigure, 1, true, false},

	// A service needs more than one processor to be ahead of a loop that needs one.
	{"onda", "16 windows per batch", againstLoop, byFigure, 1.5, false, true},
	{"onda", "16 windows per batch", againstLoop, byCPU, 2, true, false},
	{"onda", "64 windows per batch", againstLoop, byFigure, 1.5, false, true},
	{"onda", "64 windows per batch", againstLoop, byCPU, 1.2, true, false},

	// A third of the floor's pace is three times its time.
	{"zst", "repacked, windows of 1s", againstLPCM, byFigure, 1. / 3, false, false},
	{"zst", "repacked, windows of 10s", againstLPCM, byFigure, 1. / 3, false, false},
	{"zst", "repacked, windows of 30s", againstLPCM, byFigure, 1. / 3, false, false},
	{"zst", "one frame, folder, windows of 1s", againstLPCM, byFigure, 1. / 3, false, false},
	{"zst", "one frame, folder, windows of 10s", againstLPCM, byFigure, 1. / 3, false, false},
	{"zst", "one frame, folder, windows of 30s", againstLPCM, byFigure, 1. / 3, false, false},
	{"zst", "one frame, memory, windows of 10s", againstLPCM, byFigure, 1. / 3, false, false},

	{"labels", "worker", againstTarget, byFigure, 1, true, false},
	{"labels", "coordinator, class weights", againstTarget, byFigure, 1, true, false},

	{"store", "1 window per batch", againstRanges, byFigure, 0.9, false, false},

	{"recovery", "coordinator killed, one of two", againstAllowed, byFigure, 1, true, true},
	{"recovery", "coordinator frozen, not the owner: open", againstAllowed, byFigure, 1, true, true},
	{"recovery", "trainer killed and started again", againstAllowed, byFigure, 1, true, true},
	{"recovery", "broker killed and started again", againstAllowed, byFigure, 1, true, true},

	{"soak", "broker, goroutines", againstHalf, byFigure, 1.1, true, false},
	{"soak", "broker, resident memory", againstHalf, byFigure, 1.1, true, false},
	{"soak", "coordinator, goroutines", againstHalf, byFigure, 1.1, true, false},
	{"soak", "coordinator, resident memory", againstHalf, byFigure, 1.1, true, false},
	{"soak", "trainer, goroutines", againstHalf, byFigure, 1.1, true, false},
	{"soak", "trainer, resident memory", againstHalf, byFigure, 1.1, true, false},
	{"soak", "worker, goroutines", againstHalf, byFigure, 1.1, true, false},
	{"soak", "worker, resident memory", againstHalf, byFigure, 1.1, true, false},
}

// Floors that several limits name.
const (
	againstTCP     = "raw TCP"
	againstTorch   = "DataLoader"
	againstSlots   = "slots / 20 ms"
	againstRate    = "slots / time of a job"
	againstAllowed = "allowed"
	againstMean    = "mean of all"
	againstFew     = "4 workers, 1 batcher"
	againstModel   = "the window's model"
	againstRequest = "one request and answer"
	againstLoop    = "loop"
	againstOneRank = "1 rank, whole"
	againstOne     = "1 rank"
	againstReader  = "1 reader"
	againstPayload = "the payload"

	againstListeners = "raw NATS, as many listeners"
	againstCrew      = "raw NATS, as many workers"
	againstCrewOfFew = "raw NATS, 4 workers"

	againstHalf = "first half"
)

// Verdict is what became of one limit.
type Verdict struct {
	Measure string  `json:"measure"`
	AtMost  bool    `json:"at_most,omitempty"`
	Ratio   float64 `json:"ratio"`
	Best    float64 `json:"best"` // of the rounds
	Target  float64 `json:"target"`
	Gate    float64 `json:"gate"`
	Met     bool    `json:"met"`  // the target, by the ratio
	Pass    bool    `json:"pass"` // the gate, by the best

	idle bool
}

func (l limit) verdict(r *Row) Verdict {
	p := r.of(l.measure)
	best := p.Most
	if l.atMost {
		best = p.Least
	}
	holds := func(ratio, bound float64) bool {
		if l.atMost {
			return ratio <= bound
		}
		return ratio >= bound
	}
	return Verdict{
		Measure: l.measure, AtMost: l.atMost, Ratio: p.Ratio, Best: best, Target: l.target, Gate: l.gate(),
		Met: holds(p.Ratio, l.target), Pass: holds(best, l.gate()), idle: l.idle,
	}
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

// excuse passes what only idle processors can, where the benchmark had but a share of them, and says so.
func (r *Report) excuse(share float64) {
	if share >= idleShare {
		return
	}
	for i := range r.Rows {
		for j := range r.Rows[i].Limits {
			if v := &r.Rows[i].Limits[j]; v.idle && !v.Pass {
				v.Pass = true
				r.Notes = append(r.Notes, fmt.Sprintf("not judged: %s: %s: other programs have %.0f %% of the processors",
					r.Rows[i].Name, v.Measure, 100*(1-share)))
			}
		}
	}
}

// keepBest lets the gates look at the best of an earlier report's rounds, too.
func (r *Report) keepBest(earlier *Report) {
	for i := range r.Rows {
		for j := range r.Rows[i].Limits {
			now, before := &r.Rows[i].Limits[j], earlier.Rows[i].Limits[j]
			if now.AtMost == (before.Best < now.Best) {
				now.Best, now.Pass = before.Best, before.Pass
			}
		}
	}
}

// failed lists the gates that were not passed.
func (r *Report) failed() []string {
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
