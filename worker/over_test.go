package worker

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// over tells workers that the current generation is over.
func (o *owner) over() {
	o.mu.Lock()
	gen := o.gen
	o.mu.Unlock()
	o.hint(wire.Lane{Batcher: o.batcher, Gen: gen, Kind: o.kind(), Over: true})
}

// ends are the ways in which a generation can be over by the record.
var ends = map[string]struct {
	change func(o *owner)
	cause  error
}{
	"closed": {func(o *owner) { o.record(schema.PhaseClosed) }, errOver},
	"failed": {func(o *owner) { o.record(schema.PhaseFailed) }, errOver},
	"done":   {func(o *owner) { o.record(schema.PhaseDone) }, errDone},
	"another generation": {func(o *owner) {
		o.recordOf(ulid.Make().String(), schema.PhaseRunning) // is not begun: all that workers can hear of it is in the record
	}, errOver},
	"collected": {func(o *owner) {
		kv, err := topology.OpenBucket(o.t.Context(), o.js)
		if err == nil {
			err = kv.Delete(o.t.Context(), topology.BatcherKey(o.batcher))
		}
		if err != nil {
			o.t.Fatal(err)
		}
	}, errOver},
}

// A generation that is over keeps no slot, whatever its jobs would take, with the owner's hint or without.
func TestRunThatIsOverFreesItsSlots(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	for name, end := range ends {
		for how, within := range map[string]time.Duration{"hint": topology.AckWait / 2, "silence": 2 * topology.AckWait} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				batcher := ulid.Make().String()
				o := newOwner(t, s, batcher, batcher)
				causes := make(chan error, 2)
				began := new(atomic.Int64)
				w, _ := start(t, s, Config{Slots: 2}, nil, define(batcher, func(ctx context.Context, n int) (schema.Batch, error) {
					began.Add(1)
					<-ctx.Done()
					causes <- context.Cause(ctx)
					return nil, ctx.Err()
				}))
				o.feed(1, 4)
				natstest.Eventually(t, "all slots are busy", func() bool { return began.Load() == 2 })
				o.silence()
				end.change(o)
				since := time.Now()
				if how == "hint" {
					o.over()
				}
				for range 2 {
					if cause := <-causes; !errors.Is(cause, end.cause) {
						t.Errorf("cut off with cause %v, want %v", cause, end.cause)
					}
				}
				if took := time.Since(since); took > within {
					t.Errorf("the slots were kept for %v", took)
				}
				natstest.Eventually(t, "nothing runs, waits or is pulled", func() bool {
					n, _ := w.held.counts()
					served := slices.ContainsFunc(w.lanes.all(), func(l *lane) bool { return l.gen == o.gen })
					return n == 0 && w.Status().Running == 0 && !served
				})
				if end.cause == errOver {
					natstest.Eventually(t, "the jobs that the worker had are acked", func() bool { return o.queued() <= 2 })
				}
			})
		}
	}
}

