package worker

import (
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/schema"
)

// snapshot is the worker at one moment, apart from the counters of data sets.
type snapshot struct {
	schema.WorkerStatus
	held, lost, outstanding int
	datasets                map[string]string // names, by kind token
	keptBytes               int64
	fetched, fetchedBytes   uint64
	unfetched               uint64
}

// meters is the worker as a prometheus.Collector.
type meters struct {
	tally    *tally
	snapshot func() *snapshot
	worker   *metrics.Table[snapshot]
	dataset  *metrics.Table[counters]
}

func newMeters(worker string, t *tally, now func() *snapshot) *meters {
	name := prometheus.Labels{"worker": worker}
	t.stages = metrics.Histogram("jetbatch_worker_stage_seconds",
		"Time of one job in a stage: queue (until it was begun here), materialize (retries included), store (from there until the result is known to be stored).",
		name, "dataset", "stage")
	m := &meters{tally: t, snapshot: now, worker: metrics.NewTable[snapshot](name), dataset: metrics.NewTable[counters](name, "dataset")}
	m.worker.Gauge("jetbatch_worker_slots", "Jobs that can run at a time; 0 while the worker drains.", func(s *snapshot) float64 { return float64(s.Slots) })
	m.worker.Gauge("jetbatch_worker_running_jobs", "Jobs that run.", func(s *snapshot) float64 { return float64(s.Running) })
	m.worker.Gauge("jetbatch_worker_held_jobs", "Jobs that were delivered and are neither finished nor handed back.", func(s *snapshot) float64 { return float64(s.held) })
	m.worker.Gauge("jetbatch_worker_lost_slots", "Slots whose job ignores its deadline.", func(s *snapshot) float64 { return float64(s.lost) })
	m.worker.GaugeBy("jetbatch_worker_suspended", "1 for a data set whose jobs are left to other workers, since it cannot be opened or read here, or has other data here.", "dataset", func(s *snapshot, say func(float64, ...string)) {
		suspended := make(map[string]float64)
		for token, name := range s.datasets {
			suspended[name] += 0
			if slices.ContainsFunc(s.Suspended, func(x schema.Suspension) bool { return x.Kind == token }) {
				suspended[name] = 1
			}
		}
		for name, n := range suspended {
			say(n, name)
		}
	})
	m.worker.Gauge("jetbatch_worker_unstored_bytes", "Records on their way into the store.", func(s *snapshot) float64 { return float64(s.outstanding) })
	m.worker.Gauge("jetbatch_worker_kept_bytes", "Payloads in the worker's memory, for trainers to fetch or go back to.", func(s *snapshot) float64 { return float64(s.keptBytes) })
	m.worker.Counter("jetbatch_worker_fetched_payloads_total", "Fetches of payloads from the worker, by trainers; a part of one is a fetch.", func(s *snapshot) float64 { return float64(s.fetched) })
	m.worker.Counter("jetbatch_worker_fetched_bytes_total", "Bytes of these.", func(s *snapshot) float64 { return float64(s.fetchedBytes) })
	m.worker.Counter("jetbatch_worker_unfetched_payloads_total", "Payloads that were kept and had to be stored after all: a trainer could not fetch them, or the worker left.", func(s *snapshot) float64 { return float64(s.unfetched) })

	m.dataset.CounterBy("jetbatch_worker_jobs_total", "Jobs with a stored result, by its kind: batch, hole or error.", "result", func(c *counters, say func(float64, ...string)) {
		say(float64(c.batches.Load()), "batch")
		say(float64(c.holes.Load()), "hole")
		say(float64(c.errors.Load()), "error")
	})
	for _, count := range []struct {
		name, help string
		of         func(*counters) *atomic.Uint64
	}{
		{"jetbatch_worker_stored_bytes_total", "Payload of stored results.", func(c *counters) *atomic.Uint64 { return &c.bytes }},
		{"jetbatch_worker_retries_total", "Attempts after the first of a job.", func(c *counters) *atomic.Uint64 { return &c.retries }},
		{"jetbatch_worker_redeliveries_total", "Jobs accepted that had been handed out before, here or to another worker.", func(c *counters) *atomic.Uint64 { return &c.redelivered }},
		{"jetbatch_worker_returned_jobs_total", "Jobs handed back to be run elsewhere or later.", func(c *counters) *atomic.Uint64 { return &c.returned }},
		{"jetbatch_worker_abandoned_jobs_total", "Jobs cut off by their deadline, a re-seat or the worker's end.", func(c *counters) *atomic.Uint64 { return &c.abandoned }},
		{"jetbatch_worker_store_refusals_total", "Results that a full store refused.", func(c *counters) *atomic.Uint64 { return &c.full }},
	} {
		m.dataset.Counter(count.name, count.help, func(c *counters) float64 { return float64(count.of(c).Load()) })
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *meters) Describe(ch chan<- *prometheus.Desc) {
	m.worker.Describe(ch)
	m.dataset.Describe(ch)
	m.tally.stages.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *meters) Collect(ch chan<- prometheus.Metric) {
	m.worker.Collect(ch, m.snapshot())
	for name, c := range m.tally.counts {
		m.dataset.Collect(ch, c, name)
	}
	m.tally.stages.Collect(ch)
}
