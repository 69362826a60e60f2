package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// errNoPhase is the error of an answer without a phase, which all of its kind have.
var errNoPhase = errors.New("it does not say how the batcher stands")

// readAnswer decodes the answer to a request on subject. Anything that listens there may answer, so nothing is assumed
// that the answer does not say.
func readAnswer[T any](subject string, data []byte, reply *T) error {
	*reply = *new(T)
	if err := topology.Answered(subject, data); err != nil {
		return err
	}
	return json.Unmarshal(data, reply)
}

// checkSeat refuses an answer that cannot be a seat. Its generation becomes a part of subjects.
func checkSeat(want *sitting, reply *wire.SeatReply) error {
	if want.mode == wire.ModeOpen {
		if reply.Phase == "" {
			return errNoPhase
		}
		return nil
	}
	rebased := want.state.Origin != "" && want.state.Origin != reply.State.Origin // to other data, as the trainer accepts
	if !want.state.IsZero() && !rebased && !bytes.Equal(want.state.Data, reply.State.Data) {
		return fmt.Errorf("asked for a seat at %v, got one at %v", want.state, reply.State)
	}
	if reply.Gen == "" || reply.Position == 0 {
		return errors.New("a seat without generation or position")
	}
	if err := wire.CheckName("generation", reply.Gen); err != nil {
		return err
	}
	if len(reply.State.Origin) > schema.MaxOrigin {
		return fmt.Errorf("a seat at a state with an origin of %d bytes", len(reply.State.Origin))
	}
	if reply.Position > wire.MaxPosition || len(reply.State.Data) > schema.MaxState {
		return fmt.Errorf("a seat at position %d with a state of %d bytes", reply.Position, len(reply.State.Data))
	}
	return nil
}

// readCreditReply decodes the owner's word on how things stand: the answer to a beat, or a notice.
func readCreditReply(subject string, data []byte) (wire.CreditReply, error) {
	var reply wire.CreditReply
	if err := readAnswer(subject, data, &reply); err != nil {
		return reply, err
	}
	if reply.Phase == "" {
		return reply, errNoPhase
	}
	reply.Window = min(max(reply.Window, 0), span)
	reply.Workers = max(reply.Workers, 0)
	return reply, nil
}
