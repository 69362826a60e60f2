package coordinator_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestDeposedOwnerRefusesNothing asks an owner that does not know yet that it was deposed for what its successor
// allows: what it remembers of the seat must not be the answer.
func TestDeposedOwnerRefusesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		op      string
		request func(*reader) any
	}{
		"seek":  {"seat", func(r *reader) any { return r.request(wire.ModeSeek, at(2)) }},
		"stop":  {"stop", func(r *reader) any { return r.stopRequest(false) }},
		"leave": {"stop", func(r *reader) any { return r.stopRequest(true) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := deposed(t)
			msg, err := r.nc.Request(wire.CoordinatorPrefix+"."+test.op, mustJSON(t, test.request(r)), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			var got wire.SeatReply // as far as its fault goes, every reply is one
			if err := json.Unmarshal(msg.Data, &got); err != nil {
				t.Fatal(err)
			}
			expectFault(t, got.Fault, schema.CodeUnavailable)
		})
	}
	t.Run("credit", func(t *testing.T) {
		r := deposed(t)
		answers, err := r.nc.SubscribeSync(r.nc.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		credit := wire.Credit{Gen: r.reply.Gen, Seat: r.reply.Seat, Reader: r.id, Secret: r.secret}
		if err := r.nc.PublishRequest(wire.ReaderPrefix+"."+r.name, answers.Subject, mustJSON(t, credit)); err != nil {
			t.Fatal(err)
		}
		natstest.Eventually(t, "it knows that it was deposed", func() bool {
			return len(ask[wire.Overview](r.cluster, "overview", nil).Batchers) == 0
		})
		if n, _, err := answers.Pending(); n > 0 || err != nil {
			t.Fatalf("%d answers, %v", n, err)
		}
	})
}

// A reader of another wire version gets no seat, neither in a batcher that is fed here nor in a new one: what workers
// of this version store would look damaged to it.
func TestReaderOfAnotherWireVersion(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{Name: "c"}, new(hooks))
	r := c.reader("train")
	r.run(2)
	for _, name := range []string{"train", "new"} {
		old := c.reader(name)
		req := old.request(wire.ModeOpen, schema.State{})
		req.Wire, req.TakeOver = 0, true // version 1 did not say
		msg, err := c.nc.Request(wire.CoordinatorPrefix+".seat", mustJSON(t, req), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var got wire.SeatReply
		if err := json.Unmarshal(msg.Data, &got); err != nil {
			t.Fatal(err)
		}
		expectFault(t, got.Fault, schema.CodeUnavailable)
		want := fmt.Sprintf("the trainer speaks wire version 1 and coordinator c %d", wire.Version)
		if !strings.Contains(got.Fault.Message, want) {
			t.Errorf("%s: %q does not say %q", name, got.Fault.Message, want)
		}
	}
	if rec, _ := r.record(); rec.Reader != r.id {
		t.Errorf("the seat is %s's", rec.Reader)
	}
	if o := ask[wire.Overview](c, "overview", nil); len(o.Batchers) != 1 {
		t.Errorf("%d batchers, want the one that was there", len(o.Batchers))
	}
}

// deposed is a reader to whom another owner gave the seat, and the only coordinator does not know of either.
func deposed(t *testing.T) *reader {
	t.Helper()
	c := setup(t)
	c.coordinate(coordinator.Config{Name: "paused"}, new(hooks))
	r := c.reader("train")
	r.run(2)
	kv, err := c.js.KeyValue(t.Context(), topology.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), topology.CoordinatorKey("other"), "alive"); err != nil {
		t.Fatal(err)
	}
	r.another()
	natstest.Eventually(t, "the record names another owner and another reader", func() bool {
		e, err := kv.Get(t.Context(), topology.BatcherKey(r.name))
		if err != nil {
			return false
		}
		rec, _ := r.record()
		rec.Owner, rec.Reader, rec.Seat = "other", r.id, rec.Seat+1
		_, err = kv.Update(t.Context(), topology.BatcherKey(r.name), mustJSON(t, rec), e.Revision())
		return err == nil
	})
	return r
}
