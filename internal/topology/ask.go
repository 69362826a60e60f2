package topology

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// A coordinator that is frozen keeps its place in the queue group, so one that does not answer soon need not be alive.
const (
	hedgeAfter = 250 * time.Millisecond
	maxHedges  = 4
)

// Ask sends a request to any coordinator and, as long as there is no answer, to all of them, a few times. It returns
// the first answer. Whoever does not own the batcher leaves it to the owner, which knows a repetition.
func Ask(ctx context.Context, nc *nats.Conn, op string, body []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan *nats.Msg, maxHedges)
	hedge := func() {
		if msg, err := nc.RequestWithContext(ctx, wire.CoordinatorSubject(wire.EveryCoordinator, op), body); err == nil {
			answers <- msg
			cancel()
		}
	}
	// The first request is this goroutine's: hardly any needs more, and each that is woken costs time.
	defer time.AfterFunc(hedgeAfter, func() {
		for i := range maxHedges {
			go hedge()
			select {
			case <-ctx.Done():
				return
			case <-time.After(hedgeAfter << (i + 1)):
			}
		}
	}).Stop()
	msg, err := nc.RequestWithContext(ctx, wire.CoordinatorPrefix+"."+op, body)
	if err != nil {
		select {
		case msg := <-answers:
			return msg, nil
		default:
		}
	}
	return msg, err
}
