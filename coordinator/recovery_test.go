package coordinator_test

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const lease = 2500 * time.Millisecond // leases are renewed every second

// keepUp waits while the reader says how far it came, as it does every second: the record may be a few batches behind.
func (r *reader) keepUp(taken uint64, what string, condition func(schema.Status) bool) {
	r.t.Helper()
	r.wait(what, func(s schema.Status) bool {
		r.credit(taken)
		return condition(s)
	})
}

func TestRestart(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(4)
	r.waitJobs(5, 12)
	if done := r.work(3); !slices.Equal(done, []uint64{5, 6, 7}) {
		t.Fatal(done)
	}
	seat := r.reply
	first.kill(t)

	c.coordinate(coordinator.Config{Name: "second", Lease: lease}, new(hooks))
	r.keepUp(4, "the second has iterated to the end of the window", func(s schema.Status) bool { return s.Owner == "second" && s.Fed == 12 })
	if got := r.credit(4); got.Gen != seat.Gen || got.Seat != seat.Seat || got.Reader != r.id || got.Window != 8 {
		t.Fatalf("the reader notices: %+v", got)
	}
	r.waitJobs(8, 12) // nothing that has a result is made again
	if s := r.status(); s.Reissued != 0 || s.Restarts != 0 {
		t.Fatalf("status: %+v", s)
	}
	if got := r.must(wire.ModeSeek, at(1)); !got.Held || got.Position != 2 {
		t.Fatalf("look-ups work again: %+v", got)
	}
	r.work(5)
	r.credit(12)
	r.waitJobs(13, 20)
}

// TestTakeoverBehindTheTrainer takes over a run of small batches, whose record is a window and more behind its trainer:
// the results show how far it may have come, and what it asks for there is held.
func TestTakeoverBehindTheTrainer(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.start(0)
	begun, _ := r.record()
	r.read(12)
	r.waitJobs(13, 20)
	r.work(8)
	gen := r.reply.Gen
	first.kill(t)
	begun.BatchBytes = r.bytes // else its window is that of batches of unknown size
	c.put(c.bucket(), begun)   // on a slow machine the first owner has recorded progress, which it does once a second

	c.coordinate(coordinator.Config{Name: "second", Lease: lease}, new(hooks))
	r.wait("the second has iterated again", func(s schema.Status) bool { return s.Owner == "second" && s.Fed == 20 })
	if got := r.must(wire.ModeSeek, at(20)); !got.Held || got.Gen != gen || got.Position != 21 {
		t.Fatalf("the trainer's state is not held: %+v", got)
	}
	r.waitJobs(21, 28)
}

// TestRestartAtVerdict restarts a coordinator whose run had ended.
func TestRestartAtVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		then func(int) error // what Next returns at 3 after the restart
		kind wire.Kind
	}{
		"the same":            {func(int) error { return io.EOF }, wire.KindEnd},
		"no longer the same":  {func(int) error { return errors.New("late") }, wire.KindEnd},
		"no longer an ending": {func(int) error { return nil }, wire.KindEnd},
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			next := func(ending func(int) error) func(int) (count, count, error) {
				return func(i int) (count, count, error) {
					if i == 3 {
						return count{I: i}, count{I: i + 1}, ending(i)
					}
					return count{I: i}, count{I: i + 1}, nil
				}
			}
			first := c.coordinate(coordinator.Config{Name: "same"}, &hooks{next: next(func(int) error { return io.EOF })})
			r := c.reader("train")
			r.run(2)
			r.waitResult(4)
			first.kill(t)
			c.coordinate(coordinator.Config{Name: "same"}, &hooks{next: next(test.then)})
			r.wait("the run is back", func(s schema.Status) bool { return s.Fed == 3 })
			r.waitJobs(3, 3)
			if got := r.waitResult(4); got.Kind != test.kind {
				t.Fatalf("got %+v", got)
			}
			r.work(1)
			r.credit(4)
			r.wait("the run is done", func(s schema.Status) bool { return s.Phase == schema.PhaseDone })
		})
	}
}

