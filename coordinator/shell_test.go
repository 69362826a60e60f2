package coordinator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// farDialer connects to a server that takes its time for every record that is asked for.
type farDialer struct{}

type farConn struct{ net.Conn }

func (farDialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return farConn{c}, err
}

func (c farConn) Write(b []byte) (int, error) {
	// The way to a far server: the time that each record takes is the subject of the test.
	time.Sleep(4 * time.Millisecond * time.Duration(bytes.Count(b, []byte("$KV.jetbatch.batcher."))))
	return c.Conn.Write(b)
}

// bucket makes the shared streams.
func (c *cluster) bucket() jetstream.KeyValue {
	c.t.Helper()
	if err := topology.Ensure(c.t.Context(), c.js, topology.Config{}); err != nil {
		c.t.Fatal(err)
	}
	kv, err := topology.OpenBucket(c.t.Context(), c.js)
	if err != nil {
		c.t.Fatal(err)
	}
	return kv
}

// put writes a record as an owner would.
func (c *cluster) put(kv jetstream.KeyValue, rec wire.Record) {
	c.t.Helper()
	rec.Wire = wire.Version
	if _, err := kv.Put(c.t.Context(), topology.BatcherKey(rec.Batcher), mustJSON(c.t, rec)); err != nil {
		c.t.Fatal(err)
	}
}

// ghost renews the lease of a coordinator that is not there until the test ends.
func (c *cluster) ghost(kv jetstream.KeyValue, name string) {
	ctx, cancel := context.WithCancel(context.Background())
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			_, _ = kv.Put(ctx, topology.CoordinatorKey(name), []byte("1"))
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	c.t.Cleanup(func() { cancel(); renewing.Wait() })
}

// TestLeasesDoNotWaitForRecords has two coordinators that are far from a server with a thousand records: both renew
// their leases, and neither takes the other for dead.
func TestLeasesDoNotWaitForRecords(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	c := &cluster{t: t, srv: srv}
	c.nc, c.js = srv.JetStream()
	kv := c.bucket()
	c.ghost(kv, "ghost")
	for i := range 1000 {
		c.put(kv, wire.Record{Batcher: fmt.Sprint("b", i), Owner: "ghost", Phase: schema.PhaseRunning,
			Spec: wire.Spec{Dataset: "other", Version: 1}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, name := range []string{"one", "two"} {
		far, err := nats.Connect(srv.URL(), nats.SetCustomDialer(farDialer{}))
		if err != nil {
			t.Fatal(err)
		}
		coord, err := coordinator.New(far, coordinator.Config{Name: name, Lease: lease}, counting(new(hooks)))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- coord.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done; far.Close() })
	}
	r := c.reader("train")
	r.run(1)
	before, _ := r.record()
	watch, err := kv.Watch(t.Context(), "coordinator.*")
	if err != nil {
		t.Fatal(err)
	}
	renewed := make(map[string]int)
	late := time.After(25 * time.Second)
	for renewed["coordinator.one"] < 8 || renewed["coordinator.two"] < 8 {
		select {
		case e := <-watch.Updates():
			if e != nil {
				renewed[e.Key()]++
			}
		case <-late:
			t.Fatalf("renewed: %v", renewed)
		}
	}
	if rec, _ := r.record(); rec.Owner != before.Owner {
		t.Errorf("owner %s, then %s, and both live", before.Owner, rec.Owner)
	}
}

// TestParametersAreNotReadEverySecond counts what a coordinator asks the bucket for.
func TestParametersAreNotReadEverySecond(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	c.ghost(kv, "ghost")
	for i := range 20 {
		c.put(kv, wire.Record{Batcher: fmt.Sprint("b", i), Owner: "ghost", Phase: schema.PhaseRunning,
			Spec: wire.Spec{Dataset: "count", Version: 1, Params: json.RawMessage(`"` + strings.Repeat("p", 300_000) + `"`)}})
	}
	asked, err := c.nc.SubscribeSync("$JS.API.STREAM.MSG.GET." + topology.BucketStream)
	if err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{}, new(hooks))
	records, leases := 0, 0
	for leases < 10 {
		m, err := asked.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case bytes.Contains(m.Data, []byte("$KV.jetbatch.batcher.")):
			records++
		case bytes.Contains(m.Data, []byte("$KV.jetbatch.coordinator.ghost")):
			leases++
		}
	}
	if records < 20 || records > 60 { // each look at a lease with a read of all would make 200
		t.Errorf("20 large records were read %d times while leases were looked at %d times", records, leases)
	}
}

func TestRunTwice(t *testing.T) {
	c := setup(t)
	p := c.coordinate(coordinator.Config{}, new(hooks))
	if err := p.Run(t.Context()); !errors.Is(err, coordinator.ErrRan) {
		t.Errorf("beside the first: %v", err)
	}
	p.stop(t)
	if err := p.Run(t.Context()); !errors.Is(err, coordinator.ErrRan) {
		t.Errorf("after the first: %v", err)
	}
}

