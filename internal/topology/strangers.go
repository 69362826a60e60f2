package topology

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/legible"
)

// StreamError is the error of a request that a stream of somebody else stored and acknowledged, in the place of the
// role that it was sent to.
type StreamError struct{ Stream, Subject string }

func (e *StreamError) Error() string {
	return fmt.Sprintf("stream %s of this account stores %s, and answers in the place of jetbatch: "+
		"its subjects must not be among jetbatch.>", legible.Line(e.Stream), e.Subject)
}

// Answered returns a *StreamError if the answer to a request on subject is a stream's. None of jetbatch's answers has
// what all acknowledgements of JetStream have.
func Answered(subject string, answer []byte) error {
	if !bytes.Contains(answer, []byte(`"stream"`)) {
		return nil
	}
	var ack struct {
		Stream string `json:"stream"`
	}
	if err := json.Unmarshal(answer, &ack); err != nil || ack.Stream == "" {
		return nil
	}
	return &StreamError{ack.Stream, subject}
}

// overlapped adds to the error of a stream that could not be made which streams take its subjects, if that is why.
func overlapped(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig, err error) error {
	if codeOf(err) != codeSubjectsOverlap {
		return err
	}
	var others []string
	for _, subject := range cfg.Subjects {
		list := js.StreamNames(ctx, jetstream.WithStreamListSubject(subject))
		for name := range list.Name() {
			others = append(others, legible.Line(name))
		}
		if list.Err() != nil {
			return err
		}
	}
	slices.Sort(others)
	return fmt.Errorf("%w: stream %s of this account takes %s, which is jetbatch's: delete it, or give it other subjects",
		err, strings.Join(slices.Compact(others), ", "), strings.Join(cfg.Subjects, ", "))
}
