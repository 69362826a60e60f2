package client

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/schema"
)

// snapshot is a reader at one moment.
type snapshot struct {
	tally
	failures  uint64 // runs that ended with an error
	heldBytes int64
	window    int
	held      int
	silent    time.Duration
}

// meters is the reader as a prometheus.Collector.
type meters struct {
	line   *line
	table  *metrics.Table[snapshot]
	stages *prometheus.HistogramVec
	wait   *prometheus.HistogramVec
}

func newMeters(r *reader) *meters {
	labels := prometheus.Labels{"batcher": r.cfg.Name, "dataset": r.cfg.Dataset}
	m := &meters{
		line: r.line, table: metrics.NewTable[snapshot](labels),
		stages: metrics.Histogram("jetbatch_client_stage_seconds",
			"Time of one batch in a stage: iterate, queue, materialize or transfer.", labels, "stage"),
		wait: metrics.Histogram("jetbatch_client_take_seconds", "Time that one Take kept the trainer waiting for its batch.",
			labels),
	}
	t := m.table
	t.Counter("jetbatch_client_batches_total", "Batches taken.", func(s *snapshot) float64 { return float64(s.batches) })
	t.Counter("jetbatch_client_bytes_total", "Payload of batches taken; of those fetched in part, that part.",
		func(s *snapshot) float64 { return float64(s.bytes) })
	t.Counter("jetbatch_client_holes_total", "Positions without a batch that were passed over.",
		func(s *snapshot) float64 { return float64(s.holes) })
	t.Counter("jetbatch_client_redelivered_batches_total", "Batches taken whose job was handed out more than once.",
		func(s *snapshot) float64 { return float64(s.redelivered) })
	t.Counter("jetbatch_client_moves_total", "Times that Take was asked for another state than the one it had left.",
		func(s *snapshot) float64 { return float64(s.moves) })
	t.Counter("jetbatch_client_repairs_total", "Times that the seat was asked for again because something was in doubt.",
		func(s *snapshot) float64 { return float64(s.repairs) })
	t.Counter("jetbatch_client_detached_total", "Times that this reader, one of several, went on alone.",
		func(s *snapshot) float64 { return float64(s.apart) })
	t.Counter("jetbatch_client_failures_total", "Runs that ended with an error.",
		func(s *snapshot) float64 { return float64(s.failures) })
	t.CounterBy("jetbatch_client_payloads_total",
		"Payloads too large for a record, by where they came from: worker or store.", "from",
		func(s *snapshot, say func(float64, ...string)) {
			say(float64(s.direct), "worker")
			say(float64(s.stored), "store")
		})
	t.Counter("jetbatch_client_lost_payloads_total",
		"Batches that were made again because their payload was lost with its worker.",
		func(s *snapshot) float64 { return float64(s.lost) })
	t.CounterBy("jetbatch_client_wait_seconds_total",
		"Time that the trainer waited in Take, by what the batch was in meanwhile.", "cause",
		func(s *snapshot, say func(float64, ...string)) {
			for _, cause := range s.total.Causes() {
				say(cause.Wait.Seconds(), cause.Name)
			}
		})
	t.Counter("jetbatch_client_trainer_seconds_total", "Time that the trainer spent between two takes.",
		func(s *snapshot) float64 { return s.total.Trainer.Seconds() })
	t.Gauge("jetbatch_client_window_batches", "Batches that may be in flight.",
		func(s *snapshot) float64 { return float64(s.window) })
	t.Gauge("jetbatch_client_held_batches", "Records here and not taken yet.",
		func(s *snapshot) float64 { return float64(s.held) })
	t.Gauge("jetbatch_client_held_bytes", "Payload here, or being fetched, and not taken yet.",
		func(s *snapshot) float64 { return float64(s.heldBytes) })
	t.Gauge("jetbatch_client_owner_silent_seconds",
		"Time since the batcher's coordinator ceased to answer; 0 while it does.",
		func(s *snapshot) float64 { return s.silent.Seconds() })
	return m
}

// register adds the metrics to Config.Registerer.
func (r *reader) register() error {
	if r.cfg.Registerer == nil {
		return nil
	}
	m := newMeters(r)
	if err := r.cfg.Registerer.Register(m); err != nil {
		return fmt.Errorf("%w: metrics: %w", ErrBadConfig, err)
	}
	r.meters = m
	return nil
}

func (r *reader) unregister() {
	if r.meters != nil {
		r.cfg.Registerer.Unregister(r.meters)
	}
}

// Describe implements prometheus.Collector.
func (m *meters) Describe(ch chan<- *prometheus.Desc) {
	m.table.Describe(ch)
	m.stages.Describe(ch)
	m.wait.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *meters) Collect(ch chan<- prometheus.Metric) {
	s := m.line.snapshot(time.Now())
	m.table.Collect(ch, &s)
	m.stages.Collect(ch)
	m.wait.Collect(ch)
}

// observe is told of every batch that is taken.
func (m *meters) observe(t *schema.Timing) {
	if m == nil {
		return
	}
	m.stages.WithLabelValues("iterate").Observe(t.Iterate.Seconds())
	m.stages.WithLabelValues("queue").Observe(t.Queue.Seconds())
	m.stages.WithLabelValues("materialize").Observe(t.Materialize.Seconds())
	m.stages.WithLabelValues("transfer").Observe(t.Transfer.Seconds())
	m.wait.WithLabelValues().Observe(t.Wait.Seconds())
}
