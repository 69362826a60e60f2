package client

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A batch that was made by another record than the run's is never taken, though its states are right. It is made anew,
// and where that does not help, an error.
func TestBatchOfAnotherSpec(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		r, payload := o.batch(seq)
		if o.base+seq-1 == 1 {
			r.Spec = wire.Spec{Dataset: "count", Params: []byte(`{"other":1}`)}.Digest()
		}
		return r, payload
	}
	b, _ := setup(t, o, nil)
	step, err := b.Take(deadline(t), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	if step, err := b.Take(deadline(t), step.Next); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("taken: %+v, %v", step, err)
	}
	if n := o.count(wire.ModeStart); n < 2 {
		t.Errorf("it was not made anew: %d starts", n)
	}
}

// A notice that the server was made to send, as the answer to a read, ends no run.
func TestForgedNotice(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	step, err := b.Take(deadline(t), schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	forged := &nats.Msg{
		Subject: wire.NoticePrefix + "." + o.name, Header: nats.Header{"Nats-Stream": {"jetbatch-results-x-y"}},
		Data: []byte(`{"seat":99,"reader":"ANOTHER","phase":"running"}`),
	}
	if err := errors.Join(o.nc.PublishMsg(forged), o.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if step, err = b.Take(deadline(t), step.Next); err != nil {
			t.Fatal(err)
		}
	}
	forged.Header = nil
	if err := errors.Join(o.nc.PublishMsg(forged), o.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the owner's own notice ends it", func() bool {
		step, err = b.Take(deadline(t), step.Next)
		return errors.Is(err, ErrSuperseded)
	})
}
