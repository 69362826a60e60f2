package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// tally sums up what was taken.
type tally struct {
	batches     int
	bytes       int64
	redelivered int
	timing      schema.Timing
	longest     time.Duration // wait for one batch
	began       time.Time
	elapsed     time.Duration // without pauses between runs
}

func (t *tally) start() { t.began = time.Now() }

func (t *tally) stop() { t.elapsed += time.Since(t.began) }

func (t *tally) add(bytes int, deliveries uint64, timing schema.Timing) {
	t.batches++
	t.bytes += int64(bytes)
	if deliveries > 1 {
		t.redelivered++
	}
	t.timing.Add(timing)
	t.longest = max(t.longest, timing.Wait)
}

// timingReport is the mean per batch, in milliseconds, and the part of the run that the trainer was kept waiting.
// Iterating, queueing, materializing and transferring overlap with one another and with the trainer.
type timingReport struct {
	Iterate     float64 `json:"iterate_ms"`
	Queue       float64 `json:"queue_ms"`
	Materialize float64 `json:"materialize_ms"`
	Transfer    float64 `json:"transfer_ms"`
	Wait        float64 `json:"wait_ms"`
	Trainer     float64 `json:"trainer_ms"`
	WaitShare   float64 `json:"wait_share"`
	LongestWait float64 `json:"longest_wait_ms"` // for one batch

	WaitFor waitReport `json:"wait_for"`
}

// waitReport is Wait by what the batch was in meanwhile.
type waitReport struct {
	Iterate     float64 `json:"iterate_ms"`
	Queue       float64 `json:"queue_ms"`
	Materialize float64 `json:"materialize_ms"`
	Transfer    float64 `json:"transfer_ms"`
	Ranks       float64 `json:"ranks_ms,omitempty"`
	Other       float64 `json:"other_ms"`
}

func (t *tally) timingReport() timingReport {
	per := func(d time.Duration) float64 {
		if t.batches == 0 {
			return 0
		}
		return float64(d) / float64(time.Millisecond) / float64(t.batches)
	}
	x := t.timing
	r := timingReport{
		Iterate: per(x.Iterate), Queue: per(x.Queue), Materialize: per(x.Materialize), Transfer: per(x.Transfer),
		Wait: per(x.Wait), Trainer: per(x.Trainer), LongestWait: float64(t.longest) / float64(time.Millisecond),
	}
	r.WaitFor = waitReport{
		Iterate: per(x.WaitIterate), Queue: per(x.WaitQueue), Materialize: per(x.WaitMaterialize),
		Transfer: per(x.WaitTransfer), Ranks: per(x.WaitRanks), Other: per(x.WaitOther),
	}
	if both := x.Wait + x.Trainer; both > 0 {
		r.WaitShare = float64(x.Wait) / float64(both)
	}
	return r
}

// waited says how much of a stage the trainer waited for, if it did.
func waited(ms float64) string {
	if ms < 0.005 {
		return ""
	}
	return fmt.Sprintf("; waited for: %.2f ms", ms)
}

// barWidth is the width of the longest bar of a chart.
const barWidth = 24

// String is a chart for people.
func (r timingReport) String() string {
	forRanks := ""
	if r.WaitFor.Ranks >= 0.005 {
		forRanks = fmt.Sprintf("%.2f ms for other ranks; ", r.WaitFor.Ranks)
	}
	rows := []struct {
		name, what string
		ms         float64
	}{
		{"iterate", "in the data set's Next" + waited(r.WaitFor.Iterate), r.Iterate},
		{"queue", "until a worker had a free slot" + waited(r.WaitFor.Queue), r.Queue},
		{"materialize", "on a worker" + waited(r.WaitFor.Materialize), r.Materialize},
		{"transfer", "through the store to here" + waited(r.WaitFor.Transfer), r.Transfer},
		{"trainer", "between two takes", r.Trainer},
		{"wait", fmt.Sprintf("the trainer stood still: %.0f%% of its time, %.0f ms at most; %s%.2f ms for none of these",
			100*r.WaitShare, r.LongestWait, forRanks, r.WaitFor.Other), r.Wait},
	}
	most := 0.0
	for _, row := range rows {
		most = max(most, row.ms)
	}
	var b strings.Builder
	b.WriteString("where the time went, on average per batch (the first four overlap with the rest):\n")
	for _, row := range rows {
		n := 0
		if most > 0 {
			n = int(row.ms/most*barWidth + 0.5)
		}
		fmt.Fprintf(&b, "  %-12s%9.2f ms  %-*s  %s\n", row.name, row.ms, barWidth, strings.Repeat("▇", n), row.what)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
