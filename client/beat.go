package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	beatEvery   = time.Second
	beatTimeout = 2 * time.Second
)

// credits tells the owner how far the trainer has come, and hears how things stand. It is safe for concurrent use.
type credits struct {
	cfg     *Config
	nc      *nats.Conn
	line    *line
	handle  context.Context
	subject string
	notices *news // told of every notice of the owner
	due     hint  // received by beats
}

func newCredits(handle context.Context, nc *nats.Conn, line *line, notices *news) *credits {
	return &credits{
		cfg: line.cfg, nc: nc, line: line, handle: handle, subject: wire.ReaderPrefix + "." + line.cfg.Name,
		notices: notices, due: newHint(),
	}
}

// listen subscribes to the owner's notices.
func (c *credits) listen() (*nats.Subscription, error) {
	sub, err := c.nc.Subscribe(wire.NoticePrefix+"."+c.cfg.Name, c.notice)
	if err != nil {
		return nil, fmt.Errorf("batcher %s: notices: %w", c.cfg.Name, err)
	}
	return sub, nil
}

// notice takes the owner's notice of a change. Only a notice that names another reader is believed without asking: the
// owner sends it when its record says so, and the batches here would then be of a run that is another reader's.
func (c *credits) notice(m *nats.Msg) {
	if m.Subject != wire.NoticePrefix+"."+c.cfg.Name || m.Reply != "" || topology.Aimed(m.Header) {
		return // the server was made to send it here
	}
	if said, err := readCreditReply(m.Subject, m.Data); err == nil {
		c.line.fence(&said)
	}
	c.notices.tell()
	if _, begun, _ := c.line.run.status(); begun {
		c.publish() // a new owner needs it, and the beat may be waiting for the one before
	}
	c.due.give()
}

// beats tells the owner once a second, and whenever asked to, how far the trainer has come. It is what keeps
// the seat while the trainer computes, and how the reader hears that it lost it.
func (c *credits) beats() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.handle.Done():
			return
		case <-tick.C:
		case <-c.due:
		}
		if err := c.line.run.err(); !errors.Is(err, ErrSuperseded) && !errors.Is(err, ErrDisconnected) {
			_, _ = c.beat(c.handle) // beat itself acts on the answer and on silence
		}
	}
}

// publish opens the window without waiting for an answer: a credit that is lost is made up for by the next beat.
// Credits are cumulative, so that two of them may change places.
func (c *credits) publish() {
	body, err := json.Marshal(c.line.credit(time.Now(), false))
	if err == nil {
		err = c.nc.Publish(c.subject, body)
	}
	if err != nil {
		c.due.give()
	}
}

// beat sends the credit as a request, acts on the answer and returns it.
func (c *credits) beat(ctx context.Context) (said wire.CreditReply, err error) {
	sent := c.line.credit(time.Now(), true)
	body, err := json.Marshal(sent)
	if err != nil {
		return said, err
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	msg, err := c.nc.RequestWithContext(ctx, c.subject, body)
	if err == nil {
		said, err = readCreditReply(c.subject, msg.Data)
	}
	if err != nil {
		c.unanswered(err)
		return said, err
	}
	if warning := c.line.judge(&sent, &said, time.Now()); warning != "" {
		about := []any{"dataset", c.cfg.Dataset}
		if said.Trouble != "" {
			about = append(about, "why", legible.Line(said.Trouble))
		}
		c.cfg.Logger.Warn(warning, about...)
	}
	return said, nil
}

// unanswered notes that the owner did not answer. Whether that matters is for Take to say: while batches arrive,
// it does not.
func (c *credits) unanswered(err error) {
	if c.handle.Err() != nil {
		return
	}
	if denied := refusal(c.nc, c.subject); denied != nil && !errors.Is(err, nats.ErrNoResponders) {
		c.line.run.end(fmt.Errorf("batcher %s: %w", c.cfg.Name, denied))
		return
	}
	usurper := ""
	var stream *topology.StreamError
	if errors.As(err, &stream) {
		usurper = err.Error()
	}
	c.line.owner.unanswered(usurper, time.Now())
	c.line.changed.tell()
}