// TestHungOpenTakesNobodysPlace opens a data set that hangs, hundreds of times, and its neighbour.
func TestHungOpenTakesNobodysPlace(t *testing.T) {
	c := setup(t)
	never := make(chan struct{})
	h := &hooks{open: func(p params) error {
		if p.N == 7 {
			<-never
		}
		return nil
	}}
	p := c.coordinate(coordinator.Config{}, h)
	t.Cleanup(func() { close(never); p.stop(t) })
	answers, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	const flood = 300
	hung := c.reader("hung")
	hung.params = json.RawMessage(`{"n":7}`)
	for range flood {
		hung.another()
		req := hung.request(wire.ModeOpen, schema.State{})
		if err := c.nc.PublishRequest(wire.CoordinatorPrefix+".seat", answers.Subject, mustJSON(t, req)); err != nil {
			t.Fatal(err)
		}
	}
	busy, opening := 0, 0
	for range flood {
		m, err := answers.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatalf("after %d answers: %v", busy+opening, err)
		}
		var reply wire.SeatReply
		if err := json.Unmarshal(m.Data, &reply); err != nil {
			t.Fatal(err)
		}
		expectFault(t, reply.Fault, schema.CodeUnavailable)
		switch {
		case strings.Contains(reply.Fault.Message, "batcher hung has 8 requests under way"):
			busy++
		case strings.Contains(reply.Fault.Message, "data set count of batcher hung is being opened since"):
			opening++
		default:
			t.Errorf("answered: %s", reply.Fault.Message)
		}
	}
	if opening == 0 || busy == 0 {
		t.Errorf("%d are busy, %d are being opened", busy, opening)
	}
	fine := mustJSON(t, c.reader("fine").request(wire.ModeOpen, schema.State{}))
	m, err := c.nc.Request(wire.CoordinatorPrefix+".seat", fine, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var reply wire.SeatReply
	if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Fault != nil {
		t.Errorf("the neighbour: %s, %v", m.Data, err)
	}
	if p.Ready() != nil || p.Live() != nil {
		t.Errorf("ready: %v, live: %v", p.Ready(), p.Live())
	}
}

// TestWorkersAreKnownAtTheStart has a worker that beat before the coordinator listened and does not again unasked.
func TestWorkersAreKnownAtTheStart(t *testing.T) {
	c := setup(t)
	def := counting(new(hooks))
	worker := schema.WorkerStatus{Worker: "w1", Slots: 3, Kinds: []string{wire.KindToken(def.Name(), def.Version())}}
	if _, err := c.nc.Subscribe(wire.AskSubject, func(*nats.Msg) { // as workers do
		_ = c.nc.Publish(wire.WorkerPrefix+".w1", mustJSON(t, worker))
	}); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{}, new(hooks))
	if o := ask[wire.Overview](c, "overview", nil); len(o.Workers) != 1 || o.Workers[0].Slots != 3 {
		t.Errorf("workers: %+v", o.Workers)
	}
	r := c.reader("train")
	r.start(0)
	if s := r.status(); s.Workers != 1 || s.Slots != 3 {
		t.Errorf("status: %+v", s)
	}
}

// TestRequestWaitsForTheLease asks a coordinator that has just started to stop what a dead one owned.
func TestRequestWaitsForTheLease(t *testing.T) {
	for name, ask := range map[string]func(*reader) (string, any){
		"stop":  func(r *reader) (string, any) { return "stop", r.stopRequest(false) },
		"leave": func(r *reader) (string, any) { return "stop", r.stopRequest(true) },
		"seat":  func(r *reader) (string, any) { return "seat", r.request(wire.ModeOpen, schema.State{}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			kv := c.bucket()
			r := c.reader("train")
			c.put(kv, wire.Record{Batcher: "train", Owner: "dead", Reader: r.id, Phase: schema.PhaseStopped,
				Spec: wire.Spec{Dataset: "count"}})
			if _, err := kv.PutString(t.Context(), topology.CoordinatorKey("dead"), "1"); err != nil {
				t.Fatal(err)
			}
			c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond}, new(hooks))
			op, req := ask(r)
			m, err := c.nc.Request(wire.CoordinatorPrefix+"."+op, mustJSON(t, req), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			var reply wire.StopReply
			if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Fault != nil {
				t.Errorf("answered at once with %s, %v", m.Data, err)
			}
		})
	}
}

