package coordinator_test

import (
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func (r *reader) manage(action wire.Action, force bool) wire.ManageReply {
	r.t.Helper()
	return ask[wire.ManageReply](r.cluster, "manage", wire.ManageRequest{
		Batcher: r.name, Request: ulid.Make().String(), Action: action, Force: force, By: "me",
	})
}

// told are the events of a name, as they are stored.
func (c *cluster) told(name string) (what []string) {
	c.t.Helper()
	s, err := c.js.Stream(c.t.Context(), topology.EventsStream)
	if err != nil {
		c.t.Fatal(err)
	}
	info, err := s.Info(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(c.t.Context(), seq)
		if err != nil {
			c.t.Fatal(err)
		}
		e, err := wire.ParseEvent(m.Subject, m.Data, m.Time)
		if err != nil {
			c.t.Fatal(err)
		}
		if e.Name == name {
			what = append(what, e.What)
		}
	}
	return what
}

// TestOperatorEndsARun stops and deletes batchers that somebody else uses, and all that happened to one is told.
func TestOperatorEndsARun(t *testing.T) {
	c := setup(t)
	p := c.coordinate(coordinator.Config{Name: "c1"}, new(hooks))
	r := c.reader("train")
	expectFault(t, r.manage(wire.ActionStop, false).Fault, schema.CodeStopped) // there is none
	expectFault(t, r.manage("burn", false).Fault, schema.CodeBadRequest)
	r.start(0)
	for seq := range uint64(2) {
		r.wait("a job is fed", func(s schema.Status) bool { return s.Fed > seq })
		r.credit(seq + 1)
	}
	expectFault(t, r.manage(wire.ActionRemove, false).Fault, schema.CodeInUse)
	if reply := r.manage(wire.ActionStop, false); reply.Fault != nil || reply.Status.Taken != 2 ||
		reply.Status.Phase != schema.PhaseRunning {
		t.Errorf("stopped: %+v", reply)
	}
	if s := r.credit(2); s.Phase != schema.PhaseClosed {
		t.Errorf("the reader hears %+v", s)
	}
	r.start(0) // which is the reader's right
	if reply := r.manage(wire.ActionRemove, true); reply.Fault != nil {
		t.Errorf("deleted: %+v", reply.Fault)
	}
	if _, there := r.record(); there {
		t.Error("the record is there")
	}
	r.start(0)
	p.stop(t)
	c.coordinate(coordinator.Config{Name: "c2"}, new(hooks))
	r.wait("the run goes on", func(s schema.Status) bool { return s.Owner == "c2" })
	want := []string{
		"opened", "begun", "stopped by an operator", "begun", "deleted by an operator",
		"opened", "begun", "taken over",
	}
	natstest.Eventually(t, "all is told", func() bool { return len(c.told("train")) >= len(want) })
	if got := c.told("train"); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := c.told("c1"); !slices.Equal(got, []string{"came", "left"}) {
		t.Errorf("told of c1: %q", got)
	}
}

// TestOperatorDeletesAStray deletes the record of a data set that no coordinator has.
func TestOperatorDeletesAStray(t *testing.T) {
	c := setup(t)
	kv := c.bucket()
	gone := wire.Spec{Dataset: "gone", Version: 1}
	c.put(kv, wire.Record{Batcher: "left", Owner: "dead", Phase: schema.PhaseRunning, Spec: gone})
	c.put(kv, wire.Record{Batcher: "held", Owner: "dead", Reader: "R0", Phase: schema.PhaseRunning, Spec: gone})
	if _, err := kv.PutString(t.Context(), topology.BatcherKey("damaged"), "{"); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{Lease: 500 * time.Millisecond, ReaderLease: time.Minute}, new(hooks))
	expectFault(t, c.reader("left").manage(wire.ActionStop, false).Fault, schema.CodeStopped)
	expectFault(t, c.reader("held").manage(wire.ActionRemove, false).Fault, schema.CodeInUse)
	for _, name := range []string{"left", "held", "damaged"} {
		r := c.reader(name)
		if reply := r.manage(wire.ActionRemove, name == "held"); reply.Fault != nil {
			t.Errorf("%s: %v", name, reply.Fault)
		}
		if _, there := r.record(); there {
			t.Errorf("the record of %s is there", name)
		}
		r.start(0)
	}
}

// TestWorkersAreTold has workers come, leave and die, with two coordinators that both see it.
func TestWorkersAreTold(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{Name: "c1"}, new(hooks))
	c.coordinate(coordinator.Config{Name: "c2"}, new(hooks))
	said := time.Now()
	beat := func(name string, leaving bool) {
		said = said.Add(time.Second)
		data := mustJSON(t, schema.WorkerStatus{Worker: name, Slots: 1, Kinds: []string{"k"}, Leaving: leaving, Now: said})
		if err := c.nc.Publish(wire.WorkerPrefix+"."+name, data); err != nil {
			t.Fatal(err)
		}
	}
	beat("w1", false)
	// c2 may still be meeting workers: then it tells only that w1 has left, and could do so before c1 tells that it came.
	natstest.Eventually(t, "w1 has come", func() bool { return slices.Equal(c.told("w1"), []string{"came"}) })
	beat("w1", true)
	beat("w2", false)
	natstest.Eventually(t, "w2 is dead", func() bool { return slices.Equal(c.told("w2"), []string{"came", "died"}) })
	if got := c.told("w1"); !slices.Equal(got, []string{"came", "left"}) {
		t.Errorf("told of w1: %q", got)
	}
}
