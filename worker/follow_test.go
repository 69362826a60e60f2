package worker

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// lane is the owner's lane for few workers.
func (o *owner) fewLane() wire.Lane {
	return wire.Lane{Batcher: o.batcher, Gen: o.gen, Kind: o.kind(), Workers: 2, Owner: "c1", Few: true}
}

// follow sends a worker its list.
func (o *owner) follow(worker string, lanes ...wire.Lane) {
	o.t.Helper()
	data, err := json.Marshal(wire.Follow{Coordinator: "c1", Lanes: lanes})
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.nc.Publish(wire.FollowPrefix+"."+worker, data); err != nil {
		o.t.Fatal(err)
	}
}

// asked is how many requests for jobs wait at the generation's consumer.
func (o *owner) asked() int {
	c, err := o.js.Consumer(o.t.Context(), topology.JobsStream, topology.Consumer(o.batcher, o.gen))
	if err != nil {
		return -1
	}
	return c.CachedInfo().NumWaiting
}

// TestLaneOfFewWorkers is told a lane, is not told it any more while it has jobs, and is told it again.
func TestLaneOfFewWorkers(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	o.silence()
	gate := make(chan struct{})
	w, _ := start(t, s, Config{Name: "w1", Slots: 2}, nil, define("plain", func(ctx context.Context, n int) (schema.Batch, error) {
		select {
		case <-gate:
			return values(n, 1)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}))
	natstest.Eventually(t, "the worker runs", func() bool { return w.Ready() == nil })
	o.feed(1, 3)
	o.hint(o.fewLane())
	o.follow("w1")
	o.follow("w2", o.fewLane())
	if err := o.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	o.follow("w1", o.fewLane())
	natstest.Eventually(t, "the lane is served", func() bool { return w.Status().Running == 2 })
	l := w.lanes.all()[0]
	l.mu.Lock()
	l.toAll -= int64(leaveAfter) // opened long ago
	l.mu.Unlock()
	o.hint(o.fewLane()) // says whose it is, and not that this worker is to follow it
	natstest.Eventually(t, "nothing is asked for", func() bool {
		o.follow("w1")
		return l.isPaused() && o.asked() == 0
	})
	gate <- struct{}{}
	gate <- struct{}{}
	natstest.Eventually(t, "what ran is stored", func() bool { return w.Status().Done == 2 && o.queued() == 1 })
	natstest.Eventually(t, "the lane is closed", func() bool { return len(w.lanes.all()) == 0 })
	close(gate)
	o.follow("w1", o.fewLane())
	o.waitEmpty()
}

// TestLeftLaneIsTakenUp hears a lane that was left announced to all, while a job of it runs.
func TestLeftLaneIsTakenUp(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	gate := make(chan struct{})
	w, _ := start(t, s, Config{Name: "w1", Slots: 1}, nil, define("plain", func(ctx context.Context, n int) (schema.Batch, error) {
		select {
		case <-gate:
			return values(n, 1)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}))
	o.feed(1, 1)
	natstest.Eventually(t, "the job runs", func() bool { return w.Status().Running == 1 })
	l := w.lanes.all()[0]
	o.follow("w1")
	if err := o.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	o.silence()
	l.mu.Lock()
	l.owner, l.toAll = "c1", l.toAll-int64(leaveAfter)
	l.mu.Unlock()
	natstest.Eventually(t, "it is left", func() bool { o.follow("w1"); return l.isPaused() })
	all := o.fewLane()
	all.Few = false
	o.hint(all)
	natstest.Eventually(t, "it is taken up", func() bool { return !l.isPaused() })
	close(gate)
	o.feed(2, 9)
	o.waitEmpty()
}

// TestLaneLeaves is the decision alone.
func TestLaneLeaves(t *testing.T) {
	t.Parallel()
	const now = int64(time.Hour)
	for name, test := range map[string]struct {
		lane  *lane
		leave bool
	}{
		"told for long to few":       {&lane{owner: "c1", toAll: 0}, true},
		"announced to all lately":    {&lane{owner: "c1", toAll: now - int64(time.Second)}, false},
		"of another coordinator":     {&lane{owner: "c2", toAll: 0}, false},
		"of one that does not say":   {&lane{toAll: 0}, false},
		"left already":               {&lane{owner: "c1", paused: leftAlone}, false},
		"suspended, and told to few": {&lane{owner: "c1", paused: cannotOpen}, true},
	} {
		if got := test.lane.leaves(now, "c1"); got != test.leave {
			t.Errorf("%s: %v", name, got)
		}
	}
	l := lane{}
	l.pause(leftAlone)
	l.pause(cannotOpen)
	if l.unpause(leftAlone) || !l.isPaused() || !l.unpause(cannotOpen) || l.isPaused() {
		t.Error("one reason not to ask ends the other")
	}
}
