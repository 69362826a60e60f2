package coordinator_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestEndOfData(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.params = []byte(`{"n":5}`)
	r.run(3)
	end := r.waitResult(6)
	if rec, _ := r.record(); rec.Verdict == nil || rec.Verdict.Seq != 6 || rec.Verdict.Fault != nil {
		t.Fatalf("the record, which is written before the result, says %+v", rec.Verdict)
	}
	if end.Kind != wire.KindEnd || !bytes.Equal(end.Prev, at(5).Data) || len(end.Next) != 0 {
		t.Fatalf("end: %+v", end)
	}
	r.work(2)
	if got := r.credit(5); got.Phase != schema.PhaseRunning {
		t.Fatalf("before the trainer has the end: %+v", got)
	}
	r.credit(6)
	r.wait("the run is done", func(s schema.Status) bool { return s.Phase == schema.PhaseDone })
	if got := r.must(wire.ModeSeek, at(5)); !got.Held || got.Position != 6 || got.Phase != schema.PhaseRunning {
		t.Fatalf("asked for the end again: %+v", got)
	}
	if got := r.must(wire.ModeSeek, at(2)); got.Phase != schema.PhaseRunning {
		t.Fatalf("another epoch: %+v", got)
	}
}

func TestIteratorFails(t *testing.T) {
	for name, test := range map[string]struct {
		next func(int) (count, count, error)
		code string
		says string
	}{
		"error": {func(int) (count, count, error) { return count{}, count{}, errors.New("shard lost") }, schema.CodeIterator, "shard lost"},
		"panic": {func(int) (count, count, error) { panic("bad index") }, schema.CodeIterator, "bad index"},
		"no return": {func(int) (count, count, error) {
			runtime.Goexit() // what t.FailNow does
			return count{}, count{}, nil
		}, schema.CodeIterator, "ended its goroutine"},
		// A truncated file is not the end of the data.
		"wrapped EOF":     {func(int) (count, count, error) { return count{}, count{}, fmt.Errorf("shard: %w", io.EOF) }, schema.CodeIterator, "shard"},
		"job too large":   {func(i int) (count, count, error) { return count{Pad: make([]byte, 2<<20)}, count{I: i + 1}, nil }, schema.CodeJobTooLarge, "2097"},
		"state too large": {func(i int) (count, count, error) { return count{}, count{Pad: make([]byte, 20<<10)}, nil }, schema.CodeStateTooLarge, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			c := setup(t)
			c.coordinate(coordinator.Config{}, &hooks{next: func(i int) (count, count, error) {
				if i == 4 {
					return test.next(i)
				}
				return count{I: i}, count{I: i + 1}, nil
			}})
			r := c.reader("train")
			r.run(2) // now eight more are asked for
			got := r.waitResult(5)
			if got.Kind != wire.KindError || got.Fault == nil || got.Fault.Code != test.code || got.Fault.Seq != 5 ||
				got.Fault.Gen != r.reply.Gen || !strings.Contains(got.Fault.Message, test.says) {
				t.Fatalf("got %+v, fault %+v", got, got.Fault)
			}
			if rec, _ := r.record(); rec.Verdict == nil || rec.Verdict.Seq != 5 || rec.Verdict.Fault.Code != test.code {
				t.Fatalf("the record says %+v", rec.Verdict)
			}
			if panics := name == "panic"; panics != strings.Contains(got.Fault.Stack, "end_test.go") {
				t.Fatalf("stack: %q", got.Fault.Stack)
			}
			r.waitJobs(3, 4)
			if s := r.status(); s.Fed != 4 || s.Phase != schema.PhaseRunning {
				t.Fatalf("status: %+v", s) // what came before the failure is still to be had
			}
			if reply := r.credit(4, func(c *wire.Credit) { c.Failed = got.Fault }); reply.Phase != schema.PhaseFailed || reply.Error.Code != test.code {
				t.Fatalf("after Take returned it: %+v", reply)
			}
			if stopped := r.stop(false); stopped.Error == nil || stopped.Error.Code != test.code {
				t.Fatalf("Stop does not report it: %+v", stopped)
			}
		})
	}
}

func TestStall(t *testing.T) {
	c := setup(t)
	gate, stuck := make(chan struct{}), make(chan struct{}, 1)
	h := &hooks{next: func(i int) (count, count, error) {
		if i == 2 {
			stuck <- struct{}{}
			<-gate
		}
		return count{I: i}, count{I: i + 1}, nil
	}}
	c.coordinate(coordinator.Config{Stall: 100 * time.Millisecond}, h)
	r, other := c.reader("stalls"), c.reader("works")
	r.run(1)
	<-stuck
	other.start(10)
	other.bytes = 8
	other.work(1)
	other.credit(1)
	other.waitJobs(2, 9)

	r.waitJobs(2, 2) // what was made before the stall is not held back by it
	got := r.waitResult(3)
	expectFault(t, got.Fault, schema.CodeIteratorStalled)

	close(gate) // what comes too late is not wanted
	natstest.Eventually(t, "the other batcher goes on", func() bool {
		other.work(1)
		s := other.status()
		other.credit(s.Taken + 1)
		return s.Taken > 12
	})
	if s := r.status(); s.Fed != 2 {
		t.Fatalf("fed behind the verdict: %+v", s)
	}
	r.waitJobs(2, 2)
}

