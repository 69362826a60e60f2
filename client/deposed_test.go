package client

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestDeposedOwnerAnswers has a credit answered first by an owner that was deposed before this reader sat down, and
// that thinks of another reader, or of a run that was stopped.
func TestDeposedOwnerAnswers(t *testing.T) {
	t.Parallel()
	for name, stale := range map[string]wire.CreditReply{
		"reader": {Gen: "OLD", Reader: "ANOTHER", Phase: schema.PhaseRunning},
		"phase":  {Reader: "ANOTHER", Phase: schema.PhaseClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			b, _ := setup(t, o, nil)
			state := take(t, b, schema.State{}, 3)
			data, err := json.Marshal(stale)
			if err != nil {
				t.Fatal(err)
			}
			_, err = o.nc.Subscribe(wire.ReaderPrefix+"."+o.name, func(m *nats.Msg) {
				if m.Reply != "" {
					_ = o.nc.Publish(m.Reply, data) // fails when the test is over
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 50 {
				o.notice() // and the reader asks how things stand
				state = take(t, b, state, 1)
			}
		})
	}
}

// TestAnswerToASeatThatWasLeft has the answer to a credit come when the reader sits elsewhere: whatever it says is of
// the seat before.
func TestAnswerToASeatThatWasLeft(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	now := b.r.line.credit(time.Now(), true)
	for name, sent := range map[string]wire.Credit{
		"seat":       {Gen: now.Gen, Seat: now.Seat - 1},
		"generation": {Gen: "BEFORE", Seat: now.Seat},
	} {
		closed := wire.CreditReply{Gen: sent.Gen, Seat: sent.Seat, Reader: now.Reader, Phase: schema.PhaseClosed}
		if warning := b.r.line.judge(&sent, &closed, time.Now()); warning != "" || b.r.run.err() != nil {
			t.Errorf("another %s: %q, %v", name, warning, b.r.run.err())
		}
	}
	take(t, b, state, 3)
}
