package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 2 * time.Second
)

// errNotNeeded ends a request whose answer is not needed any more.
var errNotNeeded = errors.New("the answer is not needed any more")

// asker sends requests to coordinators until they are answered for good. It is safe for concurrent use.
type asker struct {
	cfg     *Config
	nc      *nats.Conn
	link    *link
	notices *news // told of each notice: after one of a new owner, waiting for the owner before is of no use

	mu   sync.Mutex
	last ulid.ULID // request id
}

// question is one request.
type question struct {
	op     string
	body   any
	limit  time.Duration   // for one answer
	run    context.Context // what it is for: its end ends the question with its cause
	decode func(subject string, data []byte) (*schema.Fault, error)

	// moot reports whether the answer is needed no more, and returns a channel that is closed when that may have
	// changed. nil for never.
	moot func() (bool, <-chan struct{})
}

// newID returns a request id above the one before, even if the clock was set back: a coordinator takes
// a lower one for a late duplicate.
func (a *asker) newID() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := ulid.Make()
	if id.Compare(a.last) <= 0 {
		id = a.last
		if err := id.SetTime(id.Time() + 1); err != nil {
			id = ulid.Make() // past the year 10889
		}
	}
	a.last = id
	return id.String()
}

// ask sends the same request until it is answered for good. A repetition is recognised by its Request id, so
// that asking twice does not act twice.
func (a *asker) ask(ctx context.Context, q question) error {
	body, err := json.Marshal(q.body)
	if err != nil {
		return fmt.Errorf("batcher %s: %s request: %w", a.cfg.Name, q.op, err)
	}
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.run, cancel)()
	subject := wire.CoordinatorPrefix + "." + q.op
	n := newNag(a.cfg.Logger)
	last := ""
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		noticed := a.notices.wait() // only what the owner says from now on is news
		msg, err := a.once(either, body, &q)
		what := "no coordinator answers"
		switch {
		case errors.Is(err, errNotNeeded):
			return err
		case err == nil:
			fault, err := q.decode(subject, msg.Data)
			switch {
			case err != nil:
				return fmt.Errorf("batcher %s: %w: answer to %s: %w", a.cfg.Name, ErrBadRequest, q.op, err)
			case fault == nil:
				return nil
			case fault.Code != schema.CodeUnavailable:
				return a.cfg.faultError(fault)
			}
			what = fault.Message
			last = what
		case errors.Is(err, nats.ErrConnectionClosed):
			return a.cfg.errDisconnected(err)
		case errors.Is(err, nats.ErrMaxPayload):
			return fmt.Errorf("batcher %s: %w: %s request of %d bytes; the NATS server takes at most %d",
				a.cfg.Name, ErrBadRequest, q.op, len(body), a.nc.MaxPayload())
		case errors.Is(err, nats.ErrNoResponders):
		default: // a timeout, or the connection is away; the next attempt tells
			if denied := refusal(a.nc, subject); denied != nil {
				return fmt.Errorf("batcher %s: %w", a.cfg.Name, denied)
			}
			what = cmp.Or(a.link.down(), what)
			if ctx.Err() == nil {
				last = ""
			}
		}
		switch {
		case q.run.Err() != nil:
			return context.Cause(q.run)
		case ctx.Err() != nil:
			if err != nil { // the caller's patience cut the last attempt off, which says nothing
				what = cmp.Or(last, what)
			}
			return a.cfg.waitError(ctx, n.began, what)
		}
		n.say(what)
		if pause(ctx, q.run, backoff, noticed, q.moot) {
			return errNotNeeded
		}
	}
}

// once asks once. It also ends when the answer is needed no more.
func (a *asker) once(ctx context.Context, body []byte, q *question) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, q.limit)
	defer cancel()
	if q.moot == nil {
		return topology.Ask(ctx, a.nc, q.op, body)
	}
	var moot bool
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			is, changed := q.moot()
			if is {
				moot = true
				cancel()
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	})
	msg, err := topology.Ask(ctx, a.nc, q.op, body)
	cancel()
	watch.Wait()
	if err != nil && moot {
		return nil, errNotNeeded
	}
	return msg, err
}