// TestStrayIsCollected has a record of a data set that no coordinator has any more, and one of another wire version.
func TestStrayIsCollected(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	spec := wire.Spec{Dataset: "gone", Version: 1}
	idle := wire.Settings{IdleTimeout: 3 * time.Second}
	c.put(kv, wire.Record{Batcher: "train", Owner: "dead", Phase: schema.PhaseRunning, Taken: 5, Total: 1005,
		Spec: spec, Settings: idle})
	c.put(kv, wire.Record{Batcher: "kept", Owner: "dead", Phase: schema.PhaseRunning, Spec: spec})
	old := `{"wire":99,"batcher":"old","owner":"dead","settings":{"idle_timeout_ns":3000000000},"floor":"three"}`
	if _, err := kv.PutString(t.Context(), topology.BatcherKey("old"), old); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond}, new(hooks))
	find := func(name string) (s schema.Status) {
		for _, s := range ask[wire.Overview](c, "overview", nil).Batchers {
			if s.Batcher == name {
				return s
			}
		}
		return s
	}
	natstest.Eventually(t, "the overview shows them", func() bool {
		return find("train").Waiting == "no coordinator has data set gone" &&
			find("old").Waiting == "no coordinator speaks wire version 99"
	})
	r := c.reader("train")
	if s := r.status(); s.Waiting != "no coordinator has data set gone" || s.Taken != 5 || s.Total != 1005 || s.Owner != "dead" {
		t.Errorf("status: %+v", s)
	}
	expectFault(t, r.try(r.request(wire.ModeSeek, schema.State{})).Fault, schema.CodeUnknownDataset)
	for _, name := range []string{"train", "old"} {
		natstest.Eventually(t, name+" is collected", func() bool {
			_, err := kv.Get(t.Context(), topology.BatcherKey(name))
			return errors.Is(err, jetstream.ErrKeyNotFound)
		})
	}
	r.start(0)
	if find("kept").Batcher == "" {
		t.Error("one is gone that was not idle for its timeout")
	}
}

// TestStrayWithAReader keeps the record of a data set that no coordinator has for as long as its reader lives.
func TestStrayWithAReader(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	r := c.reader("train")
	c.put(kv, wire.Record{Batcher: "train", Owner: "dead", Reader: r.id, Phase: schema.PhaseRunning,
		Spec: wire.Spec{Dataset: "gone", Version: 1}, Settings: wire.Settings{IdleTimeout: time.Second}})
	c.put(kv, wire.Record{Batcher: "silent", Owner: "dead", Phase: schema.PhaseRunning,
		Spec: wire.Spec{Dataset: "gone", Version: 1}, Settings: wire.Settings{IdleTimeout: 3 * time.Second}})
	c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond}, new(hooks))
	credit := mustJSON(t, wire.Credit{Reader: r.id, Secret: r.secret})
	natstest.Eventually(t, "the silent one is collected", func() bool {
		if err := c.nc.Publish(wire.ReaderPrefix+".train", credit); err != nil {
			t.Fatal(err)
		}
		_, err := kv.Get(t.Context(), topology.BatcherKey("silent"))
		return errors.Is(err, jetstream.ErrKeyNotFound)
	})
	if _, ok := r.record(); !ok {
		t.Error("collected, and its reader lives")
	}
}

// TestStrayGivesItsName opens a batcher on another data set than that of its record, which no coordinator has: at once
// when the run has no reader that lives, by taking over when it has one.
func TestStrayGivesItsName(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	gone := wire.Spec{Dataset: "gone", Version: 1}
	c.put(kv, wire.Record{Batcher: "over", Owner: "dead", Reader: "R0", Phase: schema.PhaseDone, Spec: gone})
	c.put(kv, wire.Record{Batcher: "left", Owner: "dead", Phase: schema.PhaseRunning, Spec: gone})
	c.put(kv, wire.Record{Batcher: "held", Owner: "dead", Reader: "R0", Phase: schema.PhaseRunning, Spec: gone})
	c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond, ReaderLease: time.Minute}, new(hooks))
	c.reader("over").start(0)
	c.reader("left").start(0)
	held := c.reader("held")
	expectFault(t, held.try(held.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeInUse)
	expectFault(t, held.try(held.request(wire.ModeStart, schema.State{})).Fault, schema.CodeUnknownDataset)
	open := held.request(wire.ModeOpen, schema.State{})
	open.TakeOver = true
	if reply := held.try(open); reply.Fault != nil {
		t.Errorf("taken over: %v", reply.Fault)
	}
}

// TestOwnersThatDie takes over a batcher whose owners died one after the other.
func TestOwnersThatDie(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	if _, err := kv.PutString(t.Context(), topology.CoordinatorKey("dead"), "1"); err != nil {
		t.Fatal(err)
	}
	rec := wire.Record{Batcher: "train", Owner: "dead", Gen: "G1", Phase: schema.PhaseRunning, Taken: 3,
		Spec: wire.Spec{Dataset: "count"}}
	rec.Takeovers = &wire.Takeovers{Count: 5, Gen: "G1", Taken: 3, At: time.Now()}
	c.put(kv, rec)
	var opened atomic.Bool
	h := &hooks{open: func(params) error { opened.Store(true); return nil }}
	c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond}, h)
	r := c.reader("train")
	r.wait("the run has failed", func(s schema.Status) bool { return s.Phase == schema.PhaseFailed })
	s := r.status()
	expectFault(t, s.Error, schema.CodePoison)
	want := "6 coordinators in a row died while they fed batcher train (data set count), " +
		"and the trainer came no further than 3"
	if s.Error.Message != want {
		t.Errorf("says %q", s.Error.Message)
	}
	if opened.Load() {
		t.Error("the data set was opened once more")
	}
	r.start(0) // which is a new beginning
	if rec, _ := r.record(); rec.Takeovers != nil {
		t.Errorf("counted still: %+v", rec.Takeovers)
	}
}
