package jetbatch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/proctest"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// waitBeforeWorkers is how long a Take may wait for a worker that does not come.
const waitBeforeWorkers = 3 * time.Second

// killCoordinators kills every coordinator that was started but the given one.
func (c *cluster) killCoordinators(but *proctest.Process) {
	for _, p := range c.coordinators {
		if p != but {
			p.Kill()
		}
	}
}

// P4: what is outstanding is bounded by the window, whatever the trainer does.
func TestP4Bounded(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	p := testset.Params{}
	const window = 8
	b := c.open("train", p, func(cfg *client.Config) { cfg.Window, cfg.Retain = window, -1 })
	js, err := jetstream.New(c.connect())
	if err != nil {
		t.Fatal(err)
	}
	o := newOracle(t, p, schema.State{})
	for range 4 {
		o.take(b, 50)
		// A trainer that takes nothing: the service comes to rest with the window full and no more.
		eventually(t, "the window is full", func() bool {
			s, err := b.Status(within(t))
			return err == nil && s.Fed == s.Taken+window
		})
		s, err := b.Status(within(t))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(within(t), "jetbatch-results-train-"+s.Gen)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "taken results are dropped", func() bool {
			info, err := stream.Info(within(t))
			return err == nil && info.State.Msgs <= window+wire.BlockSize+1
		})
	}
}

// P4: a batch of 100 MB arrives whole.
func TestP4LargeBatch(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{N: 2, Size: 100 << 20}
	b := c.open("large", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 2)
	o.eof(b)
}

// P5: a second holder is refused; one that takes over fences the first.
func TestP5TakeOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	p := testset.Params{}
	first := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(first, 20)
	if _, err := c.tryOpen("train", p); !errors.Is(err, client.ErrInUse) {
		t.Fatalf("second Open: %v, want ErrInUse", err)
	}
	takeOver := func(cfg *client.Config) { cfg.TakeOver = true }
	if _, err := c.tryOpen("train", testset.Params{N: 5}, takeOver); !errors.Is(err, client.ErrSpecMismatch) {
		t.Fatalf("Open with other parameters: %v, want ErrSpecMismatch", err)
	}
	o.take(first, 5)
	second := c.open("train", p, takeOver)
	o2 := newOracle(t, p, o.State)
	o2.take(second, 20)
	eventually(t, "the first is superseded", func() bool {
		_, err := first.Take(within(t), o.State)
		if err == nil {
			o.State = schema.State{}
		}
		return errors.Is(err, client.ErrSuperseded)
	})
	o2.take(second, 20)
}

// P5: a trainer that was killed is not waited for by the one that follows it on the same machine.
func TestP5KilledTrainer(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	first := c.start("trainer")
	eventually(t, "the first holds the batcher", func() bool { return strings.Contains(first.Log(), "holds the batcher") })
	if _, err := c.tryOpen("train", testset.Params{}); !errors.Is(err, client.ErrInUse) {
		t.Fatalf("Open while it lives: %v, want ErrInUse", err)
	}
	first.Kill()
	b := c.open("train", testset.Params{})
	newOracle(t, testset.Params{}, schema.State{}).take(b, 20)
}

