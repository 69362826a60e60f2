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
	type answer struct {
		msg *nats.Msg
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 1+maxHedges)
	under := 0
	ask := func(subject string) {
		under++
		go func() {
			msg, err := nc.RequestWithContext(ctx, subject, body)
			answers <- answer{msg, err}
		}()
	}
	ask(wire.CoordinatorPrefix + "." + op)
	pause := hedgeAfter
	hedge := time.NewTimer(pause)
	defer hedge.Stop()
	for {
		select {
		case a := <-answers:
			if under--; a.err == nil || under == 0 {
				return a.msg, a.err
			}
		case <-hedge.C:
			if under <= maxHedges {
				ask(wire.CoordinatorPrefix + "." + wire.EveryCoordinator + "." + op)
				pause *= 2
				hedge.Reset(pause)
			}
		}
	}
}
