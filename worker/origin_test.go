package worker

import (
	"context"
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// recorded is a data set that is opened on so many recordings as there are then.
type recorded struct {
	dataset.Funcs[int, input, schema.Batch]
	recordings string
}

func (r recorded) Fingerprint(context.Context) (dataset.Fingerprint, error) {
	return dataset.Fingerprint{Digest: r.recordings, Parts: []dataset.Part{{Name: "recordings", Value: r.recordings}}}, nil
}

func recordings(name string, now *atomic.Value) dataset.Definition {
	return dataset.Define(name, func(context.Context, struct{}) (recorded, error) {
		n := now.Load().(string)
		return recorded{dataset.Funcs[int, input, schema.Batch]{
			NextFunc:        func(s int) (input, int, error) { return input{s}, s + 1, nil },
			MaterializeFunc: func(_ context.Context, in input) (schema.Batch, error) { return values(in.N, len(n)) },
		}, n}, nil
	})
}

func holding(text string) *atomic.Value {
	v := new(atomic.Value)
	v.Store(text)
	return v
}

// originOf is the origin of a data set as it is opened now.
func originOf(t *testing.T, def dataset.Definition) kind.Origin {
	t.Helper()
	k := kind.Of(def)
	inst, release, err := k.Reopen(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.CloseIdle()
	defer release()
	return inst.Origin
}

// describe writes what an origin stands for, as a coordinator does.
func (o *owner) describe(origin kind.Origin) {
	o.t.Helper()
	kv, err := topology.OpenBucket(o.t.Context(), o.js)
	if err != nil {
		o.t.Fatal(err)
	}
	data, err := json.Marshal(origin)
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := kv.Put(o.t.Context(), topology.OriginKey(origin.Digest), data); err != nil {
		o.t.Fatal(err)
	}
}

// A worker whose data are other than the run's makes nothing for it, says what differs, and serves it when it has the
// same.
func TestOtherDataIsNotServed(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "ecg")
	origin := originOf(t, recordings("ecg", holding("93")))
	o.describe(origin)
	o.origin = origin.Digest
	o.begin()
	now, gate := holding("96"), make(chan struct{})
	w, _ := start(t, s, Config{Name: "w1", Slots: 2}, func(w *Worker) {
		w.away.sleep = func(ctx context.Context, _ time.Duration) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}, recordings("ecg", now))
	o.feed(1, 4)
	natstest.Eventually(t, "the worker says what differs", func() bool {
		return w.Status().LastError == "has other data of ecg than the run: recordings was 93 and is 96"
	})
	natstest.Eventually(t, "the jobs are handed back", func() bool { n, _ := w.held.counts(); return n == 0 })
	if st := w.Status(); len(st.Kinds) != 0 || st.Failed != 0 || o.queued() != 4 {
		t.Fatalf("%d jobs are queued; status %+v", o.queued(), st)
	}
	gate <- struct{}{} // looked at in vain
	now.Store("93")
	close(gate)
	o.waitEmpty()
	if r, _ := o.result(4); r.Kind != wire.KindBatch {
		t.Fatalf("result %+v, %v", r, r.Fault)
	}
	if st := w.Status(); st.LastError != "" || len(st.Kinds) != 1 {
		t.Errorf("status %+v", st)
	}
}

// A worker that has opened a data set for one run opens it anew for another that was begun on other data since, and
// goes on with the first as it was.
func TestDataRewrittenUnderAnOldWorker(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	now := holding("93")
	def := recordings("ecg", now)
	old, fresh := newOwner(t, s, "old", "ecg"), newOwner(t, s, "fresh", "ecg")
	old.silence()
	fresh.silence()
	serve := func(o *owner, of string) {
		t.Helper()
		o.origin = originOf(t, recordings("ecg", holding(of))).Digest
		o.begin()
		o.mu.Lock()
		o.quiet = false
		o.mu.Unlock()
	}
	serve(old, "93")
	w, _ := start(t, s, Config{Slots: 1}, nil, def)
	old.feed(1, 2)
	old.waitEmpty()
	now.Store("960")
	serve(fresh, "960")
	fresh.feed(1, 2)
	fresh.waitEmpty()
	old.feed(3, 3)
	old.waitEmpty()
	size := func(o *owner, seq uint64) int {
		t.Helper()
		r, payload := o.result(seq)
		if r.Kind != wire.KindBatch {
			t.Fatalf("result %+v, %v", r, r.Fault)
		}
		batch, err := wire.DecodePayload[schema.Batch](payload)
		if err != nil {
			t.Fatal(err)
		}
		return batch[0].Tensor.Shape[0]
	}
	if a, b, c := size(old, 2), size(fresh, 2), size(old, 3); a != 2 || b != 3 || c != 2 {
		t.Errorf("batches of %d, %d and %d recordings, want 2, 3 and 2", a, b, c)
	}
	if st := w.Status(); strings.Contains(st.LastError, "other data") {
		t.Errorf("status %+v", st)
	}
}
