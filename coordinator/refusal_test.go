package coordinator_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// TestDeposedOwnerRefusesNothing asks an owner that does not know yet that it was deposed for what its successor allows:
// what it remembers of the seat must not be the answer.
func TestDeposedOwnerRefusesNothing(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{Name: "paused"}, new(hooks))
	r := c.reader("train")
	r.run(2)
	kv, err := c.js.KeyValue(t.Context(), topology.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	other := ulid.Make().String()
	natstest.Eventually(t, "the record names another owner and another reader", func() bool {
		e, err := kv.Get(t.Context(), topology.BatcherKey(r.name))
		if err != nil {
			return false
		}
		rec, _ := r.record()
		rec.Owner, rec.Reader, rec.Seat = "ghost", other, rec.Seat+1
		_, err = kv.Update(t.Context(), topology.BatcherKey(r.name), mustJSON(t, rec), e.Revision())
		return err == nil
	})
	request := r.request(schema.ModeSeek, at(2))
	request.Reader = other
	msg, err := c.nc.Request(schema.CoordinatorPrefix+".seat", mustJSON(t, request), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got schema.SeatReply
	if err := json.Unmarshal(msg.Data, &got); err != nil {
		t.Fatal(err)
	}
	expectFault(t, got.Fault, schema.CodeUnavailable)
}
