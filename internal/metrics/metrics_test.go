package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

type snapshot struct {
	jobs, slots int
	by          map[string]float64
}

type role struct {
	table *Table[snapshot]
	now   map[string]*snapshot
}

func (r *role) Describe(ch chan<- *prometheus.Desc) { r.table.Describe(ch) }

func (r *role) Collect(ch chan<- prometheus.Metric) {
	for name, s := range r.now {
		r.table.Collect(ch, s, name)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	r := &role{table: NewTable[snapshot](prometheus.Labels{"worker": "w1"}, "dataset"), now: map[string]*snapshot{
		"a": {jobs: 3, slots: 2, by: map[string]float64{"queue": 1.5}},
		"b": {jobs: 4},
	}}
	r.table.Counter("jobs_total", "Jobs.", func(s *snapshot) float64 { return float64(s.jobs) })
	r.table.Gauge("slots", "Slots.", func(s *snapshot) float64 { return float64(s.slots) })
	r.table.CounterBy("wait_seconds_total", "Waits.", "cause", func(s *snapshot, say func(float64, ...string)) {
		for cause, n := range s.by {
			say(n, cause)
		}
	})
	err := testutil.CollectAndCompare(r, strings.NewReader(`
# HELP jobs_total Jobs.
# TYPE jobs_total counter
jobs_total{dataset="a",worker="w1"} 3
jobs_total{dataset="b",worker="w1"} 4
# HELP slots Slots.
# TYPE slots gauge
slots{dataset="a",worker="w1"} 2
slots{dataset="b",worker="w1"} 0
# HELP wait_seconds_total Waits.
# TYPE wait_seconds_total counter
wait_seconds_total{cause="queue",dataset="a",worker="w1"} 1.5
`))
	if err != nil {
		t.Error(err)
	}
}

// A histogram has native buckets, and a few wide ones for a Prometheus that does not scrape those.
func TestHistogramBuckets(t *testing.T) {
	t.Parallel()
	h := Histogram("wait_seconds", "Waits.", nil, "stage")
	h.WithLabelValues("queue").Observe(0.1)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(h)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := families[0].GetMetric()[0].GetHistogram()
	if m.GetSampleCount() != 1 || len(m.GetPositiveSpan()) != 1 || len(m.GetBucket()) != buckets ||
		m.GetBucket()[8].GetCumulativeCount() != 0 || m.GetBucket()[9].GetCumulativeCount() != 1 { // 66 ms, 197 ms
		t.Errorf("histogram: %v", m)
	}
}
