package coordinator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestDamagedRecordBesideOthers: what cannot be read keeps nobody from taking over ten others, nor their lease from
// being removed.
func TestDamagedRecordBesideOthers(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	for i, damage := range []string{`{"wire":"two"}`, `{`, `{"batcher":"a1"}`} {
		if _, err := kv.PutString(t.Context(), topology.BatcherKey(fmt.Sprint("a", i)), damage); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kv.PutString(t.Context(), topology.CoordinatorKey("dead"), "1"); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		c.put(kv, wire.Record{Batcher: fmt.Sprint("b", i), Owner: "dead", Phase: schema.PhaseStopped,
			Spec: wire.Spec{Dataset: "count", Version: 1}})
	}
	gone := ulid.Make().String()
	if _, err := c.js.CreateStream(t.Context(), topology.Results("c", gone)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.js.CreateStream(t.Context(), topology.Results("a0", gone)); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{Name: "probe", Lease: lease}, new(hooks))
	natstest.Eventually(t, "all are taken over", func() bool {
		return len(ask[wire.Overview](c, "overview", nil).Batchers) >= 10
	})
	natstest.Eventually(t, "the lease of the dead is removed", func() bool {
		_, err := kv.Get(t.Context(), topology.CoordinatorKey("dead"))
		return errors.Is(err, jetstream.ErrKeyNotFound)
	})
	natstest.Eventually(t, "what no record names is collected", func() bool { return !c.stored("c", gone) })
	if !c.stored("a0", gone) {
		t.Error("a generation is collected whose record cannot be read")
	}
}

// damage replaces a batcher's record by what is none.
func (r *reader) damage() {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), topology.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := kv.PutString(r.t.Context(), topology.BatcherKey(r.name), `{"wire":"two"}`); err != nil {
		r.t.Fatal(err)
	}
}

// readable reports whether there is a record that can be read.
func (r *reader) readable() bool {
	kv, err := r.js.KeyValue(r.t.Context(), topology.Bucket)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := kv.Get(r.t.Context(), topology.BatcherKey(r.name))
	var rec wire.Record
	return err == nil && json.Unmarshal(e.Value(), &rec) == nil
}

// TestDamagedRecordIsWrittenAnew damages the record of a batcher whose owner lives.
func TestDamagedRecordIsWrittenAnew(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{Name: "c1"}, new(hooks))
	idle := c.reader("idle")
	idle.must(wire.ModeOpen, schema.State{})
	idle.damage() // and it has nothing to record
	natstest.Eventually(t, "the owner finds it", idle.readable)
	r := c.reader("train")
	r.run(3)
	r.damage()
	natstest.Eventually(t, "the owner writes it anew", r.readable)
	if rec, _ := r.record(); rec.Owner != "c1" || rec.Gen != r.reply.Gen || rec.Reader != r.id {
		t.Errorf("written anew: %+v", rec)
	}
	r.damage()
	other := c.reader("train")
	req := other.request(wire.ModeOpen, schema.State{})
	req.TakeOver = true
	if reply := other.try(req); reply.Fault != nil {
		t.Errorf("taken over: %v", reply.Fault)
	}
	r.damage()
	if reply := other.stop(false); reply.Fault != nil {
		t.Errorf("stopped: %v", reply.Fault)
	}
	if rec, _ := r.record(); rec.Phase != schema.PhaseClosed {
		t.Errorf("after Stop: %+v", rec)
	}
}

// TestDamagedRecordWithoutOwner begins anew where nobody is left who knew the record.
func TestDamagedRecordWithoutOwner(t *testing.T) {
	c := setup(t)
	c.bucket()
	r := c.reader("train")
	r.damage()
	c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond}, new(hooks))
	expectFault(t, c.reader("train").stop(false).Fault, schema.CodeStopped)
	r.start(0)
	if rec, _ := r.record(); rec.Gen != r.reply.Gen {
		t.Errorf("record: %+v", rec)
	}
}

// TestDamagedRecordOfTheDead does not wait for an owner that is known to be dead.
func TestDamagedRecordOfTheDead(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	c.coordinate(coordinator.Config{Name: "second", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.start(0)
	for rec, _ := r.record(); rec.Owner != "first"; rec, _ = r.record() {
		r = c.reader(r.name + "x")
		r.start(0)
	}
	first.kill(t)
	r.damage()
	again := c.reader(r.name)
	again.start(5)
	if rec, _ := again.record(); rec.Owner != "second" || rec.Reader != again.id {
		t.Errorf("record: %+v", rec)
	}
}
