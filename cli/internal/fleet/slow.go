package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// Slow is a stage in which a worker takes longer for jobs of a kind than other workers do.
type Slow struct {
	Worker string        `json:"worker"`
	Kind   string        `json:"kind"`
	Stage  string        `json:"stage"`
	Mean   time.Duration `json:"mean_ns"`   // of the worker
	Others time.Duration `json:"others_ns"` // the median of the others' means
}

// String says by how much, and at what.
func (s Slow) String() string {
	return fmt.Sprintf("%.1f x as long to %s: %s, others %s", float64(s.Mean)/float64(s.Others), s.Stage,
		s.Mean.Round(10*time.Microsecond), s.Others.Round(10*time.Microsecond))
}

// A worker is slow at a stage when it takes slowBy times what others take, over at least slowJobs jobs of each, and
// slowLeast more.
const (
	slowBy    = 1.5
	slowJobs  = 20
	slowLeast = 2 * time.Millisecond
)

// Slows are the workers that are slow, by name; of each the stage that costs most.
func Slows(workers []schema.WorkerStatus) map[string]Slow {
	type key struct{ kind, stage string }
	type mean struct {
		worker string
		mean   time.Duration
	}
	means := make(map[key][]mean)
	for _, w := range workers {
		for _, s := range w.Spent {
			for stage, sum := range map[string]schema.Sum{"materialize": s.Materialize, "store": s.Store} {
				if sum.N >= slowJobs {
					means[key{s.Kind, stage}] = append(means[key{s.Kind, stage}], mean{w.Worker, sum.Mean()})
				}
			}
		}
	}
	slow := make(map[string]Slow)
	for k, all := range means {
		for i, m := range all {
			var others []time.Duration
			for j, o := range all {
				if j != i {
					others = append(others, o.mean)
				}
			}
			if len(others) == 0 {
				continue
			}
			slices.Sort(others)
			s := Slow{m.worker, k.kind, k.stage, m.mean, max(others[(len(others)-1)/2], time.Microsecond)}
			excess := s.Mean - s.Others
			if excess < slowLeast || float64(s.Mean) < slowBy*float64(s.Others) {
				continue
			}
			if before, ok := slow[s.Worker]; !ok || excess > before.Mean-before.Others {
				slow[s.Worker] = s
			}
		}
	}
	return slow
}

// PerJob is what a worker's jobs took at a stage in the mean, over all kinds.
func PerJob(w schema.WorkerStatus, stage func(schema.Spent) schema.Sum) (mean time.Duration, known bool) {
	var sum schema.Sum
	for _, s := range w.Spent {
		one := stage(s)
		sum.Total += one.Total
		sum.N += one.N
	}
	return sum.Mean(), sum.N > 0
}
