package coordinator_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestFullStore(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(4)
	r.waitJobs(5, 12)
	// A worker has the head; the others have filled the store.
	cons, err := c.js.Consumer(t.Context(), topology.JobsStream, topology.Consumer(r.name, r.reply.Gen))
	if err != nil {
		t.Fatal(err)
	}
	head, err := cons.Next()
	if err != nil {
		t.Fatal(err)
	}
	r.work(5) // 6 to 10
	report := mustJSON(t, wire.Report{Gen: r.reply.Gen, Fault: &schema.Fault{Code: schema.CodeStoreFull}})
	for range 5 { // of every worker that was refused
		if err := c.nc.Publish(wire.ReportPrefix+"."+r.name, report); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("the window is halved, once", func(s schema.Status) bool { return s.Window == 4 })
	natstest.Eventually(t, "results that are taken, or highest, make room", func() bool {
		got := r.results()
		return len(got) == 3 && got[6] && got[7] && got[8]
	})
	r.waitJobs(5, 5) // those that would fill the room again are cancelled
	natstest.Eventually(t, "what is taken is dropped by the record", func() bool {
		rec, _ := r.record()
		return rec.Floor == 4
	})
	if err := head.Nak(); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(5); seq <= 16; seq++ { // and nobody need say that a head is late
		natstest.Eventually(t, "the head is there", func() bool {
			r.work(len(r.jobs()))
			_, ok := r.result(seq)
			return ok
		})
		if s := r.status(); s.Window != 4 {
			t.Fatalf("status: %+v", s)
		}
		r.credit(seq)
	}
}

// change changes the configuration of a stream.
func (c *cluster) change(stream string, change func(*jetstream.StreamConfig)) {
	c.t.Helper()
	s, err := c.js.Stream(c.t.Context(), stream)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	change(&cfg)
	if _, err := c.js.UpdateStream(c.t.Context(), cfg); err != nil {
		c.t.Fatal(err)
	}
}

// Results that fill the server must not keep the head's job out.
func TestNoRoomForTheHeadsJob(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(4)
	r.waitJobs(5, 12)
	r.work(8)
	results, err := c.js.Stream(t.Context(), topology.ResultsStream(r.name, r.reply.Gen))
	if err == nil {
		err = results.Purge(t.Context(), jetstream.WithPurgeSubject(wire.ResultSubject(r.name, r.reply.Gen, 5)))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.change(topology.JobsStream, func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = 1 })
	r.credit(4, late)
	r.wait("the window is halved", func(s schema.Status) bool { return s.Window < 8 })
	natstest.Eventually(t, "the highest results make room", func() bool {
		got := r.results()
		return !got[12] && got[6]
	})
	c.change(topology.JobsStream, func(cfg *jetstream.StreamConfig) { cfg.MaxBytes = -1 })
	r.wait("the head's job is stored", func(schema.Status) bool { return r.jobs()[5] })
}

// Progress that cannot be recorded is bounded: nothing that the record does not give up can be dropped.
func TestUnrecordedProgress(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(4)
	// As on a full disk, and at once.
	c.change(topology.BucketStream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgSize = 1 })
	rec, _ := r.record()
	// A credit of so much still lets jobs out, and one of more does not.
	last := rec.Taken + 2*wire.BlockSize
	fed := last + uint64(r.status().Window)
	for seq := uint64(5); seq <= fed; seq++ {
		r.work(1)
		r.credit(seq)
		if seq == last { // before the next credit ends the feeding
			r.wait("jobs go out", func(s schema.Status) bool { return s.Fed == fed })
		}
	}
	if got := r.status().Fed; got != fed {
		t.Fatalf("%d jobs went out with %d recorded as taken, want %d", got, rec.Taken, fed)
	}
	c.change(topology.BucketStream, func(cfg *jetstream.StreamConfig) { cfg.MaxMsgSize = -1 })
	r.wait("it goes on", func(s schema.Status) bool { r.credit(s.Taken); return s.Fed > fed })
}

// refusals are the lines of a log that say that a report is not believed.
type refusals chan struct{}

func (r refusals) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("report not believed")) {
		r <- struct{}{}
	}
	return len(line), nil
}

func TestNondeterministic(t *testing.T) {
	c := setup(t)
	refused := make(refusals, 16)
	c.coordinate(coordinator.Config{Logger: slog.New(slog.NewTextHandler(refused, nil))}, new(hooks))
	r := c.reader("train")
	r.run(1)
	r.waitJobs(2, 9)
	r.work(1)
	stored, _ := r.result(2)
	mine := wire.Sum([]byte("another batch"))
	fault := func(seq uint64) *schema.Fault {
		return &schema.Fault{Code: schema.CodeNondeterministic, Seq: seq, Worker: "w2", Message: "what I like"}
	}
	report := func(what wire.Report) {
		if err := c.nc.Publish(wire.ReportPrefix+"."+r.name, mustJSON(t, what)); err != nil {
			t.Fatal(err)
		}
	}
	gen := r.reply.Gen
	for _, lie := range []wire.Report{
		{Gen: gen, Fault: fault(7), Made: mine, Stored: stored.Digest}, // there is none
		{Gen: gen, Fault: fault(2), Made: mine, Stored: wire.Sum([]byte("x"))},
		{Gen: gen, Fault: fault(2), Made: stored.Digest, Stored: stored.Digest},
		{Gen: gen, Fault: fault(2)},
	} {
		report(lie)
		<-refused
	}
	report(wire.Report{Gen: "another", Fault: fault(2), Made: mine, Stored: stored.Digest})
	r.work(1)
	if got := r.credit(2); got.Phase != schema.PhaseRunning {
		t.Fatalf("a report that the store does not bear out is believed: %+v", got)
	}
	natstest.Eventually(t, "the run failed", func() bool {
		report(wire.Report{Gen: gen, Fault: fault(2), Made: mine, Stored: stored.Digest})
		return r.status().Phase == schema.PhaseFailed
	})
	if s := r.status(); s.Error == nil || !strings.HasPrefix(s.Error.Message, "job 2: worker w2 made "+mine.String()) {
		t.Fatalf("status: %+v", s.Error)
	}
	if got := r.must(wire.ModeStart, at(0)); got.Phase != schema.PhaseRunning || r.status().Error != nil {
		t.Fatalf("started again: %+v", got)
	}
}