// TestRestartFindsAnotherIterator restarts over a data set that yields less than it did.
func TestRestartFindsAnotherIterator(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "same"}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(4)
	first.kill(t)
	c.coordinate(coordinator.Config{Name: "same"}, &hooks{next: func(i int) (count, count, error) {
		if i == 2 {
			return count{}, count{}, io.EOF
		}
		return count{I: i}, count{I: i + 1}, nil
	}})
	r.wait("the run failed instead of waiting for ever", func(s schema.Status) bool { return s.Phase == schema.PhaseFailed })
	expectFault(t, r.status().Error, schema.CodeIterator)
	if got := r.credit(4); got.Phase != schema.PhaseFailed || got.Error == nil {
		t.Fatalf("the reader hears %+v", got)
	}
}

func TestHalfMadeGeneration(t *testing.T) {
	for name, undo := range map[string]func(t *testing.T, c *cluster, r *reader) error{
		"without consumer": func(t *testing.T, c *cluster, r *reader) error {
			return c.js.DeleteConsumer(t.Context(), topology.JobsStream, topology.Consumer(r.name, r.reply.Gen))
		},
		"without genesis": func(t *testing.T, c *cluster, r *reader) error {
			s, err := c.js.Stream(t.Context(), topology.ResultsStream(r.name, r.reply.Gen))
			if err != nil {
				return err
			}
			return s.Purge(t.Context())
		},
		"with another's genesis": func(t *testing.T, c *cluster, r *reader) error {
			s, err := c.js.Stream(t.Context(), topology.ResultsStream(r.name, r.reply.Gen))
			if err != nil {
				return err
			}
			if err := s.Purge(t.Context()); err != nil {
				return err
			}
			_, err = c.js.Publish(t.Context(), wire.GenesisSubject(r.name, r.reply.Gen), wire.Genesis("ANOTHER"))
			return err
		},
		"without store": func(t *testing.T, c *cluster, r *reader) error {
			return c.js.DeleteStream(t.Context(), topology.ResultsStream(r.name, r.reply.Gen))
		},
		"without job stream": func(t *testing.T, c *cluster, r *reader) error {
			return c.js.DeleteStream(t.Context(), topology.JobsStream)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			first := c.coordinate(coordinator.Config{Name: "same"}, new(hooks))
			r := c.reader("train")
			r.start(7)
			first.kill(t)
			if err := undo(t, c, r); err != nil {
				t.Fatal(err)
			}
			c.coordinate(coordinator.Config{Name: "same"}, new(hooks))
			r.wait("the run is set up", func(s schema.Status) bool { return s.Fed == 1 })
			if got := r.must(wire.ModeSeek, at(7)); got.Position != 1 || !got.Held {
				t.Fatalf("got %+v", got)
			}
			r.work(1)
			r.waitResult(1)
		})
	}
}

func TestLostStore(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(3)
	before := r.reply
	if err := c.js.DeleteStream(t.Context(), topology.ResultsStream(r.name, before.Gen)); err != nil {
		t.Fatal(err)
	}
	var got wire.CreditReply
	natstest.Eventually(t, "the store is missed", func() bool { got = r.credit(3, late); return got.Gen != before.Gen })
	if got.Seat != before.Seat || got.Reader != r.id || got.Phase != schema.PhaseRunning {
		t.Fatalf("got %+v", got)
	}
	r.wait("the new generation is fed", func(s schema.Status) bool { return s.Restarts == 1 && s.Taken == 0 })
	r.wait("what was taken counts on, in all and in the data", func(s schema.Status) bool {
		return s.Total == 3 && s.Progress != nil && s.Progress.Batch == 3
	})
	// The reader comes back with its own state, which is where the new generation begins.
	if seat := r.must(wire.ModeSeek, at(3)); !seat.Held || seat.Gen != got.Gen || seat.Position != 1 {
		t.Fatalf("seat: %+v", seat)
	}
	r.waitJobs(1, 8)
	natstest.Eventually(t, "consumer and jobs of the lost generation are deleted", func() bool {
		_, err := c.js.Consumer(t.Context(), topology.JobsStream, topology.Consumer(r.name, before.Gen))
		return errors.Is(err, jetstream.ErrConsumerNotFound)
	})
}

