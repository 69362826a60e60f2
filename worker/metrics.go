package worker

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// counters is what a worker counts of one data set, with Prometheus or without.
type counters struct {
	batches, holes, errors atomic.Uint64 // committed, by kind of result
	bytes                  atomic.Uint64 // of committed payloads
	retries                atomic.Uint64
	redelivered            atomic.Uint64 // jobs that another worker, or this one, had before
	returned               atomic.Uint64 // jobs handed back
	abandoned              atomic.Uint64 // jobs whose context ended while they ran
	full                   atomic.Uint64 // results refused because the store was full
}

// The stages of a job that a worker sees.
const (
	stageQueue       = "queue"
	stageMaterialize = "materialize"
	stageStore       = "store"
)

// snapshot is the worker at one moment, apart from the counters of data sets.
type snapshot struct {
	schema.WorkerStatus
	held, lost, unsettledBytes int
	keptBytes                  int64
	fetched, fetchedBytes      uint64
	unfetched                  uint64
}

// meters is the worker as a prometheus.Collector.
type meters struct {
	w       *Worker
	worker  *metrics.Table[snapshot]
	dataset *metrics.Table[counters]
	stages  *prometheus.HistogramVec
}

// register adds the worker's metrics to Config.Registerer and returns what removes them again.
func (w *Worker) register() (unregister func(), err error) {
	if w.cfg.Registerer == nil {
		return func() {}, nil
	}
	if err := w.cfg.Registerer.Register(w.meters); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return func() { w.cfg.Registerer.Unregister(w.meters) }, nil
}

func (w *Worker) newMeters() *meters {
	name := prometheus.Labels{"worker": w.cfg.Name}
	m := &meters{
		w: w, worker: metrics.NewTable[snapshot](name), dataset: metrics.NewTable[counters](name, "dataset"),
		stages: metrics.Histogram("jetbatch_worker_stage_seconds",
			"Time of one job in a stage: queue (until it was begun here), materialize (retries included), store (from there until the result is known to be stored).",
			name, "dataset", "stage"),
	}
	m.worker.Gauge("jetbatch_worker_slots", "Jobs that can run at a time; 0 while the worker drains.", func(s *snapshot) float64 { return float64(s.Slots) })
	m.worker.Gauge("jetbatch_worker_running_jobs", "Jobs that run.", func(s *snapshot) float64 { return float64(s.Running) })
	m.worker.Gauge("jetbatch_worker_held_jobs", "Jobs that were delivered and are neither finished nor handed back.", func(s *snapshot) float64 { return float64(s.held) })
	m.worker.Gauge("jetbatch_worker_lost_slots", "Slots whose job ignores its deadline.", func(s *snapshot) float64 { return float64(s.lost) })
	m.worker.Gauge("jetbatch_worker_unstored_bytes", "Records on their way into the store.", func(s *snapshot) float64 { return float64(s.unsettledBytes) })
	m.worker.Gauge("jetbatch_worker_kept_bytes", "Payloads in the worker's memory, for trainers to fetch or go back to.", func(s *snapshot) float64 { return float64(s.keptBytes) })
	m.worker.Counter("jetbatch_worker_fetched_payloads_total", "Payloads that trainers fetched from the worker.", func(s *snapshot) float64 { return float64(s.fetched) })
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
	m.stages.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *meters) Collect(ch chan<- prometheus.Metric) {
	s := &snapshot{WorkerStatus: m.w.Status()}
	m.w.mu.Lock()
	s.held, s.lost, s.unsettledBytes = len(m.w.held), m.w.lost, m.w.unsettledBytes
	m.w.mu.Unlock()
	m.w.keeper.Load().counts(s)
	m.worker.Collect(ch, s)
	for name, c := range m.w.counts {
		m.dataset.Collect(ch, c, name)
	}
	m.stages.Collect(ch)
}

// count returns the counters of a lane's data set.
func (w *Worker) count(l *lane) *counters { return w.counts[l.data.kind.Name] }

func (w *Worker) observe(l *lane, stage string, d time.Duration) {
	if w.cfg.Registerer != nil {
		w.meters.stages.WithLabelValues(l.data.kind.Name, stage).Observe(d.Seconds())
	}
}

// countStored counts a result that is stored.
func (w *Worker) countStored(c *commit) {
	n := w.count(c.job.lane)
	switch c.result.Kind {
	case wire.KindBatch:
		n.batches.Add(1)
	case wire.KindHole:
		n.holes.Add(1)
	default:
		n.errors.Add(1)
	}
	n.bytes.Add(c.result.Size)
	w.observe(c.job.lane, stageStore, time.Since(c.began))
}

// Live returns nil while the process is of use: it has begun, and not every slot is lost to a job that ignores its
// deadline, which only a new process mends. A broker that is away is no reason to start it again.
func (w *Worker) Live() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
		return ErrNotRunning
	case w.lost > 0 && w.sched.Slots() == 0:
		return fmt.Errorf("%w: all %d are held by jobs that ignore their deadline", ErrNoSlots, w.lost)
	}
	return nil
}

// Ready returns nil while the worker takes jobs, and else why it does not: it has not begun, it drains, a connection
// is away, or it is not live.
func (w *Worker) Ready() error {
	if err := w.Live(); err != nil {
		return err
	}
	w.mu.Lock()
	begun, draining := w.serving, w.draining
	w.mu.Unlock()
	switch {
	case !begun || draining:
		return ErrNotRunning
	case !w.nc.IsConnected() || !w.data.IsConnected():
		return fmt.Errorf("%w: there is no connection to NATS", ErrNotRunning)
	}
	return nil
}

// newCounts returns a set of counters for every data set of kinds.
func (w *Worker) newCounts() map[string]*counters {
	counts := make(map[string]*counters, len(w.kinds))
	for _, k := range w.kinds {
		counts[k.Name] = new(counters)
	}
	return counts
}