func TestTakenResultsAreDropped(t *testing.T) {
	for name, test := range map[string]struct {
		bytes, stored, bound int64
		retain               int
		taken, floor         uint64
	}{
		"by whole blocks":  {bytes: 8, retain: -1, taken: 140, floor: 127},
		"retained":         {bytes: 8, retain: 20, taken: 140, floor: 63},
		"one by one":       {bytes: 1 << 20, bound: 1 << 24, retain: -1, taken: 5, floor: 5},
		"some one by one":  {bytes: 1 << 20, bound: 1 << 24, retain: 2, taken: 5, floor: 3},
		"none of the last": {bytes: 8, retain: -1, taken: 10, floor: 0},
		"kept by workers":  {bytes: 1 << 20, stored: 8, retain: -1, taken: 70, floor: 63},
		"large and kept":   {bytes: 8 << 20, stored: 8, retain: -1, taken: 5, floor: 5},
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			c.coordinate(coordinator.Config{}, new(hooks))
			r := c.reader("train")
			r.settings.Retain, r.settings.WindowBytes = test.retain, test.bound
			r.start(0)
			r.bytes = test.bytes
			for n := uint64(0); n < test.taken; {
				n += uint64(len(r.work(len(r.jobs()))))
				n = min(n, test.taken)
				r.credit(n, func(c *wire.Credit) { c.Stored = test.stored })
			}
			natstest.Eventually(t, "the record has it", func() bool {
				rec, _ := r.record()
				return rec.Taken == test.taken && rec.Floor == test.floor
			})
			natstest.Eventually(t, "the store follows", func() bool {
				stored := r.results()
				for seq := uint64(1); seq <= test.taken; seq++ {
					if stored[seq] != (seq > test.floor) {
						return false
					}
				}
				return true
			})
			// The floor's own state is the first that is held.
			if got := r.must(wire.ModeSeek, at(int(test.floor))); !got.Held || got.Position != test.floor+1 {
				t.Fatalf("at the floor: %+v", got)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	t.Run("by bytes", func(t *testing.T) {
		r := c.reader("bytes")
		r.settings.WindowBytes = 3000
		r.start(0)
		r.work(1)
		r.bytes = 1000
		if got := r.credit(1); got.Window != 3 {
			t.Fatalf("credit: %+v", got)
		}
		r.waitJobs(2, 4)
		r.bytes = 10_000 // a larger batch than all of them
		r.work(1)
		if got := r.credit(2); got.Window != 1 {
			t.Fatalf("credit: %+v", got)
		}
		r.waitJobs(3, 4) // what is out stays out
	})
	t.Run("by slots", func(t *testing.T) {
		r := c.reader("slots")
		r.settings.Window = 0
		r.start(0)
		r.work(1)
		r.bytes = 8
		if got := r.credit(1); got.Window != 1 || got.Workers != 0 {
			t.Fatalf("without a worker: %+v", got)
		}
		worker := schema.WorkerStatus{Worker: "w", Kinds: []string{wire.KindToken("count", 1)}, Slots: 3}
		if err := c.nc.Publish(wire.WorkerPrefix+".w", mustJSON(t, worker)); err != nil {
			t.Fatal(err)
		}
		r.wait("the window is 2 x 3 + 1", func(s schema.Status) bool { return s.Window == 7 && s.Slots == 3 && s.Fed == 8 })
		worker.Leaving = true
		if err := c.nc.Publish(wire.WorkerPrefix+".w", mustJSON(t, worker)); err != nil {
			t.Fatal(err)
		}
		r.wait("the worker has left", func(s schema.Status) bool { return s.Window == 1 && s.Workers == 0 })
	})
	t.Run("the first batches", func(t *testing.T) { // of a size that is not known yet: one for each slot
		worker := schema.WorkerStatus{Worker: "w", Kinds: []string{wire.KindToken("count", 1)}, Slots: 3}
		if err := c.nc.Publish(wire.WorkerPrefix+".w", mustJSON(t, worker)); err != nil {
			t.Fatal(err)
		}
		r := c.reader("first")
		r.start(0)
		r.waitJobs(1, 3)
	})
	t.Run("a credit ahead of what is fed", func(t *testing.T) {
		r := c.reader("ahead")
		r.run(1)
		r.credit(1 << 40)
		if s := r.status(); s.Taken > s.Fed || s.Fed > s.Taken+8 {
			t.Fatalf("status: %+v", s)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	c := setup(t)
	def := counting(new(hooks))
	for name, cfg := range map[string]coordinator.Config{"name": {Name: "a.b"}, "lease": {Lease: -1}, "replicas": {Replicas: -1}} {
		if _, err := coordinator.New(c.nc, cfg, def); err == nil {
			t.Errorf("bad %s accepted", name)
		}
	}
	if _, err := coordinator.New(c.nc, coordinator.Config{}, def, def); err == nil {
		t.Error("a data set defined twice accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	coord, err := coordinator.New(c.nc, coordinator.Config{}, def)
	if err != nil {
		t.Fatal(err)
	}
	if err := coord.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run after its context ended: %v", err)
	}
}
