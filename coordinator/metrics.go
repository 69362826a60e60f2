package coordinator

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// viewWait bounds how long a scrape or an overview waits for batchers that are busy; of those it shows what they said
// last. It is less than `jetbatch status` waits for coordinators.
const viewWait = 300 * time.Millisecond

// stuckAfter is how long one turn of the loop may take, which calls JetStream a few times and gives up on each after
// callTimeout, until the coordinator is not live.
const stuckAfter = time.Minute

// counters is what the actor of a batcher counts, with Prometheus or without.
type counters struct {
	taken       uint64 // positions that the trainer moved past
	fed         uint64 // jobs published for the first time
	generations uint64 // begun
	held        uint64 // seats at a state that was held
	timing      schema.Timing
	bytes       int64

	reader    string // whose sums these are, as last heard
	total     schema.Timing
	totalSize int64
}

// heardOf adds what a reader's sums grew by since its last word. What it did before its first word here is not counted.
func (n *counters) heardOf(c *wire.Credit) {
	if c.Timing == nil {
		return
	}
	if c.Reader == n.reader && c.Bytes >= n.totalSize && c.Timing.Wait >= n.total.Wait {
		grown := *c.Timing
		grown.Sub(n.total)
		n.timing.Add(grown)
		n.bytes += c.Bytes - n.totalSize
	}
	n.reader, n.total, n.totalSize = c.Reader, *c.Timing, c.Bytes
}

// process is what the coordinator counts outside of batchers.
type process struct {
	renewed   atomic.Int64  // when the lease was renewed last, in nanoseconds since 1970
	turned    atomic.Int64  // when the loop began its last turn; 0 while there is none
	failures  atomic.Uint64 // renewals that failed
	takeovers atomic.Uint64
}

// view is a batcher at one moment.
type view struct {
	schema.Status
	counters
	late     time.Duration // how long the trainer has said that it waits
	unstored int
}

// unstored finds the jobs whose storing nobody confirms, among those whose confirmation is only under way.
type unstored struct {
	before []uint64
	n      int
}

// look is called every beat.
func (u *unstored) look(f *feed) {
	_, now := f.waiting()
	u.n = 0
	for _, seq := range now {
		if _, again := slices.BinarySearch(u.before, seq); again {
			u.n++
		}
	}
	u.before = now
}

// meters is the coordinator as a prometheus.Collector.
type meters struct {
	c        *Coordinator
	process  *metrics.Table[Coordinator]
	batchers *metrics.Table[view]
	iterate  *prometheus.HistogramVec
}

func (c *Coordinator) newMeters() *meters {
	m := &meters{
		c: c, process: metrics.NewTable[Coordinator](nil), batchers: metrics.NewTable[view](nil, "batcher", "dataset"),
		iterate: metrics.Histogram("jetbatch_coordinator_iterate_seconds", "Time of one call of the data set's Next.", nil, "dataset"),
	}
	m.addProcess(m.process)
	m.addBatchers(m.batchers)
	return m
}

func (m *meters) addProcess(t *metrics.Table[Coordinator]) {
	t.Counter("jetbatch_coordinator_takeovers_total", "Batchers taken over from a coordinator that died.", func(c *Coordinator) float64 { return float64(c.process.takeovers.Load()) })
	t.Counter("jetbatch_coordinator_lease_failures_total", "Renewals of the coordinator's own lease that failed.", func(c *Coordinator) float64 { return float64(c.process.failures.Load()) })
	t.Gauge("jetbatch_coordinator_lease_age_seconds", "Time since the coordinator's own lease was renewed.", func(c *Coordinator) float64 { return c.leaseAge().Seconds() })
	t.GaugeBy("jetbatch_coordinator_live_workers", "Live workers that serve a data set, at its version here.", "dataset", func(c *Coordinator, say func(float64, ...string)) {
		for _, k := range c.kinds {
			workers, _ := c.fleet.serving(wire.KindToken(k.Name, k.Version))
			say(float64(workers), k.Name)
		}
	})
	t.GaugeBy("jetbatch_coordinator_live_slots", "Slots of those workers.", "dataset", func(c *Coordinator, say func(float64, ...string)) {
		for _, k := range c.kinds {
			_, slots := c.fleet.serving(wire.KindToken(k.Name, k.Version))
			say(float64(slots), k.Name)
		}
	})
}