// P5: a coordinator that is frozen and owns nothing is in nobody's way.
func TestP5FrozenCoordinator(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	b := c.open("train", testset.Params{})
	o := newOracle(t, testset.Params{}, schema.State{})
	o.take(b, 20)
	second := c.start("coordinator")
	eventually(t, "the second answers", func() bool { return strings.Contains(second.Log(), "coordinator runs") })
	second.Pause()
	for i := range 8 { // some of these would be sent to it alone
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // it would be waited for for 5 s
		other, err := client.Open[schema.Batch](ctx, c.connect(), client.Config{
			Name: fmt.Sprintf("other-%d", i), Dataset: "numbers", Params: testset.Params{},
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
	}
	o.take(b, 20)
	second.Resume()
	o.take(b, 20)
}

// P5: a worker, and then a coordinator, that was paused past every lease does no harm when it wakes.
func TestP5PausedRolesDoNoHarm(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	sleeper := c.start("worker")
	p := testset.Params{Delay: 5 * time.Millisecond}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 30)
	sleeper.Pause()
	o.take(b, 100) // past the worker's jobs, which others had to do
	sleeper.Resume()
	o.take(b, 50)

	paused := c.coordinators[0]
	paused.Pause()
	c.start("coordinator")
	o.take(b, 50)
	unknown, err := schema.NewState(testset.Position{I: 500, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	o = newOracle(t, p, unknown) // only a live owner can re-seat
	o.take(b, 20)
	paused.Resume()
	o.take(b, 100)
}

// P6: workers join and leave under load; a drained worker costs nothing.
func TestP6Elastic(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{Delay: 3 * time.Millisecond}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 20)
	for range 3 {
		w := c.start("worker")
		o.take(b, 40)
		w.Terminate()
		o.take(b, 20)
	}
	eventually(t, "the one worker that is left is known", func() bool {
		s, err := b.Status(within(t))
		return err == nil && s.Workers == 1
	})
}

// P7: where the trainer's time goes is measured per batch.
func TestP7SaidPlainly(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	p := testset.Params{Delay: 50 * time.Millisecond}
	b := c.open("train", p)
	var sum schema.Timing
	var state schema.State
	for range 20 {
		step, err := b.Take(within(t), state)
		if err != nil {
			t.Fatal(err)
		}
		state = step.Next
		if step.Timing.Materialize < 50*time.Millisecond {
			t.Fatalf("materialized in %v, want at least 50ms", step.Timing.Materialize)
		}
		if step.Worker == "" || step.Deliveries == 0 {
			t.Fatalf("step says nothing of who made it: %+v", step)
		}
		sum.Add(step.Timing)
	}
	// Two slots of 50 ms feed a trainer that does nothing else: it waits, and says so.
	if sum.Wait < sum.Trainer {
		t.Fatalf("waited %v, trained %v: the trainer does nothing but wait", sum.Wait, sum.Trainer)
	}
	eventually(t, "status has the sums", func() bool {
		s, err := b.Status(within(t))
		return err == nil && s.Timing.Materialize >= 20*50*time.Millisecond
	})
}

// Many batchers at once, with different parameters, none starving another.
func TestManyBatchers(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	slow := c.open("slow", testset.Params{Delay: 200 * time.Millisecond})
	if err := slow.Start(within(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for name, p := range map[string]testset.Params{
		"train": {N: 60}, "valid": {N: 60, Delay: time.Millisecond}, "large": {N: 40, Size: 1_200_000}, "holes": {N: 60, HoleEvery: 3},
	} {
		b := c.open(name, p)
		wg.Go(func() {
			o := newOracle(t, p, schema.State{})
			n := int(p.N)
			if p.HoleEvery > 0 {
				n -= n / int(p.HoleEvery)
			}
			for range n {
				got, err := b.Take(within(t), o.State)
				if err := o.Check(got, err); err != nil {
					t.Errorf("batcher %s: %v", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	newOracle(t, testset.Params{}, schema.State{}).take(slow, 3)
}

// The store is deleted under way: the run goes on from what the trainer has.
func TestP1StoreDeleted(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	p := testset.Params{Delay: 1 * time.Millisecond}
	b := c.open("train", p)
	o := newOracle(t, p, schema.State{})
	o.take(b, 30)
	js, err := jetstream.New(c.connect())
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(within(t), "jetbatch-results-train-"+c.generation(t, b)); err != nil {
		t.Fatal(err)
	}
	o.take(b, 60)
	if err := js.DeleteConsumer(within(t), "jetbatch-jobs", "jetbatch-train-"+c.generation(t, b)); err != nil {
		t.Fatal(err)
	}
	o.take(b, 60)
	lister := js.StreamNames(within(t))
	var names []string
	for name := range lister.Name() {
		names = append(names, name)
		if err := js.DeleteStream(within(t), name); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(strings.Join(names, " "), "KV_jetbatch") {
		t.Fatalf("streams %v", names)
	}
	o.take(b, 60)
}
