package coordinator_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// beatSuspended has a worker say that it leaves the jobs of a kind to others; without a reason it has no such data set.
func (c *cluster) beatSuspended(name, reason string) {
	c.t.Helper()
	beat := schema.WorkerStatus{Worker: name, Slots: 1}
	if reason != "" {
		beat.Suspended = []schema.Suspension{{Kind: "other-v1-w2", Reason: "of another"},
			{Kind: wire.KindToken("count", 1), Reason: reason}}
	}
	if err := c.nc.Publish(wire.WorkerPrefix+"."+name, mustJSON(c.t, beat)); err != nil {
		c.t.Fatal(err)
	}
}

// A run whose workers are there, and can all make no batches, waits for what they say that they lack: in its status and
// in the answer to its trainer. What a worker says is shown in one line without escapes, and at most so much of it.
func TestSuspendedWorkersAreTheReason(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.start(0)
	says := func(want, fromA, fromB string) {
		t.Helper()
		r.wait("the run waits for "+want, func(s schema.Status) bool {
			c.beatSuspended("worker-b", fromB)
			c.beatSuspended("worker-a", fromA)
			return s.Waiting == want
		})
		if reply := r.credit(0); reply.Trouble != want || reply.Workers != 0 {
			t.Errorf("the trainer is told of %d workers and %q, want %q", reply.Workers, reply.Trouble, want)
		}
	}
	const begin = "no worker can make batches of data set count: "
	says(begin+"worker-b: cannot open count: no such folder /data (1 of 2 workers)", "", "cannot open count: no such folder /data")
	says(begin+"worker-a: has other data (2 of 2 workers)", "has other data", "cannot open count: no such folder /data")
	says(begin+"worker-a: ·[31mred second line (1 of 2 workers)", "\x1b[31mred\nsecond line", "")
	says(begin+"worker-a: "+strings.Repeat("x", 512)+" (1 of 2 workers)", strings.Repeat("x", 3000), "")
	r.wait("a worker serves the data set", func(s schema.Status) bool {
		c.beatSuspended("worker-a", "has other data")
		c.beatWorker("worker-b")
		return s.Workers == 1 && s.Waiting == ""
	})
	if reply := r.credit(0); reply.Trouble != "" {
		t.Errorf("the trainer is still told %q", reply.Trouble)
	}
}

// A worker that leaves the jobs of one batcher to others serves the rest of the data set. For that batcher it does not
// count, so that a worker which is alone with its jobs may judge them.
func TestSuspendedForOneBatcher(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	lanes := make(chan wire.Lane, 1024)
	sub, err := c.nc.Subscribe(wire.LanePrefix+".train", func(m *nats.Msg) {
		var lane wire.Lane
		if json.Unmarshal(m.Data, &lane) == nil {
			lanes <- lane
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends with the test
	r, other := c.reader("train"), c.reader("other")
	r.start(0)
	other.start(0)
	token := wire.KindToken("count", 1)
	part := schema.WorkerStatus{Worker: "part", Slots: 1, Kinds: []string{token}, Suspended: []schema.Suspension{
		{Kind: token, Reason: "cannot open count: no such folder /data", Batchers: []string{"train"}},
	}}
	beat := func() {
		if err := c.nc.Publish(wire.WorkerPrefix+".part", mustJSON(t, part)); err != nil {
			t.Fatal(err)
		}
	}
	r.wait("the reason", func(s schema.Status) bool {
		beat()
		return s.Workers == 0 && s.Waiting == "no worker can make batches of data set count: part: cannot open count: no such folder /data (1 of 1 worker)"
	})
	other.wait("the other is served", func(s schema.Status) bool { beat(); return s.Workers == 1 })
	r.wait("a worker is alone with it", func(s schema.Status) bool {
		beat()
		c.beatWorker("whole")
		return s.Workers == 1
	})
	natstest.Eventually(t, "the worker is told so", func() bool {
		beat()
		c.beatWorker("whole")
		lane := <-lanes
		return lane.Workers == 1
	})
}