// Nothing is believed but the record.
func TestOverIsAHint(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	release := make(chan struct{})
	began := make(chan struct{})
	w, _ := start(t, s, Config{Slots: 1}, nil, define("plain", func(ctx context.Context, n int) (schema.Batch, error) {
		if n == 1 {
			close(began)
			select {
			case <-release:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return values(n, 1)
	}))
	o.feed(1, 2)
	<-began
	reads, err := o.nc.SubscribeSync("$JS.API.STREAM.MSG.GET." + topology.BucketStream)
	if err != nil {
		t.Fatal(err)
	}
	o.over()
	if _, err := reads.NextMsg(10 * time.Second); err != nil {
		t.Fatalf("the record is not read: %v", err)
	}
	natstest.Eventually(t, "the record is known", func() bool {
		w.lanes.mu.Lock()
		defer w.lanes.mu.Unlock()
		return len(w.lanes.looks) == 0
	})
	close(release)
	o.waitEmpty()
	if r, _ := o.result(1); r.Deliveries != 1 {
		t.Fatalf("result %+v", r)
	}
}

// Code that ignores the end of its context loses its slot soon after its generation is over, and not after JobTimeout.
func TestHungCodeOfARunThatIsOverLosesItsSlot(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "hung")
	release, began := make(chan struct{}), make(chan struct{})
	w, _ := start(t, s, Config{Slots: 2}, func(w *Worker) { w.tick, w.lostAfter = 20*time.Millisecond, 50*time.Millisecond },
		define("hung", func(_ context.Context, n int) (schema.Batch, error) {
			close(began)
			<-release
			return values(n, 1)
		}))
	o.feed(1, 1)
	<-began
	o.silence()
	o.record(schema.PhaseClosed)
	o.over()
	natstest.Eventually(t, "the slot counts as lost", func() bool { return w.Status().Slots == 1 })
	close(release)
	natstest.Eventually(t, "the slot is back", func() bool { return w.Status().Slots == 2 })
	if msg := o.stored(wire.ResultSubject(o.batcher, o.gen, 1)); msg != nil {
		t.Fatal("the result of a run that is over is stored")
	}
}

// The payloads of a generation that is over go, those of a run that is done stay for look-ups until the record goes on.
func TestRunThatIsOverKeepsNoPayloads(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	w, _ := start(t, s, Config{Slots: 1}, nil, define("large", largeBatches()))
	o.feed(1, 2)
	o.waitEmpty()
	kept(t, w, "both are kept", func(n int, _ int64) bool { return n == 2 })
	o.silence()
	o.record(schema.PhaseDone)
	o.over()
	natstest.Eventually(t, "the lane is closed", func() bool { return len(w.lanes.all()) == 0 })
	kept(t, w, "a trainer can go back in a run that is done", func(n int, _ int64) bool { return n == 2 })
	o.record(schema.PhaseClosed)
	o.over()
	kept(t, w, "nothing is kept", func(n int, bytes int64) bool { return n == 0 && bytes == 0 })
}

// An execution that ends while its lane is closed leaves nothing on the shelf, where nobody would take it off.
func TestClosedLaneKeepsNothing(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	w, err := New(s.Connect(), Config{}, define("large", largeBatches()))
	if err != nil {
		t.Fatal(err)
	}
	w.life.begin(t.Context())
	w.shelf.open(wire.Direct{Address: "host:1"})
	for cause, want := range map[error]int{errOver: 0, errNotServed: 0, errDone: 1} {
		before := w.shelf.shelf.Len()
		l := newLane(t.Context(), &wire.Record{Batcher: "train", Gen: "GEN"}, nil, "")
		l.close(cause)
		r := &wire.Result{Seq: 1, Attempt: cause.Error(), Size: wire.InlineLimit + 1}
		if !w.exec.commits.keep(l, r, newPayload()) {
			t.Fatalf("%v: the payload is the caller's still", cause)
		}
		if n := w.shelf.shelf.Len() - before; n != want {
			t.Errorf("%v: %d payloads are kept, want %d", cause, n, want)
		}
	}
}

// The jobs that wait in a lane go with it: those of a generation that is over are acked, others are handed back.
func TestClosedLaneAnswersItsJobs(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	nc := s.Connect()
	w, err := New(nc, Config{Slots: 1}, define("plain", largeBatches()))
	if err != nil {
		t.Fatal(err)
	}
	w.life.begin(t.Context())
	acks, err := nc.SubscribeSync("acks.*")
	if err != nil {
		t.Fatal(err)
	}
	rec := &wire.Record{Batcher: "train", Gen: "GEN", Spec: wire.Spec{Dataset: "plain", Version: 1}}
	for cause, want := range map[error]string{
		errOver: "", errDone: "-NAK", errNotServed: "-NAK", errNoStream: `-NAK {"delay":1000000000}`,
	} {
		l := newLane(t.Context(), rec, w.kinds[wire.KindToken("plain", 1)], "")
		w.slots.open(l)
		d := delivered(l, 1, 1, 1)
		w.held.hold(d)
		if !w.slots.arrive(d, false, 0) {
			t.Fatal("the lane is not open")
		}
		w.lanes.close(l, cause)
		msg, err := acks.NextMsg(10 * time.Second)
		if err != nil || string(msg.Data) != want {
			t.Errorf("%v: %v %v, want %q", cause, msg, err, want)
		}
		if n, _ := w.held.counts(); n != 0 || !errors.Is(context.Cause(l.ctx), cause) {
			t.Errorf("%v: %d jobs are held, the context's cause is %v", cause, n, context.Cause(l.ctx))
		}
	}
}
