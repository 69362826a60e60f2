package coordinator_test

import (
	"testing"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A coordinator that takes over a batcher whose store is lost knows only the state of the floor. What the trainer took
// since then is iterated, so that its state is found, and not made again.
func TestTakeoverOfALostStore(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(4)
	r.waitJobs(5, 12)
	natstest.Eventually(t, "progress is recorded", func() bool {
		rec, ok := r.record()
		return ok && rec.Taken == 4 && rec.Floor == 0
	})
	before := r.reply.Gen
	first.kill(t)
	if err := c.js.DeleteStream(t.Context(), topology.ResultsStream(r.name, before)); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{Name: "second", Lease: lease}, new(hooks))
	r.keepUp(4, "the second has begun again", func(s schema.Status) bool {
		return s.Owner == "second" && s.Gen != before && s.Fed == 12
	})
	if got := r.must(wire.ModeSeek, at(4)); !got.Held || got.Gen == before || got.Position != 5 {
		t.Fatalf("the trainer's state is not held: %+v", got)
	}
	r.waitJobs(5, 12)
}