func TestLateHead(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(1)
	r.waitJobs(2, 9)
	r.work(1)
	jobs, err := c.js.Stream(t.Context(), topology.JobsStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := jobs.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.js.DeleteConsumer(t.Context(), topology.JobsStream, topology.Consumer(r.name, r.reply.Gen)); err != nil {
		t.Fatal(err)
	}
	r.credit(1, late)
	r.waitJobs(3, 9)
	r.wait("the stream has confirmed them", func(s schema.Status) bool { return s.Reissued == 7 })
	for range 20 { // however often the reader says so, the store is not asked each time
		r.credit(1, late)
	}
	if s := r.status(); s.Reissued != 7 {
		t.Fatalf("jobs that are queued were published again: %+v", s)
	}
	if done := r.work(7); !slices.Equal(done, []uint64{3, 4, 5, 6, 7, 8, 9}) {
		t.Fatal(done)
	}
}

// TestLostPayload has a reader say that a result is of no use.
func TestLostPayload(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(1)
	r.waitJobs(2, 9)
	r.work(3)
	before, _ := r.result(3)
	lost := func(seq uint64, attempt string) func(*wire.Credit) {
		return func(c *wire.Credit) { c.Lost = append(c.Lost, wire.Lost{Seq: seq, Attempt: attempt}) }
	}
	taken, _ := r.result(1)
	r.credit(1, lost(3, "another"), lost(1, taken.Attempt), lost(8, "none"), lost(99, "none"))
	if after, ok := r.result(3); !ok || after.Attempt != before.Attempt {
		t.Fatalf("removed on account of another attempt: %+v", after)
	}
	natstest.Eventually(t, "its job is queued again", func() bool {
		r.credit(1, lost(3, before.Attempt)) // a reader says it with every credit
		return r.jobs()[3]
	})
	if _, ok := r.result(3); ok {
		t.Fatal("the lost result is there still")
	}
	for range 3 { // said again until it is made
		r.credit(1, lost(3, before.Attempt))
	}
	natstest.Eventually(t, "its job is known to be stored", func() bool { return r.status().Reissued > 0 })
	if s := r.status(); s.Reissued != 1 {
		t.Fatalf("status: %+v", s)
	}
	r.work(6)
	after, ok := r.result(3)
	if !ok || after.Attempt == before.Attempt {
		t.Fatalf("not made again: %+v", after)
	}
	r.credit(1, lost(3, before.Attempt)) // late
	if still, ok := r.result(3); !ok || still.Attempt != after.Attempt {
		t.Fatal("the second result went, too")
	}
}

func TestWipedBucket(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(2)
	if err := c.js.DeleteStream(t.Context(), topology.BucketStream); err != nil {
		t.Fatal(err)
	}
	got := r.must(wire.ModeSeek, at(2))
	if !got.State.Equal(at(2)) {
		t.Fatalf("got %+v", got)
	}
	rec, ok := r.record()
	if !ok || rec.Gen != got.Gen || rec.Reader != r.id || rec.Seat != got.Seat {
		t.Fatalf("record: %+v", rec)
	}
	for range 3 {
		r.work(1)
		r.credit(r.status().Taken + 1)
	}
}

func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	nc, js := srv.JetStream()
	c := &cluster{t, srv, nc, js}
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(3)
	before := r.reply
	srv.Restart()
	natstest.Reconnected(t, nc)
	natstest.Eventually(t, "the run began again", func() bool { return r.credit(3, late).Gen != before.Gen })
	got := r.must(wire.ModeSeek, at(3))
	if !got.State.Equal(at(3)) {
		t.Fatalf("got %+v", got)
	}
	r.work(1)
	r.credit(got.Position)
	if s := r.status(); s.Taken != got.Position {
		t.Fatalf("status: %+v", s)
	}
}

func TestTwoCoordinators(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: lease}, new(hooks))
	r := c.reader("train")
	r.run(2)
	second := c.coordinate(coordinator.Config{Name: "second", Lease: lease}, new(hooks))
	for range 20 { // whoever is asked, the owner answers
		if s := r.status(); s.Owner != "first" {
			t.Fatalf("status: %+v", s)
		}
	}
	// A batcher of a coordinator that has just begun is not taken for a dead one's.
	late := c.reader("late")
	late.start(0)
	owner := late.status().Owner
	for range 20 {
		if s := late.status(); s.Owner != owner {
			t.Fatalf("owner %s, now %s", owner, s.Owner)
		}
	}

	first.kill(t)
	r.keepUp(2, "the second takes over when the lease has run out", func(s schema.Status) bool { return s.Owner == "second" && s.Fed == 10 })
	r.work(8)
	r.credit(10)
	r.waitJobs(11, 18)

	third := c.coordinate(coordinator.Config{Name: "third", Lease: time.Hour}, new(hooks))
	second.stop(t) // gives up its lease, so that nobody waits an hour
	r.keepUp(10, "the third goes on", func(s schema.Status) bool { return s.Owner == "third" && s.Fed == 18 })
	third.stop(t)
}

