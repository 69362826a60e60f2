package jetbatch_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// overview is what a coordinator says of all that it knows; false when none answers.
func (c *cluster) overview(nc *nats.Conn) (o wire.Overview, ok bool) {
	m, err := nc.RequestWithContext(within(c.t), wire.CoordinatorPrefix+".overview", nil)
	return o, err == nil && json.Unmarshal(m.Data, &o) == nil
}

// serving returns the live workers of a kind and what they made together.
func (c *cluster) serving(nc *nats.Conn, kind string) (workers int, done uint64) {
	o, _ := c.overview(nc)
	for _, w := range o.Workers {
		if slices.Contains(w.Kinds, kind) {
			workers++
			done += w.Done
		}
	}
	return workers, done
}

// Workers of two versions of a data set, and one of a wire version that nobody knows, side by side: each runs what it
// understands and nothing else, and who waits for whom can be seen.
func TestVersionSkew(t *testing.T) {
	t.Parallel()
	old, next, unknown := wire.KindToken("numbers", 1), wire.KindToken("numbers", 2), "numbers-v1-w99"
	c := startCluster(t, 0)
	newer := c.start("worker-v2")
	beat, err := json.Marshal(wire.WorkerStatus{Worker: "from-the-future", Kinds: []string{unknown}, Slots: 4})
	if err != nil {
		t.Fatal(err)
	}
	nc := c.connect()
	eventually(t, "the coordinator hears both", func() bool {
		if err := nc.Publish(wire.WorkerPrefix+".from-the-future", beat); err != nil {
			t.Fatal(err)
		}
		a, _ := c.serving(nc, next)
		b, _ := c.serving(nc, unknown)
		return a == 1 && b == 1
	})

	// Nobody serves version 1 yet. The others take nothing, and the wait has a name.
	p := numbersParams{}
	b := c.open("train", p, func(cfg *client.Config) { cfg.Window = 8 })
	if err := b.Start(within(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the batcher waits for a worker of version 1", func() bool {
		s, err := b.Status(within(t))
		return err == nil && s.Fed > 0 && s.Workers == 0 && strings.Contains(s.Waiting, old)
	})

	// Upgraded half way: both versions are up, and the run goes on with the old one alone.
	c.start("worker")
	o := newOracle(t, p, schema.State{})
	o.take(b, 60)
	if _, done := c.serving(nc, next); done != 0 {
		t.Fatalf("workers of version 2 ran %d jobs of version 1", done)
	}

	// The old run ends, and all coordinators are replaced. The old worker is still there and has nothing to do.
	if err := b.Stop(within(t)); err != nil {
		t.Fatal(err)
	}
	c.coordinators[0].Terminate()
	c.start("coordinator-v2")
	eventually(t, "the new coordinator hears all", func() bool {
		o, ok := c.overview(nc)
		return ok && slices.Equal(o.Datasets, []string{next}) && len(o.Workers) >= 2
	})
	_, before := c.serving(nc, old)
	b = c.open("after", p)
	for state, n := (schema.State{}), 0; n < 60; n++ {
		step, err := b.Take(within(t), state)
		if err != nil {
			t.Fatal(err)
		}
		if state = step.Next; state.Version != 2 {
			t.Fatalf("state %v, want one of version 2", state)
		}
	}
	eventually(t, "the new worker counts what it made", func() bool {
		_, done := c.serving(nc, next)
		return done >= 60
	})
	if _, after := c.serving(nc, old); after != before {
		t.Fatalf("workers of version 1 ran %d jobs of version 2", after-before)
	}
	newer.Terminate()
}

// Not t.Parallel: it says how long a trainer may be kept waiting.
//
// Every worker and every coordinator is replaced, one by one, each told to stop when its successor is up. No batch is
// lost or differs, and none comes later than the lease.
func TestRollingReplacement(t *testing.T) {
	c := startCluster(t, 2)
	var workers []*proctest.Process
	for range 2 {
		workers = append(workers, c.start("worker"))
	}
	nc, kind := c.connect(), wire.KindToken("numbers", 1)
	// fleet waits until so many workers serve.
	fleet := func(n int) {
		t.Helper()
		eventually(t, "the workers are there", func() bool {
			serving, _ := c.serving(nc, kind)
			return serving == n
		})
	}
	fleet(4)
	p := numbersParams{DelayMS: 5}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	var longest time.Duration
	take := func(n int) {
		t.Helper()
		for range n {
			longest = max(longest, o.one(b).Timing.Wait)
		}
	}
	take(50)
	longest = 0 // of starting
	// retire ends a role and takes until it has ended, and then some.
	retire := func(p *proctest.Process) {
		t.Helper()
		p.Retire()
		for ended := false; !ended; {
			select {
			case <-p.Ended():
				ended = true
			default:
				take(5)
			}
		}
		take(50)
	}
	for _, w := range workers {
		c.start("worker")
		take(20)
		retire(w)
	}
	for range 2 {
		before := c.coordinators[len(c.coordinators)-1]
		c.start("coordinator")
		take(100)
		retire(before)
	}
	take(100)
	if longest > coordinator.DefaultLease {
		t.Fatalf("a batch came after %v, later than the lease of %v", longest, coordinator.DefaultLease)
	}
	t.Logf("%d batches; the longest wait was %v", o.taken, longest)
	if s, err := b.Status(within(t)); err != nil || s.Restarts != 0 {
		t.Fatalf("status %+v, %v: want a run that never began again", s, err)
	}
}
