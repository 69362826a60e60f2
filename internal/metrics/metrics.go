// Package metrics turns numbers that a role keeps anyway into Prometheus metrics. Names, units and labels are those of
// docs/METRICS.md, which a test compares with the code.
package metrics

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Table describes the metrics that are read from a snapshot S. Rows are added before the table is used; afterwards it
// is safe for concurrent use.
type Table[S any] struct {
	fixed    prometheus.Labels
	variable []string
	rows     []row[S]
}

type row[S any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*S, func(n float64, label ...string))
}

// NewTable returns an empty table. Its metrics have the labels of fixed, with their values, and the variable ones,
// whose values are given to Collect.
func NewTable[S any](fixed prometheus.Labels, variable ...string) *Table[S] {
	return &Table[S]{fixed: fixed, variable: variable}
}

// Counter adds a counter.
func (t *Table[S]) Counter(name, help string, read func(*S) float64) {
	t.add(prometheus.CounterValue, name, help, nil, one(read))
}

// Gauge adds a gauge.
func (t *Table[S]) Gauge(name, help string, read func(*S) float64) {
	t.add(prometheus.GaugeValue, name, help, nil, one(read))
}

// GaugeIf adds a gauge that not every snapshot has.
func (t *Table[S]) GaugeIf(name, help string, read func(*S) (n float64, ok bool)) {
	t.add(prometheus.GaugeValue, name, help, nil, func(s *S, say func(float64, ...string)) {
		if n, ok := read(s); ok {
			say(n)
		}
	})
}

// CounterBy adds a counter with one more label; read says the number of every value of it.
func (t *Table[S]) CounterBy(name, help, label string, read func(s *S, say func(n float64, value ...string))) {
	t.add(prometheus.CounterValue, name, help, []string{label}, read)
}

// GaugeBy is CounterBy for a gauge.
func (t *Table[S]) GaugeBy(name, help, label string, read func(s *S, say func(n float64, value ...string))) {
	t.add(prometheus.GaugeValue, name, help, []string{label}, read)
}

func one[S any](read func(*S) float64) func(*S, func(float64, ...string)) {
	return func(s *S, say func(float64, ...string)) { say(read(s)) }
}

func (t *Table[S]) add(kind prometheus.ValueType, name, help string, more []string, read func(*S, func(float64, ...string))) {
	labels := append(append([]string(nil), t.variable...), more...)
	t.rows = append(t.rows, row[S]{prometheus.NewDesc(name, help, labels, t.fixed), kind, read})
}

// Describe is half of a prometheus.Collector.
func (t *Table[S]) Describe(ch chan<- *prometheus.Desc) {
	for _, r := range t.rows {
		ch <- r.desc
	}
}

// Collect sends the metrics of one snapshot, whose variable labels have these values.
func (t *Table[S]) Collect(ch chan<- prometheus.Metric, s *S, values ...string) {
	for _, r := range t.rows {
		r.read(s, func(n float64, more ...string) {
			all := append(append([]string(nil), values...), more...)
			m, err := prometheus.NewConstMetric(r.desc, r.kind, n, all...)
			if err != nil {
				m = prometheus.NewInvalidMetric(r.desc, err) // the registry reports it to who gathers
			}
			ch <- m
		})
	}
}

// Buckets of a histogram for a Prometheus that does not scrape native ones: from 10 µs to 7 min.
const firstBucket, bucketFactor, buckets = 10e-6, 3, 17

// Histogram returns a native histogram of seconds, 10 % wide a bucket. In the text format, and for a Prometheus that
// does not scrape native histograms, it has a few wide buckets.
func Histogram(name, help string, fixed prometheus.Labels, variable ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, ConstLabels: fixed,
		Buckets:                     prometheus.ExponentialBuckets(firstBucket, bucketFactor, buckets),
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}, variable)
}

// Build returns a metric that is always 1, whose labels say what runs: the release, the wire version and Go's version.
func Build(release string, wire int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jetbatch_build_info", Help: "1; its labels say which release of jetbatch runs.",
		ConstLabels: prometheus.Labels{"version": release, "wire": strconv.Itoa(wire), "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}