func (m *meters) addBatchers(t *metrics.Table[view]) {
	t.GaugeBy("jetbatch_coordinator_phase", "1 for the phase that the batcher is in: stopped, running, closed, done or failed.", "phase",
		func(v *view, say func(float64, ...string)) {
			for _, p := range []schema.Phase{schema.PhaseStopped, schema.PhaseRunning, schema.PhaseClosed, schema.PhaseDone, schema.PhaseFailed} {
				in := 0.0
				if v.Phase == p {
					in = 1
				}
				say(in, string(p))
			}
		})
	t.Counter("jetbatch_coordinator_taken_batches_total", "Positions that the trainer moved past.", func(v *view) float64 { return float64(v.taken) })
	t.Counter("jetbatch_coordinator_taken_bytes_total", "Payload that the trainer took.", func(v *view) float64 { return float64(v.bytes) })
	t.Counter("jetbatch_coordinator_fed_jobs_total", "Jobs published for the first time.", func(v *view) float64 { return float64(v.fed) })
	t.Counter("jetbatch_coordinator_reissued_jobs_total", "Jobs published again because they had neither result nor job.", func(v *view) float64 { return float64(v.Reissued) })
	t.Counter("jetbatch_coordinator_backup_jobs_total", "Jobs given to a second worker because the first straggled.", func(v *view) float64 { return float64(v.Backups) })
	t.Counter("jetbatch_coordinator_generations_total", "Generations begun.", func(v *view) float64 { return float64(v.generations) })
	t.Counter("jetbatch_coordinator_held_seats_total", "Re-seats at a state whose results were held.", func(v *view) float64 { return float64(v.held) })
	t.Counter("jetbatch_coordinator_lost_stores_total", "Generations begun because the store of the one before was lost.", func(v *view) float64 { return float64(v.Restarts) })
	t.CounterBy("jetbatch_coordinator_wait_seconds_total", "Time that the trainer waited in Take, by what the batch was in meanwhile.", "cause",
		func(v *view, say func(float64, ...string)) {
			for _, cause := range v.timing.Causes() {
				say(cause.Wait.Seconds(), cause.Name)
			}
		})
	t.Counter("jetbatch_coordinator_trainer_seconds_total", "Time that the trainer spent between two takes.", func(v *view) float64 { return v.timing.Trainer.Seconds() })
	t.Gauge("jetbatch_coordinator_window_batches", "Batches that may be in flight.", func(v *view) float64 { return float64(v.Window) })
	t.Gauge("jetbatch_coordinator_in_flight_batches", "Batches fed and not taken.", func(v *view) float64 { return float64(v.Fed - min(v.Taken, v.Fed)) })
	t.Gauge("jetbatch_coordinator_batch_bytes", "Largest payload seen.", func(v *view) float64 { return float64(v.BatchBytes) })
	t.Gauge("jetbatch_coordinator_unstored_jobs", "Jobs published over a second ago whose storing nobody has confirmed.", func(v *view) float64 { return float64(v.unstored) })
	t.Gauge("jetbatch_coordinator_late_seconds", "How long the trainer has been asking for its next batch; 0 while it does not.", func(v *view) float64 { return v.late.Seconds() })
	t.Gauge("jetbatch_coordinator_workers", "Live workers that serve the batcher's data set at its version.", func(v *view) float64 { return float64(v.Workers) })
	t.Gauge("jetbatch_coordinator_slots", "Slots of those workers.", func(v *view) float64 { return float64(v.Slots) })
	t.Gauge("jetbatch_desired_workers", "Workers, like those there are, that would keep the trainer from waiting for them; 0 while nobody takes.", func(v *view) float64 { return float64(v.Desired) })
}

