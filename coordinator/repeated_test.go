package coordinator_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestRepeatedAfterTakeover repeats a request whose answer was lost with its coordinator. Until the next one has
// iterated to the seat again, it does not know the state there, and must not say that it is none.
func TestRepeatedAfterTakeover(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(4)
	request := r.request(wire.ModeSeek, at(4))
	if got := r.try(request); !got.Held || got.Position != 5 {
		t.Fatalf("seated at %+v", got)
	}
	first.kill(t)

	goOn := make(chan struct{})
	c.coordinate(coordinator.Config{Name: "second", Lease: lease}, &hooks{next: func(i int) (count, count, error) {
		<-goOn
		return count{I: i}, count{I: i + 1}, nil
	}})
	r.wait("the second is the owner", func(s schema.Status) bool { return s.Owner == "second" })
	data, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := c.nc.Request(wire.CoordinatorPrefix+".seat", data, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var early wire.SeatReply
	if err := json.Unmarshal(msg.Data, &early); err != nil {
		t.Fatal(err)
	}
	expectFault(t, early.Fault, schema.CodeUnavailable)
	close(goOn)
	if got := r.try(request); got.Fault != nil || got.Position != 5 || !got.State.Equal(at(4)) {
		t.Fatalf("answered with %+v", got)
	}
}

// TestRepeatedAfterLostStore repeats a request after a takeover that found the store lost, and began again where
// iteration goes on from: not at the state that was asked for.
func TestRepeatedAfterLostStore(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(4)
	request := r.request(wire.ModeSeek, at(4))
	seat := r.try(request)
	if !seat.Held || seat.Position != 5 {
		t.Fatalf("seated at %+v", seat)
	}
	first.kill(t)
	if err := c.js.DeleteStream(t.Context(), topology.ResultsStream(r.name, seat.Gen)); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{Name: "second", Lease: lease}, new(hooks))
	r.wait("the second begins again", func(s schema.Status) bool { return s.Owner == "second" && s.Gen != seat.Gen && s.Restarts == 1 })
	if got := r.try(request); got.Fault != nil || got.Gen == seat.Gen || !got.State.Equal(at(4)) {
		t.Fatalf("answered with %+v", got)
	}
}
