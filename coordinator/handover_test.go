package coordinator_test

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// mount is a folder that may be away; without it no data set opens.
type mount struct{ away atomic.Bool }

func (m *mount) hooks() *hooks {
	return &hooks{open: func(params) error {
		if m.away.Load() {
			return &fs.PathError{Op: "open", Path: "/data", Err: syscall.ENOENT}
		}
		return nil
	}}
}

// A run whose coordinator cannot open its data set goes to one that can, whenever there is one, and waits with a reason
// while there is none. It never fails.
func TestRunGoesToACoordinatorThatCanOpen(t *testing.T) {
	c := setup(t)
	var bad mount
	bad.away.Store(true)
	unfed := func(s schema.Status) bool {
		return strings.HasPrefix(s.Waiting, "coordinator bad cannot open data set count: ")
	}
	first := c.coordinate(coordinator.Config{Name: "first"}, new(mount).hooks())
	r := c.reader("train")
	r.run(2)
	c.coordinate(coordinator.Config{Name: "bad"}, bad.hooks())
	first.kill(t)
	r.wait("the run waits for a coordinator that can", func(s schema.Status) bool {
		return s.Owner == "bad" && unfed(s)
	})
	good := c.coordinate(coordinator.Config{Name: "good"}, new(mount).hooks())
	r.wait("the other feeds it", func(s schema.Status) bool { return s.Owner == "good" && s.Fed > s.Taken })
	r.work(1)
	r.credit(3)
	good.kill(t)
	r.wait("the first has it again", func(s schema.Status) bool { return s.Owner == "bad" && unfed(s) })
	bad.away.Store(false)
	r.wait("it comes back by itself", func(s schema.Status) bool { return s.Owner == "bad" && s.Fed > s.Taken && !unfed(s) })
	if rec, ok := r.record(); !ok || rec.Phase != schema.PhaseRunning || rec.Handed || rec.Gen != r.reply.Gen {
		t.Errorf("record %+v", rec)
	}
}

// An older program that does not know a parameter of the run is a coordinator that cannot open it.
func TestRunGoesPastAnOlderCoordinator(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first"}, new(hooks))
	r := c.reader("train")
	r.run(2)
	c.coordinate(coordinator.Config{Name: "older"}, &hooks{open: func(params) error {
		return fmt.Errorf("%w: unknown field \"stride\"", kind.ErrBadParams)
	}})
	first.kill(t)
	r.wait("the run waits with the reason", func(s schema.Status) bool {
		return s.Owner == "older" && s.Phase == schema.PhaseRunning && strings.Contains(s.Waiting, `unknown field "stride"`)
	})
	c.coordinate(coordinator.Config{Name: "newer"}, new(hooks))
	r.wait("the newer one feeds it", func(s schema.Status) bool { return s.Owner == "newer" && s.Fed > s.Taken })
}

// A trainer whose parameters an older program does not know is given to a newer one, as is one whose data set an older
// program does not have. What no coordinator takes is refused with what each of them says.
func TestOpenGoesPastAnOlderCoordinator(t *testing.T) {
	c := setup(t)
	var away mount
	older := dataset.Define("count", func(context.Context, struct{ N int }) (counter, error) {
		return counter{hooks: new(hooks)}, nil
	})
	another := dataset.Define("other", func(context.Context, params) (counter, error) { return counter{hooks: new(hooks)}, nil })
	c.coordinateWith(coordinator.Config{Name: "another"}, another)
	c.coordinateWith(coordinator.Config{Name: "older"}, older)
	c.coordinate(coordinator.Config{Name: "newer"}, away.hooks())
	for _, name := range []string{"another", "older", "newer"} {
		natstest.Eventually(t, name+" answers", func() bool {
			_, err := c.nc.Request(wire.CoordinatorPrefix+"."+name+".overview", nil, time.Second)
			return err == nil
		})
	}
	for i := range 12 {
		r := c.reader(fmt.Sprint("train-", i))
		r.params = []byte(`{"shift":3}`)
		r.start(0)
		if s := r.status(); s.Owner != "newer" || s.Phase != schema.PhaseRunning {
			t.Errorf("status %+v", s)
		}
	}
	away.away.Store(true)
	for i := range 4 {
		r := c.reader(fmt.Sprint("nobody-", i))
		r.params = []byte(`{"shift":4}`)
		fault := r.try(r.request(wire.ModeOpen, schema.State{})).Fault
		expectFault(t, fault, schema.CodeBadParams)
		for _, said := range []string{`unknown field "shift"`, "/data", "at coordinator"} {
			if !strings.Contains(fault.Message, said) {
				t.Errorf("%q does not say %s", fault.Message, said)
			}
		}
	}
}

