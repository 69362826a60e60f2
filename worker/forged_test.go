package worker

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func plain() dataset.Definition {
	return define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) })
}

// Jobs that the owner did not queue make no batch: one of another specification, and one that the server was made to
// store. They get out of the way, so that the owner finds its own missing.
func TestForgedJobs(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	w, _ := start(t, s, Config{}, nil, plain())
	other, _, err := wire.DecodeJob(o.job(1))
	if err != nil {
		t.Fatal(err)
	}
	other.Spec = (&wire.Record{Spec: o.spec, Origin: "another"}).SpecDigest()
	o.feedMsg(&nats.Msg{
		Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, 1, 0), Data: wire.AppendJob(nil, other),
	})
	o.feedMsg(&nats.Msg{
		Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, 2, 0), Data: o.job(2),
		Header: nats.Header{"Nats-Stream": {"jetbatch-results-x-y"}},
	})
	o.feed(3, 3)
	o.result(3)
	o.waitEmpty()
	for seq := uint64(1); seq <= 2; seq++ {
		if o.stored(wire.ResultSubject(o.batcher, o.gen, seq)) != nil {
			t.Errorf("a forged job made batch %d", seq)
		}
	}
	if s := w.Status(); !strings.Contains(s.LastError, "forged") {
		t.Errorf("last error: %q", s.LastError)
	}
	o.feed(1, 2) // as the owner does when they are missing
	for seq := uint64(1); seq <= 2; seq++ {
		o.result(seq)
	}
}

// What is no result of the run takes no result's place, whoever had it stored: noise, another batch's record, one of
// other parameters, and one that the server was made to store.
func TestForgedResults(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	w, _ := start(t, s, Config{}, nil, plain())
	spec := (&wire.Record{Spec: o.spec}).SpecDigest()
	record := func(seq uint64, spec wire.Digest) []byte {
		t.Helper()
		data, err := wire.AppendResult(nil, &wire.Result{Seq: seq, Kind: wire.KindHole, Attempt: "F", Worker: "f", Spec: spec,
			Fault: &schema.Fault{Code: schema.CodeSkipped}})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for seq, m := range map[uint64]*nats.Msg{
		1: {Data: []byte("noise")}, 2: {Data: record(7, spec)}, 3: {Data: record(3, wire.Digest{1})},
		4: {Data: record(4, spec), Header: nats.Header{"Nats-Stream": {"jetbatch-results-x-y"}}}, 5: {},
	} {
		m.Subject = wire.ResultSubject(o.batcher, o.gen, seq)
		if _, err := o.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	// What another worker, or the owner, has stored stays.
	if _, err := o.js.Publish(t.Context(), wire.ResultSubject(o.batcher, o.gen, 6), record(6, spec)); err != nil {
		t.Fatal(err)
	}
	o.feed(1, 6)
	o.waitEmpty()
	for seq := uint64(1); seq <= 6; seq++ {
		r, _ := o.result(seq)
		if want := map[bool]wire.Kind{true: wire.KindHole, false: wire.KindBatch}[seq == 6]; r.Seq != seq || r.Kind != want ||
			r.Spec != spec {
			t.Errorf("result %d: %+v", seq, r)
		}
	}
	if s := w.Status(); !strings.Contains(s.LastError, "no result") {
		t.Errorf("last error: %q", s.LastError)
	}
}

// A worker that opened a lane by a record which was forged makes no batch of it, and serves the run once the owner has
// written its record anew.
func TestForgedRecord(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	o.spec.Params = []byte(`{"other":1}`)
	o.record(schema.PhaseRunning)
	w, _ := start(t, s, Config{}, nil, plain())
	natstest.Eventually(t, "the lane is open", func() bool { return len(w.lanes.all()) == 1 })
	o.spec.Params = nil
	o.record(schema.PhaseRunning)
	o.feed(1, 3)
	for seq := uint64(1); seq <= 3; seq++ {
		r, _ := o.result(seq)
		if want := (&wire.Record{Spec: o.spec}).SpecDigest(); r.Spec != want || r.Kind != wire.KindBatch {
			t.Errorf("batch %d: %v of %v, want %v", seq, r.Kind, r.Spec, want)
		}
	}
	natstest.Eventually(t, "all jobs are done", func() bool { return o.queued() == 0 })
}
