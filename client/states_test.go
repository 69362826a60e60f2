package client

import (
	"bytes"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// TestStatesAreTheCallersOwn has a trainer overwrite every state that it was given, and every one that it gave.
func TestStatesAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	spoil := func(s schema.State) {
		for i := range s.Data {
			s.Data[i] ^= 0xff
		}
	}
	state := schema.State{}
	for n := range uint64(12) {
		if n == 6 {
			state = stateOf(n) // of the trainer's own
		}
		want := state.Clone()
		step, err := b.Take(deadline(t), state)
		if err != nil {
			t.Fatal(err)
		}
		if spoil(state); !step.Prev.Equal(want) {
			t.Fatalf("at %d: what the caller does to its state changes Prev: %v", n, step.Prev)
		}
		next := step.Next.Clone()
		_ = append(step.Prev.Data, 0xff) // into Next, if there were room
		if spoil(step.Prev); !step.Next.Equal(next) || !bytes.Equal(step.Batch, content(n)) {
			t.Fatalf("at %d: Prev and Next share memory", n)
		}
		spoil(step.Next)
		state = next
	}
	if log.has("asking for the seat again") || log.has("moving to another state") || len(o.gens) != 1 {
		t.Error("the run was hurt")
	}
}

// TestStatusIsTheCallersOwn has a trainer overwrite the error that a status holds.
func TestStatusIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = failAt(1, schema.CodeMaterialize)
	b, _ := setup(t, o, nil)
	if _, err := b.Take(deadline(t), schema.State{}); err == nil {
		t.Fatal("no failure")
	}
	line := b.r.line
	for range 2 {
		s := schema.Status{Gen: o.gens[0], Phase: schema.PhaseRunning} // as of an owner that has not heard of it yet
		if line.amend(&s); s.Error == nil || s.Error.Seq != 1 {
			t.Fatalf("%+v", s.Error)
		}
		s.Error.Seq = 99
		c := line.credit(time.Now(), false)
		if c.Failed.Seq != 1 {
			t.Fatalf("the owner is told %+v", c.Failed)
		}
		c.Failed.Seq = 99
	}
}
