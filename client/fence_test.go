package client

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestNoticeFences has another reader take the batcher over while batches are buffered here, and no credit be answered:
// the notice alone ends the run, and what is buffered is not taken.
func TestNoticeFences(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.window = 16
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	natstest.Eventually(t, "batches are buffered", func() bool {
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.buf.Len() >= 8
	})
	var said wire.CreditReply
	o.locked(func() {
		o.silent = true
		o.rec.Seat++
		o.rec.Reader = "ANOTHER"
		said = wire.CreditReply{Gen: o.rec.Gen, Seat: o.rec.Seat, Reader: o.rec.Reader, Phase: schema.PhaseRunning}
	})
	publishNotice(t, o, said)
	natstest.Eventually(t, "the notice is here", func() bool { return b.r.run.err() != nil })
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("Take: %v", err)
	}
}

// TestNoticesOfBefore has notices come that say nothing against this reader: of an owner that was deposed, of a seat
// that this reader asked for, and messages that are no notices.
func TestNoticesOfBefore(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	var id string
	var seat uint64
	o.locked(func() { id, seat = o.rec.Reader, o.rec.Seat })
	publishNotice(t, o, wire.CreditReply{Seat: seat - 1, Reader: "ANOTHER", Phase: schema.PhaseRunning})
	publishNotice(t, o, wire.CreditReply{Seat: seat, Reader: "ANOTHER", Phase: schema.PhaseRunning})
	publishNotice(t, o, wire.CreditReply{Seat: seat + 1, Reader: id, Phase: schema.PhaseRunning})
	publishNotice(t, o, map[string]any{"seat": seat + 1, "reader": "ANOTHER"}) // without a phase
	publishNotice(t, o, "nonsense")
	if err := o.nc.PublishRequest(wire.NoticePrefix+"."+o.name, "somewhere",
		[]byte(`{"seat":99,"reader":"A","phase":"running"}`)); err != nil {
		t.Fatal(err)
	}
	take(t, b, state, 10)
}

func publishNotice(t *testing.T, o *owner, v any) {
	t.Helper()
	body, err := json.Marshal(v)
	if err == nil {
		err = o.nc.Publish(wire.NoticePrefix+"."+o.name, body)
	}
	if err != nil {
		t.Fatal(err)
	}
}
