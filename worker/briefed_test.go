package worker

import (
	"encoding/json"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// briefed is the owner's lane with all that a worker needs.
func (o *owner) briefed() wire.Lane {
	return wire.Lane{
		Batcher: o.batcher, Gen: o.gen, Kind: o.kind(), Workers: 2, Owner: "c1",
		Run: &wire.Run{Spec: o.spec, Origin: o.origin},
	}
}

// reads counts the records that are read from now on.
func (o *owner) reads() *atomic.Int64 {
	o.t.Helper()
	n := new(atomic.Int64)
	sub, err := o.nc.Subscribe("$JS.API.STREAM.MSG.GET."+topology.BucketStream, func(*nats.Msg) { n.Add(1) })
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.nc.Flush(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = sub.Unsubscribe() })
	return n
}

// TestBriefedLaneNeedsNoRecord serves a lane whose announcement says what the record does, without a read of that.
func TestBriefedLaneNeedsNoRecord(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	o.silence()
	reads := o.reads()
	w, _ := start(t, s, Config{Name: "w1", Slots: 2}, nil, plain())
	natstest.Eventually(t, "the worker runs", func() bool { return w.Ready() == nil })
	if err := o.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	o.feed(1, 3)
	natstest.Eventually(t, "the lane is open", func() bool {
		o.hint(o.briefed())
		return len(w.lanes.all()) == 1
	})
	for seq := range uint64(3) {
		o.result(seq + 1)
	}
	if n := reads.Load(); n > 0 {
		t.Errorf("%d records were read", n)
	}
}

// TestWrongBriefingServesNothing has lanes announced that are not as the record says: the worker comes to what the
// record says, and runs no job by anything else.
func TestWrongBriefingServesNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(o *owner, lane *wire.Lane) (header nats.Header, reply string){
		"other parameters": func(_ *owner, lane *wire.Lane) (nats.Header, string) {
			lane.Run.Spec.Params = []byte(`{"forged":true}`)
			return nil, ""
		},
		"another data set": func(_ *owner, lane *wire.Lane) (nats.Header, string) {
			lane.Run.Spec.Dataset = "other"
			return nil, ""
		},
		"a generation that is over": func(_ *owner, lane *wire.Lane) (nats.Header, string) {
			lane.Gen = "01OVER"
			return nil, ""
		},
		"sent by the server": func(_ *owner, lane *wire.Lane) (nats.Header, string) {
			lane.Run.Spec.Params = []byte(`{"forged":true}`)
			return nats.Header{"Nats-Stream": {"any"}}, ""
		},
		"delivered by a consumer": func(_ *owner, lane *wire.Lane) (nats.Header, string) {
			lane.Run.Spec.Params = []byte(`{"forged":true}`)
			return nil, "any.reply"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Run(t)
			o := newOwner(t, s, "train", "plain")
			o.silence()
			w, _ := start(t, s, Config{Name: "w1", Slots: 2}, nil, plain())
			natstest.Eventually(t, "the worker runs", func() bool { return w.Ready() == nil })
			o.feed(1, 3)
			lane := o.briefed()
			header, reply := change(o, &lane)
			data, err := json.Marshal(lane)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.nc.PublishMsg(&nats.Msg{Subject: wire.LanePrefix + ".train", Header: header, Reply: reply, Data: data}); err != nil {
				t.Fatal(err)
			}
			o.mu.Lock()
			o.quiet = false // what it says from now on is no more than that there are jobs
			o.mu.Unlock()
			for seq := range uint64(3) {
				if r, _ := o.result(seq + 1); r.Kind != wire.KindBatch {
					t.Errorf("%+v", r.Fault)
				}
			}
		})
	}
}

// TestBriefingOfARunThatIsOver closes a lane that was opened by a hint which came too late.
func TestBriefingOfARunThatIsOver(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	o.silence()
	w, _ := start(t, s, Config{Name: "w1", Slots: 2}, nil, plain())
	natstest.Eventually(t, "the worker runs", func() bool { return w.Ready() == nil })
	o.record(schema.PhaseClosed)
	if err := topology.DeleteGeneration(t.Context(), o.js, o.batcher, o.gen); err != nil {
		t.Fatal(err)
	}
	reads := o.reads()
	natstest.Eventually(t, "the lane is open", func() bool {
		o.hint(o.briefed())
		return len(w.lanes.all()) > 0 || reads.Load() > 0
	})
	natstest.Eventually(t, "the record is read", func() bool { return reads.Load() > 0 })
	natstest.Eventually(t, "the lane is closed", func() bool { return len(w.lanes.all()) == 0 })
}
