package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// errNoPhase is the error of an answer without a phase, which all of its kind have.
var errNoPhase = errors.New("it does not say how the batcher stands")

// errStream is matched by every *streamError.
var errStream = errors.New("answered by a stream")

// streamError is the error of a request that a stream stored and acknowledged, in the place of the role that it was
// sent to.
type streamError struct{ stream, subject string }

func (e *streamError) Error() string {
	return fmt.Sprintf("stream %s of this account stores %s, and answers in the place of jetbatch: "+
		"its subjects must not be among jetbatch.>",
		legible.Line(e.stream), e.subject)
}

func (e *streamError) Is(target error) bool { return target == errStream }

// readAnswer decodes the answer to a request on subject. Anything that listens there may answer, so nothing is assumed
// that the answer does not say.
func readAnswer[T any](subject string, data []byte, reply *T) error {
	*reply = *new(T)
	if bytes.Contains(data,
		[]byte(`"stream"`)) { // none of jetbatch's answers has it, all acknowledgements of JetStream have
		var ack struct {
			Stream string `json:"stream"`
		}
		if err := json.Unmarshal(data, &ack); err == nil && ack.Stream != "" {
			return &streamError{ack.Stream, subject}
		}
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
