package coordinator_test

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func straggles(c *wire.Credit) { c.Straggles = true }

// tries is how many jobs of seq are queued or running.
func (r *reader) tries(seq uint64) int {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), topology.JobsStream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context(), jetstream.WithSubjectFilter(wire.TriesFilter("*", r.name, r.reply.Gen, seq)))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(info.State.Subjects)
}

func (c *cluster) beatWorker(name string) {
	c.t.Helper()
	beat := schema.WorkerStatus{Worker: name, Kinds: []string{wire.KindToken("count", 1)}, Slots: 1}
	if err := c.nc.Publish(wire.WorkerPrefix+"."+name, mustJSON(c.t, beat)); err != nil {
		c.t.Fatal(err)
	}
}

func TestStragglerIsBackedUp(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(1)
	r.waitJobs(2, 9)

	r.credit(1, straggles)
	if s := r.status(); s.Backups != 0 || r.tries(2) != 1 {
		t.Fatalf("backed up without a second worker: %d tries, %+v", r.tries(2), s)
	}
	r.wait("two workers are there", func(s schema.Status) bool {
		c.beatWorker("a")
		c.beatWorker("b")
		return s.Workers == 2
	})
	r.credit(0, straggles) // of a head that is taken
	for range 10 {
		r.credit(1, straggles) // said again and again, it is done once
	}
	r.wait("the head is backed up", func(s schema.Status) bool { return s.Backups == 1 && r.tries(2) == 2 })
	if r.tries(3) != 1 {
		t.Fatal("a batch that is not the head is backed up")
	}
	r.work(1) // the first job; the backup is still queued
	r.credit(2)
	r.wait("the backup is gone with the head", func(schema.Status) bool { return r.tries(2) == 0 })
	if s := r.status(); s.Backups != 1 || s.Reissued != 0 {
		t.Fatalf("status: %+v", s)
	}
}

func TestResultThatComesAfterItWasDroppedIsSweptAway(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = -1
	r.settings.WindowBytes = 1 << 34
	r.start(0)
	r.bytes = 1 << 30 // large batches are dropped one by one
	for i := range 4 {
		r.work(1)
		r.credit(uint64(i + 1))
	}
	r.wait("results are dropped", func(schema.Status) bool { rec, _ := r.record(); return rec.Floor >= 3 })
	job, err := wire.AppendResult(nil, &wire.Result{Seq: 2, Kind: wire.KindHole, Attempt: "late", Worker: "w"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.Publish(t.Context(), wire.ResultSubject(r.name, r.reply.Gen, 2), job); err != nil {
		t.Fatal(err)
	}
	first.stop(t) // the next owner looks at once
	c.coordinate(coordinator.Config{}, new(hooks))
	r.wait("the late result is dropped", func(schema.Status) bool { return !r.results()[2] })
}