// A trainer's Open goes to a coordinator that can open the data set, and what none can is refused by the last of them.
func TestOpenGoesToACoordinatorThatCan(t *testing.T) {
	c := setup(t)
	var bad mount
	bad.away.Store(true)
	c.coordinate(coordinator.Config{Name: "bad"}, bad.hooks())
	c.coordinate(coordinator.Config{Name: "good"}, &hooks{open: func(p params) error {
		if p.Shift == 7 {
			return fmt.Errorf("%w: 7 is no shift", kind.ErrBadParams)
		}
		return nil
	}})
	natstest.Eventually(t, "the good one answers", func() bool {
		_, err := c.nc.Request(wire.CoordinatorPrefix+".good.overview", nil, time.Second)
		return err == nil
	})
	for i := range 12 {
		r := c.reader(fmt.Sprint("train-", i))
		r.start(0)
		if s := r.status(); s.Owner != "good" || s.Phase != schema.PhaseRunning {
			t.Errorf("status %+v", s)
		}
	}
	r := c.reader("typo")
	r.params = []byte(`{"shift":7}`)
	began := time.Now()
	expectFault(t, r.try(r.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeBadParams)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("refused after %v", took)
	}
}

// TestHandedByAnotherClock hands a batcher over with a mark by a clock that is an hour behind: with the mark as it is,
// the new owner could hand the batcher back at once.
func TestHandedByAnotherClock(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first"}, new(mount).hooks())
	r := c.reader("train")
	r.run(2)
	first.kill(t)
	rec, ok := r.record()
	if !ok {
		t.Fatal("no record")
	}
	rec.Owner, rec.Handed = "second", true
	rec.Unfed = []wire.Unfed{{Coordinator: "first", At: time.Now().Add(-time.Hour)}}
	c.put(c.bucket(), rec)
	c.coordinate(coordinator.Config{Name: "second"}, new(mount).hooks())
	natstest.Eventually(t, "the second has it", func() bool {
		rec, ok = r.record()
		return ok && rec.Owner == "second" && !rec.Handed
	})
	if len(rec.Unfed) != 1 || time.Since(rec.Unfed[0].At) > time.Minute {
		t.Errorf("marks are %v", rec.Unfed)
	}
}

// A coordinator that is restarted under its name without the data set of its batchers, or with another version of it,
// hands them to one that can feed them, whichever of the two comes first. So an upgrade one by one ends no run early.
func TestRestartedWithOtherDatasets(t *testing.T) {
	others := map[string]dataset.Definition{
		"without it":      dataset.Define("other", func(context.Context, params) (counter, error) { return counter{hooks: new(hooks)}, nil }),
		"another version": counting(new(hooks)).WithVersion(2),
	}
	for name, other := range others {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			first := c.coordinate(coordinator.Config{Name: "first"}, new(hooks))
			c.coordinate(coordinator.Config{Name: "second"}, new(hooks))
			readers := []*reader{c.reader("a"), c.reader("b"), c.reader("c"), c.reader("d")}
			for _, r := range readers {
				r.run(2)
			}
			first.kill(t)
			c.coordinateWith(coordinator.Config{Name: "first"}, other)
			for _, r := range readers {
				r.wait("the second feeds it", func(s schema.Status) bool { return s.Owner == "second" && s.Fed > s.Taken })
				if rec, ok := r.record(); !ok || rec.Phase != schema.PhaseRunning || rec.Gen != r.reply.Gen {
					t.Errorf("record %+v", rec)
				}
			}
		})
	}
}

// What the others do not have either stays with its reason, until one comes that has it.
func TestRestartedWithoutTheDatasetAlone(t *testing.T) {
	c := setup(t)
	first := c.coordinate(coordinator.Config{Name: "first"}, new(hooks))
	r := c.reader("train")
	r.run(2)
	first.kill(t)
	c.coordinateWith(coordinator.Config{Name: "first"},
		dataset.Define("other", func(context.Context, params) (counter, error) { return counter{hooks: new(hooks)}, nil }))
	natstest.Eventually(t, "it says why nothing comes", func() bool {
		reply := ask[wire.StatusReply](c, "status", wire.StatusRequest{Batcher: r.name})
		return reply.Fault == nil && reply.Status.Waiting == "no coordinator has data set count"
	})
	c.coordinate(coordinator.Config{Name: "second"}, new(hooks))
	r.wait("the second feeds it", func(s schema.Status) bool { return s.Owner == "second" && s.Fed > s.Taken })
	if rec, ok := r.record(); !ok || rec.Phase != schema.PhaseRunning || rec.Gen != r.reply.Gen {
		t.Errorf("record %+v", rec)
	}
}
