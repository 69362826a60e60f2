package coordinator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestMetrics(t *testing.T) {
	c := setup(t)
	reg := prometheus.NewPedanticRegistry()
	p := c.coordinate(coordinator.Config{Registerer: reg}, new(hooks))
	natstest.Eventually(t, "it is ready", func() bool { return p.Ready() == nil })
	r := c.reader("train")
	r.start(0)
	total := schema.Timing{Materialize: time.Second, Wait: 3 * time.Second, WaitQueue: 2 * time.Second, WaitOther: time.Second, Trainer: 4 * time.Second}
	sums := func(timing schema.Timing, bytes int64) func(*wire.Credit) {
		return func(c *wire.Credit) { c.Timing, c.Bytes = &timing, bytes }
	}
	r.credit(0, sums(schema.Timing{Wait: time.Hour, Trainer: time.Hour}, 1<<30)) // from another coordinator's time
	before := schema.Timing{Wait: time.Hour, Trainer: time.Hour}
	before.Add(total)
	r.waitJobs(1, 1)
	r.work(1)
	r.credit(1, sums(before, 1<<30+500))
	r.waitJobs(2, 9)
	want := strings.NewReader(`
# HELP jetbatch_coordinator_fed_jobs_total Jobs published for the first time.
# TYPE jetbatch_coordinator_fed_jobs_total counter
jetbatch_coordinator_fed_jobs_total{batcher="train",dataset="count"} 9
# HELP jetbatch_coordinator_generations_total Generations begun.
# TYPE jetbatch_coordinator_generations_total counter
jetbatch_coordinator_generations_total{batcher="train",dataset="count"} 1
# HELP jetbatch_coordinator_in_flight_batches Batches fed and not taken.
# TYPE jetbatch_coordinator_in_flight_batches gauge
jetbatch_coordinator_in_flight_batches{batcher="train",dataset="count"} 8
# HELP jetbatch_coordinator_taken_batches_total Positions that the trainer moved past.
# TYPE jetbatch_coordinator_taken_batches_total counter
jetbatch_coordinator_taken_batches_total{batcher="train",dataset="count"} 1
# HELP jetbatch_coordinator_taken_bytes_total Payload that the trainer took.
# TYPE jetbatch_coordinator_taken_bytes_total counter
jetbatch_coordinator_taken_bytes_total{batcher="train",dataset="count"} 500
# HELP jetbatch_coordinator_trainer_seconds_total Time that the trainer spent between two takes.
# TYPE jetbatch_coordinator_trainer_seconds_total counter
jetbatch_coordinator_trainer_seconds_total{batcher="train",dataset="count"} 4
# HELP jetbatch_coordinator_wait_seconds_total Time that the trainer waited in Take, by what the batch was in meanwhile.
# TYPE jetbatch_coordinator_wait_seconds_total counter
jetbatch_coordinator_wait_seconds_total{batcher="train",cause="iterate",dataset="count"} 0
jetbatch_coordinator_wait_seconds_total{batcher="train",cause="materialize",dataset="count"} 0
jetbatch_coordinator_wait_seconds_total{batcher="train",cause="other",dataset="count"} 1
jetbatch_coordinator_wait_seconds_total{batcher="train",cause="queue",dataset="count"} 2
jetbatch_coordinator_wait_seconds_total{batcher="train",cause="ranks",dataset="count"} 0
jetbatch_coordinator_wait_seconds_total{batcher="train",cause="transfer",dataset="count"} 0
# HELP jetbatch_desired_workers Workers, like those there are, that would keep the trainer from waiting for them; 0 while nobody takes.
# TYPE jetbatch_desired_workers gauge
jetbatch_desired_workers{batcher="train",dataset="count"} 1
`)
	err := testutil.GatherAndCompare(reg, want, "jetbatch_coordinator_fed_jobs_total", "jetbatch_coordinator_generations_total",
		"jetbatch_coordinator_in_flight_batches", "jetbatch_coordinator_taken_batches_total", "jetbatch_coordinator_taken_bytes_total",
		"jetbatch_coordinator_trainer_seconds_total", "jetbatch_coordinator_wait_seconds_total", "jetbatch_desired_workers")
	if err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); len(problems) > 0 || err != nil {
		t.Error(problems, err)
	}
	p.stop(t)
	if n, err := testutil.GatherAndCount(reg); n != 0 || err != nil {
		t.Errorf("%d metrics of a coordinator that ended, %v", n, err)
	}
	if !errors.Is(p.Live(), coordinator.ErrNotRunning) || !errors.Is(p.Ready(), coordinator.ErrNotRunning) {
		t.Errorf("live: %v, ready: %v", p.Live(), p.Ready())
	}
}

