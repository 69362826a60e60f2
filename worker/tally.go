package worker

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// The stages of a job that a worker sees.
const (
	stageQueue       = "queue"
	stageMaterialize = "materialize"
	stageStore       = "store"
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

	queue, materialize, store sum // what the stages took
}

// sum is a total of times.
type sum struct{ total, n atomic.Uint64 }

func (s *sum) add(d time.Duration) {
	s.total.Add(uint64(max(d, 0)))
	s.n.Add(1)
}

func (s *sum) read() schema.Sum {
	return schema.Sum{Total: time.Duration(s.total.Load()), N: s.n.Load()}
}

// tally is what a worker counts and says of itself. Its lock guards the figures of the status; counters are atomic.
type tally struct {
	counts map[string]*counters     // by data set; the map does not change
	stages *prometheus.HistogramVec // nil for not observed; set before jobs run

	mu        sync.Mutex
	done      uint64
	failed    uint64
	retries   uint64
	lastError string
}

func newTally(kinds map[string]*kind.Kind) *tally {
	t := &tally{counts: make(map[string]*counters, len(kinds))}
	for _, k := range kinds {
		t.counts[k.Name] = new(counters)
	}
	return t
}

// count returns the counters of a lane's data set.
func (t *tally) count(l *lane) *counters { return t.counts[l.data.kind.Name] }

func (t *tally) observe(l *lane, stage string, d time.Duration) {
	c := t.count(l)
	switch stage {
	case stageQueue:
		c.queue.add(d)
	case stageMaterialize:
		c.materialize.add(d)
	case stageStore:
		c.store.add(d)
	}
	if t.stages != nil {
		t.stages.WithLabelValues(l.data.kind.Name, stage).Observe(d.Seconds())
	}
}

// stored counts a result that is stored, took after its execution.
func (t *tally) stored(l *lane, r *wire.Result, took time.Duration) {
	n := t.count(l)
	switch r.Kind {
	case wire.KindBatch:
		n.batches.Add(1)
	case wire.KindHole:
		n.holes.Add(1)
	default:
		n.errors.Add(1)
	}
	n.bytes.Add(r.Size)
	t.observe(l, stageStore, took)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	if r.Kind == wire.KindError {
		t.failed++
		t.lastError = clip(r.Fault.Message, 256)
	}
}

// retried counts the attempts of an execution after the first.
func (t *tally) retried(l *lane, n int) {
	if n == 0 {
		return
	}
	t.count(l).retries.Add(uint64(n))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.retries += uint64(n)
}

// trouble has the status say what went wrong last.
func (t *tally) trouble(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lastError = clip(text, 256)
}

// figures adds what is counted to a status.
func (t *tally) figures(s *schema.WorkerStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Done, s.Failed, s.Retried, s.LastError = t.done, t.failed, t.retries, t.lastError
}

// spent is where the time of the jobs went, by kind; kinds without a job have none.
func (t *tally) spent(kinds map[string]*kind.Kind) (spent []schema.Spent) {
	for _, token := range slices.Sorted(maps.Keys(kinds)) {
		c := t.counts[kinds[token].Name]
		s := schema.Spent{Kind: token, Queue: c.queue.read(), Materialize: c.materialize.read(), Store: c.store.read()}
		if s.Queue.N > 0 {
			spent = append(spent, s)
		}
	}
	return spent
}

// clip bounds a text and makes it fit for the wire: a data set may put anything into it.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "")
}
