package coordinator

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// viewWait bounds how long a scrape or an overview waits for a busy batcher; then it shows the batcher's last view. It
// is less than `jetbatch status` waits for coordinators.
const viewWait = 300 * time.Millisecond

// process is what the coordinator counts outside of batchers.
type process struct {
	renewed   atomic.Int64  // when the lease was renewed last, in nanoseconds since 1970
	failures  atomic.Uint64 // renewals that failed
	takeovers atomic.Uint64
	away      atomic.Int64 // servers with a copy of the jobs that are away or behind, as of the last collection
}

// view is a batcher at one moment.
type view struct {
	schema.Status
	owner.Counters
	late     time.Duration // how long the trainer has said that it waits
	unstored int
}

// unstored finds the jobs that the stream does not confirm, and leaves out those whose confirmation is only under way.
type unstored struct {
	before []uint64
	n      int
}

// observe is called every beat.
func (u *unstored) observe(f *feed) {
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
	m.addRanks(m.batchers)
	m.addReaders(m.batchers)
	return m
}

func (m *meters) addProcess(t *metrics.Table[Coordinator]) {
	t.Counter("jetbatch_coordinator_takeovers_total", "Batchers taken over from a coordinator that died.", func(c *Coordinator) float64 { return float64(c.process.takeovers.Load()) })
	t.Counter("jetbatch_coordinator_lease_failures_total", "Renewals of the coordinator's own lease that failed.", func(c *Coordinator) float64 { return float64(c.process.failures.Load()) })
	t.Gauge("jetbatch_coordinator_lease_age_seconds", "Time since the coordinator's own lease was renewed.", func(c *Coordinator) float64 { return c.members.leaseAge().Seconds() })
	t.Gauge("jetbatch_coordinator_servers_away", "Servers of a cluster, of those with a copy of the jobs, that are away or behind.", func(c *Coordinator) float64 { return float64(c.process.away.Load()) })
	t.GaugeBy("jetbatch_coordinator_live_workers", "Live workers that serve a data set, at its version here.", "dataset", func(c *Coordinator, say func(float64, ...string)) {
		for _, k := range c.kinds {
			workers, _ := c.fleet.serving(wire.KindToken(k.Name, k.Version), "")
			say(float64(workers), k.Name)
		}
	})
	t.GaugeBy("jetbatch_coordinator_live_slots", "Slots of those workers.", "dataset", func(c *Coordinator, say func(float64, ...string)) {
		for _, k := range c.kinds {
			_, slots := c.fleet.serving(wire.KindToken(k.Name, k.Version), "")
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
	t.Counter("jetbatch_coordinator_taken_batches_total", "Positions that the trainer moved past.", func(v *view) float64 { return float64(v.Counters.Taken) })
	t.Counter("jetbatch_coordinator_taken_bytes_total", "Payload that the trainer took.", func(v *view) float64 { return float64(v.Bytes) })
	t.Counter("jetbatch_coordinator_fed_jobs_total", "Jobs published for the first time.", func(v *view) float64 { return float64(v.Counters.Fed) })
	t.Counter("jetbatch_coordinator_reissued_jobs_total", "Jobs published again because they had neither result nor job.", func(v *view) float64 { return float64(v.Reissued) })
	t.Counter("jetbatch_coordinator_backup_jobs_total", "Jobs given to a second worker because the first straggled.", func(v *view) float64 { return float64(v.Backups) })
	t.Counter("jetbatch_coordinator_generations_total", "Generations begun.", func(v *view) float64 { return float64(v.Generations) })
	t.Counter("jetbatch_coordinator_held_seats_total", "Re-seats at a state whose results were held.", func(v *view) float64 { return float64(v.Held) })
	t.Counter("jetbatch_coordinator_lost_stores_total", "Generations begun because the store of the one before was lost.", func(v *view) float64 { return float64(v.Restarts) })
	t.CounterBy("jetbatch_coordinator_wait_seconds_total", "Time that the trainer waited in Take, by what the batch was in meanwhile.", "cause",
		func(v *view, say func(float64, ...string)) {
			for _, cause := range v.Counters.Timing.Causes() {
				say(cause.Wait.Seconds(), cause.Name)
			}
		})
	t.Counter("jetbatch_coordinator_trainer_seconds_total", "Time that the trainer spent between two takes.", func(v *view) float64 { return v.Counters.Timing.Trainer.Seconds() })
	t.Gauge("jetbatch_coordinator_window_batches", "Batches that may be in flight.", func(v *view) float64 { return float64(v.Window) })
	t.Gauge("jetbatch_coordinator_in_flight_batches", "Batches fed and not taken.", func(v *view) float64 { return float64(v.Status.Fed - min(v.Status.Taken, v.Status.Fed)) })
	t.Gauge("jetbatch_coordinator_batch_bytes", "Largest payload seen.", func(v *view) float64 { return float64(v.BatchBytes) })
	t.Gauge("jetbatch_coordinator_unstored_jobs", "Jobs published over a second ago whose storing nobody has confirmed.", func(v *view) float64 { return float64(v.unstored) })
	t.Gauge("jetbatch_coordinator_late_seconds", "How long the trainer has been asking for its next batch; 0 while it does not.", func(v *view) float64 { return v.late.Seconds() })
	t.Gauge("jetbatch_coordinator_workers", "Live workers that serve the batcher's data set at its version.", func(v *view) float64 { return float64(v.Workers) })
	t.Gauge("jetbatch_coordinator_slots", "Slots of those workers.", func(v *view) float64 { return float64(v.Slots) })
	t.Gauge("jetbatch_desired_workers", "Workers, like those there are, that would keep the trainer from waiting for them; 0 while nobody takes.", func(v *view) float64 { return float64(v.Desired) })
}

// addRanks adds the gauges that only a world has. A batcher has up to 256 ranks, too many for a series of each: the
// gauges are of the slowest rank, which the others wait for.
func (m *meters) addRanks(t *metrics.Table[view]) {
	t.GaugeBy("jetbatch_coordinator_ranks",
		"Ranks of the batcher: heard lately, silent, left, or awaited, which never came.", "state",
		func(v *view, say func(float64, ...string)) {
			if v.World == "" {
				return
			}
			left, awaited := 0, 0
			for _, rank := range v.Members {
				switch {
				case rank.Left:
					left++
				case rank.Reader == "":
					awaited++
				}
			}
			say(float64(v.Heard), "heard")
			say(float64(len(v.Members)-v.Heard-left-awaited), "silent")
			say(float64(left), "left")
			say(float64(awaited), "awaited")
		})
	t.GaugeIf("jetbatch_coordinator_rank_spread_batches", "Batches from the slowest rank to the furthest.",
		func(v *view) (float64, bool) { return float64(v.Spread), v.World != "" })
	t.GaugeIf("jetbatch_coordinator_slowest_rank", "The rank that is furthest behind, the first of several.",
		func(v *view) (float64, bool) { return float64(v.Slowest), v.World != "" })
	t.GaugeIf("jetbatch_coordinator_slowest_rank_silent_seconds", "Time since that rank was last heard.",
		func(v *view) (float64, bool) {
			if v.World == "" || v.Slowest >= len(v.Members) {
				return 0, false
			}
			return v.Members[v.Slowest].Silent.Seconds(), true
		})
}

// addReaders adds what only several readers have, each of which goes at its own pace.
func (m *meters) addReaders(t *metrics.Table[view]) {
	shared := func(v *view) bool { return v.World == "" && len(v.Members) > 0 }
	t.GaugeBy("jetbatch_coordinator_readers",
		"Readers of the batcher: attached, so that what they have not taken is kept, or apart.", "state",
		func(v *view, say func(float64, ...string)) {
			if !shared(v) {
				return
			}
			attached, apart := 0, 0
			for _, reader := range v.Members {
				switch {
				case reader.Attached:
					attached++
				case !reader.Left:
					apart++
				}
			}
			say(float64(attached), "attached")
			say(float64(apart), "apart")
		})
	t.GaugeIf("jetbatch_coordinator_reader_spread_batches", "Batches from the slowest attached reader to the furthest.",
		func(v *view) (float64, bool) { return float64(v.Spread), shared(v) })
	t.Counter("jetbatch_coordinator_detached_readers_total",
		"Times that a reader, one of several, was left to go on alone.",
		func(v *view) float64 { return float64(v.Counters.Detached) })
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
	for _, v := range m.c.actors.views() {
		m.batchers.Collect(ch, v, v.Batcher, v.Dataset)
	}
	m.iterate.Collect(ch)
}