// register adds the coordinator's metrics to Config.Registerer and returns what removes them again.
func (c *Coordinator) register() (unregister func(), err error) {
	if c.cfg.Registerer == nil {
		return func() {}, nil
	}
	if err := c.cfg.Registerer.Register(c.meters); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return func() { c.cfg.Registerer.Unregister(c.meters) }, nil
}

// Describe implements prometheus.Collector.
func (m *meters) Describe(ch chan<- *prometheus.Desc) {
	m.process.Describe(ch)
	m.batchers.Describe(ch)
	m.iterate.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *meters) Collect(ch chan<- prometheus.Metric) {
	m.process.Collect(ch, m.c)
	for _, v := range m.c.views() {
		m.batchers.Collect(ch, v, v.Batcher, v.Dataset)
	}
	m.iterate.Collect(ch)
}

// views asks all actors at once, and of one that is busy takes what it said last.
func (c *Coordinator) views() []*view {
	all := c.all()
	answers := make([]chan *view, len(all))
	for i, b := range all {
		answers[i] = make(chan *view, 1)
		b.hint(func() { answers[i] <- b.view() })
	}
	limit := time.NewTimer(viewWait)
	defer limit.Stop()
	late := false
	views := make([]*view, 0, len(all))
	for i, b := range all {
		var v *view
		if !late {
			select {
			case v = <-answers[i]:
			case <-b.gone:
			case <-limit.C:
				late = true
			}
		}
		if v == nil {
			v = b.viewed.Load()
		}
		if v != nil {
			views = append(views, v)
		}
	}
	return views
}

// view is the batcher now; the actor calls it.
func (b *batcher) view() *view {
	v := &view{Status: b.status(), counters: b.count}
	if !b.lateSince.IsZero() && b.held() {
		v.late = time.Since(b.lateSince)
	}
	if b.gen != nil {
		v.unstored = b.unstored.n
	}
	b.viewed.Store(v)
	return v
}

// desired is how many workers the batcher should have.
func (b *batcher) desired(s *schema.Status) int {
	if b.rec.Phase != schema.PhaseRunning || !b.held() {
		return 0
	}
	return b.need.workers(s.Workers, s.Slots, inFlight(b.rec.Settings, b.rec.BatchBytes))
}

// measure takes what a reader says of itself besides its place.
func (b *batcher) measure(c *wire.Credit) {
	b.count.heardOf(c)
	if c.Timing != nil {
		b.need.observe(b.heard, *c.Timing)
	}
	switch {
	case !c.Late:
		b.lateSince = time.Time{}
	case b.lateSince.IsZero():
		b.lateSince = b.heard
	}
	b.follow(c.Trace)
}

// follow notes the trace context of the reader's last word: what is fed from now on belongs to it.
func (b *batcher) follow(trace string) {
	b.trace = wire.Traceparent(trace)
	if b.gen != nil {
		b.gen.feed.trace = b.trace
	}
}

func (c *Coordinator) leaseAge() time.Duration {
	return max(time.Since(time.Unix(0, c.process.renewed.Load())), 0)
}

// Live returns nil unless Run hangs or has ended, which only a new process mends. A broker that is away is no reason to
// start it again.
func (c *Coordinator) Live() error {
	c.mu.Lock()
	ended := c.closed
	c.mu.Unlock()
	if ended {
		return ErrNotRunning
	}
	if turned := c.process.turned.Load(); turned > 0 {
		if since := time.Since(time.Unix(0, turned)); since > stuckAfter {
			return fmt.Errorf("%w: the loop has stood still for %v", ErrNotRunning, since.Round(time.Second))
		}
	}
	return nil
}

// Ready returns nil while the coordinator answers requests: it runs, is connected and holds its lease.
func (c *Coordinator) Ready() error {
	if err := c.Live(); err != nil {
		return err
	}
	switch {
	case c.process.turned.Load() == 0:
		return ErrNotRunning
	case !c.nc.IsConnected():
		return fmt.Errorf("%w: there is no connection to NATS", ErrNotRunning)
	case c.leaseAge() > c.cfg.Lease:
		return fmt.Errorf("%w: the lease was renewed %v ago", ErrNotRunning, c.leaseAge().Round(time.Millisecond))
	}
	return nil
}