// TestKilledCoordinatorIsMissed has leases that say nothing for an hour: the server knows sooner who is gone.
func TestKilledCoordinatorIsMissed(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first", Lease: time.Hour}, new(hooks))
	r := c.reader("train")
	r.run(2)
	c.coordinate(coordinator.Config{Name: "second", Lease: time.Hour}, new(hooks))
	pings, err := c.nc.SubscribeSync(wire.CoordinatorPrefix + ".first.ping")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the answer to the first has been heard when the second comes
		if _, err := pings.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := pings.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	first.kill(t)
	r.keepUp(2, "the second takes over", func(s schema.Status) bool { return s.Owner == "second" && s.Fed == 10 })
}

// TestDeposedOwner names another owner behind the back of one that is alive.
func TestDeposedOwner(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{Name: "paused"}, new(hooks))
	r := c.reader("train")
	r.run(2)
	kv, err := c.js.KeyValue(t.Context(), topology.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), topology.CoordinatorKey("ghost"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "there is nothing left to save", func() bool { rec, _ := r.record(); return rec.Taken == 2 })
	natstest.Eventually(t, "the record names another owner", func() bool {
		e, err := kv.Get(t.Context(), topology.BatcherKey(r.name))
		if err != nil {
			return false
		}
		rec, _ := r.record()
		rec.Owner = "ghost"
		_, err = kv.Update(t.Context(), topology.BatcherKey(r.name), mustJSON(t, rec), e.Revision())
		return err == nil
	})
	// No credit makes it look, and yet it finds out; then it takes over again, since the ghost's lease stands still.
	sub, err := c.nc.SubscribeSync(wire.LanePrefix + "." + r.name)
	if err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "it falls silent", func() bool {
		_, err := sub.NextMsg(1500 * time.Millisecond)
		return err != nil
	})
	r.keepUp(2, "it is the owner again", func(s schema.Status) bool { return s.Owner == "paused" && s.Fed == 10 })
	if s := r.status(); s.Gen != r.reply.Gen || s.Seat != r.reply.Seat {
		t.Fatalf("status: %+v", s)
	}
}

// TestOrphansAreCollected leaves what an owner leaves that dies at the wrong moment, or is deposed.
func TestOrphansAreCollected(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "same"}, new(hooks))
	r := c.reader("train")
	r.start(0)
	first.kill(t)
	kind := wire.KindToken("count", 1)
	if err := topology.CreateGeneration(t.Context(), c.js, kind, r.name, "OLD"); err != nil { // of a batcher that runs
		t.Fatal(err)
	}
	if err := topology.CreateGeneration(t.Context(), c.js, kind, "gone", "LOST"); err != nil {
		t.Fatal(err)
	}
	if err := c.js.DeleteStream(t.Context(), topology.ResultsStream("gone", "LOST")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.js.Publish(t.Context(), wire.JobSubject(kind, "gone", "LATE", 1, 0), []byte("job")); err != nil {
		t.Fatal(err)
	}
	c.coordinate(coordinator.Config{Name: "same"}, new(hooks))
	natstest.Eventually(t, "all of it is deleted", func() bool {
		jobs, err := c.js.Stream(t.Context(), topology.JobsStream)
		if err != nil {
			t.Fatal(err)
		}
		info, err := jobs.Info(t.Context(), jetstream.WithSubjectFilter(wire.JobFilter(kind, "gone", "*")))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.js.Consumer(t.Context(), topology.JobsStream, topology.Consumer("gone", "LOST"))
		return !c.stored(r.name, "OLD") && len(info.State.Subjects) == 0 && errors.Is(err, jetstream.ErrConsumerNotFound)
	})
	if !c.stored(r.name, r.reply.Gen) {
		t.Fatal("the generation that runs was deleted")
	}
	r.work(1)
}