// Of a world, it is counted how many ranks are there and how far apart they are; of a trainer by itself, nothing.
func TestRankMetrics(t *testing.T) {
	c := setup(t)
	reg := prometheus.NewPedanticRegistry()
	c.coordinate(coordinator.Config{Registerer: reg}, new(hooks))
	c.reader("alone").start(0)
	rank := func(n int) (*reader, func(wire.Mode, schema.State)) {
		r := c.reader("train")
		return r, func(mode wire.Mode, state schema.State) {
			req := r.request(mode, state)
			req.Rank, req.Size = wire.Rank{World: "run-1", Rank: n}, 3
			if reply := r.try(req); reply.Fault != nil {
				t.Fatal(reply.Fault)
			}
		}
	}
	first, asks := rank(0)
	asks(wire.ModeOpen, schema.State{})
	asks(wire.ModeStart, at(0))
	_, asks = rank(1)
	asks(wire.ModeOpen, schema.State{})
	first.waitJobs(1, 1)
	first.work(1)
	first.credit(1, func(c *wire.Credit) { c.Rank = wire.Rank{World: "run-1"} })
	want := strings.NewReader(`
# HELP jetbatch_coordinator_rank_spread_batches Batches from the slowest rank to the furthest.
# TYPE jetbatch_coordinator_rank_spread_batches gauge
jetbatch_coordinator_rank_spread_batches{batcher="train",dataset="count"} 1
# HELP jetbatch_coordinator_ranks Ranks of the batcher: heard lately, silent, left, or awaited, which never came.
# TYPE jetbatch_coordinator_ranks gauge
jetbatch_coordinator_ranks{batcher="train",dataset="count",state="awaited"} 1
jetbatch_coordinator_ranks{batcher="train",dataset="count",state="heard"} 2
jetbatch_coordinator_ranks{batcher="train",dataset="count",state="left"} 0
jetbatch_coordinator_ranks{batcher="train",dataset="count",state="silent"} 0
# HELP jetbatch_coordinator_slowest_rank The rank that is furthest behind, the first of several.
# TYPE jetbatch_coordinator_slowest_rank gauge
jetbatch_coordinator_slowest_rank{batcher="train",dataset="count"} 1
`)
	if err := testutil.GatherAndCompare(reg, want, "jetbatch_coordinator_rank_spread_batches",
		"jetbatch_coordinator_ranks", "jetbatch_coordinator_slowest_rank"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(reg, "jetbatch_coordinator_slowest_rank_silent_seconds"); n != 1 || err != nil {
		t.Errorf("%d batchers have a slowest rank, %v", n, err)
	}
}

// Of readers at their own pace it is counted how many are attached, how far apart they are, and how often one was left.
func TestReaderMetrics(t *testing.T) {
	c := setup(t)
	reg := prometheus.NewPedanticRegistry()
	c.coordinate(coordinator.Config{Registerer: reg}, new(hooks))
	var all [3]*reader
	for i := range all {
		r := c.reader("train")
		all[i] = r
		r.settings.Window, r.settings.Lag = 2, 2
		r.askAs(i, wire.ModeOpen)
		if i < 2 {
			r.askAs(i, wire.ModeSeek)
		}
	}
	named := func(i int) func(*wire.Credit) {
		return func(c *wire.Credit) { c.Rank = wire.Rank{Name: readerNames[i]} }
	}
	all[0].waitJobs(1, 1)
	all[0].work(1)
	all[1].credit(0, named(1))
	all[0].credit(1, named(0))
	want := func(attached, apart, spread, detached int) {
		t.Helper()
		text := strings.NewReader(fmt.Sprintf(`
# HELP jetbatch_coordinator_detached_readers_total Times that a reader, one of several, was left to go on alone.
# TYPE jetbatch_coordinator_detached_readers_total counter
jetbatch_coordinator_detached_readers_total{batcher="train",dataset="count"} %d
# HELP jetbatch_coordinator_reader_spread_batches Batches from the slowest attached reader to the furthest.
# TYPE jetbatch_coordinator_reader_spread_batches gauge
jetbatch_coordinator_reader_spread_batches{batcher="train",dataset="count"} %d
# HELP jetbatch_coordinator_readers Readers of the batcher: attached, so that what they have not taken is kept, or apart.
# TYPE jetbatch_coordinator_readers gauge
jetbatch_coordinator_readers{batcher="train",dataset="count",state="apart"} %d
jetbatch_coordinator_readers{batcher="train",dataset="count",state="attached"} %d
`, detached, spread, apart, attached))
		if err := testutil.GatherAndCompare(reg, text, "jetbatch_coordinator_detached_readers_total",
			"jetbatch_coordinator_reader_spread_batches", "jetbatch_coordinator_readers"); err != nil {
			t.Error(err)
		}
	}
	want(2, 1, 1, 0)
	all[0].waitJobs(2, 3)
	all[0].work(2)
	all[0].credit(2, named(0))
	all[0].wait("the slowest is detached", func(s schema.Status) bool { return s.Detached == 1 })
	want(1, 2, 0, 1)
}

var readerNames = [...]string{"a", "b", "c"}

// askAs asks for a seat as one of several readers.
func (r *reader) askAs(i int, mode wire.Mode) {
	r.t.Helper()
	state := at(0)
	if mode == wire.ModeOpen {
		state = schema.State{}
	}
	req := r.request(mode, state)
	req.Rank = wire.Rank{Name: readerNames[i]}
	if reply := r.try(req); reply.Fault != nil {
		r.t.Fatal(reply.Fault)
	}
}

// A coordinator that could not renew its lease in time is not ready, and is live.
func TestReadinessIsNotLiveness(t *testing.T) {
	c := setup(t)
	p := c.coordinate(coordinator.Config{Lease: 100 * time.Millisecond}, new(hooks))
	natstest.Eventually(t, "the lease is seen to age", func() bool { return p.Ready() != nil })
	if err := p.Live(); err != nil {
		t.Errorf("live: %v", err)
	}
}

func TestTraceOfJobs(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.must(wire.ModeOpen, schema.State{})
	req := r.request(wire.ModeStart, at(0))
	req.Trace = trace
	if reply := r.try(req); reply.Fault != nil {
		t.Fatal(reply.Fault)
	}
	r.waitJobs(1, 1)
	r.work(1)
	r.bytes = 1
	r.credit(1, func(c *wire.Credit) { c.Trace = trace + "\r\nevil: 1" })
	r.waitJobs(2, 9)
	s, err := c.js.Stream(t.Context(), topology.JobsStream)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var headers []string
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // acked
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, m.Header.Get(wire.TraceHeader))
	}
	if len(headers) != 8 || strings.Join(headers, "") != "" {
		t.Errorf("jobs fed after a malformed trace context: %q", headers)
	}
	req = r.request(wire.ModeStart, at(0))
	req.Trace = trace
	if reply := r.try(req); reply.Fault != nil {
		t.Fatal(reply.Fault)
	}
	r.waitJobs(1, 8)
	for range 8 {
		cons, err := c.js.Consumer(t.Context(), topology.JobsStream, topology.Consumer(r.name, r.reply.Gen))
		if err != nil {
			t.Fatal(err)
		}
		m, err := cons.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Headers().Get(wire.TraceHeader); got != trace {
			t.Errorf("trace context of %s: %q", m.Subject(), got)
		}
	}
}