func TestStartStalls(t *testing.T) {
	c := setup(t)
	gate := make(chan struct{})
	t.Cleanup(func() { close(gate) })
	c.coordinate(coordinator.Config{Stall: 50 * time.Millisecond}, &hooks{start: func() error { <-gate; return nil }})
	r := c.reader("train")
	r.must(wire.ModeOpen, schema.State{})
	expectFault(t, r.try(r.request(wire.ModeStart, schema.State{})).Fault, schema.CodeIteratorStalled)
	r.must(wire.ModeStart, at(0)) // the batcher is none the worse
}

// TestBusyBatcherHoldsUpNoOther floods a batcher whose data set does not open.
func TestBusyBatcherHoldsUpNoOther(t *testing.T) {
	c := setup(t)
	gate, opening := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(gate) })
	c.coordinate(coordinator.Config{}, &hooks{open: func(p params) error {
		if p.Shift == 1 {
			close(opening)
			<-gate
		}
		return nil
	}})
	good, slow := c.reader("good"), c.reader("slow")
	good.run(1)
	slow.run(1)
	slow.stop(true)
	if o := ask[wire.Overview](c, "overview", nil); len(o.Batchers) != 2 {
		t.Fatalf("overview: %+v", o)
	}
	slow.params = []byte(`{"shift":1}`)
	data := mustJSON(t, slow.request(wire.ModeOpen, schema.State{}))
	if err := c.nc.PublishRequest(wire.CoordinatorPrefix+".seat", c.nc.NewInbox(), data); err != nil {
		t.Fatal(err)
	}
	<-opening
	for range 1000 {
		if err := c.nc.Publish(wire.ReaderPrefix+".slow", mustJSON(t, wire.Credit{Reader: slow.id, Secret: slow.secret})); err != nil {
			t.Fatal(err)
		}
	}
	good.work(8)
	good.credit(9)
	good.waitJobs(10, 17)
	if o := ask[wire.Overview](c, "overview", nil); len(o.Batchers) != 2 || o.Batchers[0].Taken != 9 || o.Batchers[1].Taken != 1 {
		t.Fatalf("overview: %+v", o)
	}
}

// TestVerdictIsRetried ends the data while the record cannot be written.
func TestVerdictIsRetried(t *testing.T) {
	c := setup(t)
	gate, there := make(chan struct{}), make(chan struct{})
	c.coordinate(coordinator.Config{}, &hooks{next: func(i int) (count, count, error) {
		if i == 2 {
			close(there)
			<-gate
			return count{}, count{}, io.EOF
		}
		return count{I: i}, count{I: i + 1}, nil
	}})
	r := c.reader("train")
	r.run(1)
	<-there
	if err := c.js.DeleteStream(t.Context(), topology.BucketStream); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if end := r.waitResult(3); end.Kind != wire.KindEnd {
		t.Fatalf("got %+v", end)
	}
	if rec, _ := r.record(); rec.Verdict == nil || rec.Verdict.Seq != 3 {
		t.Fatalf("the record says %+v", rec.Verdict)
	}
}

func TestIdleBatcherIsCollected(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.settings.IdleTimeout = time.Nanosecond
	r.start(0)
	gen := r.reply.Gen
	natstest.Eventually(t, "the record is deleted", func() bool { _, ok := r.record(); return !ok })
	natstest.Eventually(t, "the generation is deleted", func() bool { return !c.stored(r.name, gen) })
	expectFault(t, ask[wire.StatusReply](c, "status", wire.StatusRequest{Batcher: r.name}).Fault, schema.CodeStopped)
	natstest.Eventually(t, "no marker of it is left in the bucket", func() bool {
		s, err := c.js.Stream(t.Context(), topology.BucketStream)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.GetLastMsgForSubject(t.Context(), "$KV."+topology.Bucket+"."+topology.BatcherKey(r.name))
		return errors.Is(err, jetstream.ErrMsgNotFound)
	})
	// A reader that was only paused comes back with its state.
	r.settings.IdleTimeout = 0
	if got := r.must(wire.ModeSeek, at(3)); got.Held || got.Position != 1 || !got.State.Equal(at(3)) {
		t.Fatalf("came back: %+v", got)
	}
}
