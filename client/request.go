package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// nextRequest returns a request id above the one before, even if the clock was set back: a coordinator takes
// a lower one for a late duplicate.
func (r *reader) nextRequest() ulid.ULID {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := ulid.Make()
	if id.Compare(r.lastRequest) <= 0 {
		id = r.lastRequest
		if err := id.SetTime(id.Time() + 1); err != nil {
			id = ulid.Make() // past the year 10889
		}
	}
	r.lastRequest = id
	return id
}

// ask sends the same request until it is answered for good. A repetition is recognised by its Request id, so
// that asking twice does not act twice. limit is for one answer. It ends with ctx, and with life, whose cause is then the error.
func (r *reader) ask(ctx, life context.Context, op string, req any, limit time.Duration, bail bool, decode func([]byte) (*schema.Fault, error)) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("batcher %s: %s request: %w", r.cfg.Name, op, err)
	}
	merged, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	subject := wire.CoordinatorPrefix + "." + op
	n := newNag()
	select { // only what the owner says from now on is news
	case <-r.noticed:
	default:
	}
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		msg, err := r.request(merged, subject, body, limit, bail)
		what := "no coordinator answers"
		switch {
		case errors.Is(err, errHeadArrived):
			return err
		case err == nil:
			fault, err := decode(msg.Data)
			switch {
			case err != nil:
				return fmt.Errorf("batcher %s: %w: answer to %s: %w", r.cfg.Name, ErrBadRequest, op, err)
			case fault == nil:
				return nil
			case fault.Code != schema.CodeUnavailable:
				return r.cfg.faultError(fault)
			}
			what = fault.Message
		case errors.Is(err, nats.ErrConnectionClosed):
			return fmt.Errorf("batcher %s: %w: %w", r.cfg.Name, ErrDisconnected, err)
		case errors.Is(err, nats.ErrNoResponders):
		default: // a timeout, or the connection is away; the next attempt tells
			if denied := refusal(r.nc, subject); denied != nil {
				return fmt.Errorf("batcher %s: %w", r.cfg.Name, denied)
			}
			if !r.nc.IsConnected() {
				what = "there is no connection to NATS"
			}
		}
		if life.Err() != nil {
			return r.over(life)
		}
		if ctx.Err() != nil {
			return r.waitError(ctx, n.began, what)
		}
		r.nag(n, what)
		if err := r.pauseUntil(merged, r.noticed, backoff, what, bail); err != nil {
			switch {
			case errors.Is(err, errHeadArrived):
				return err
			case life.Err() != nil:
				return r.over(life)
			case ctx.Err() != nil:
				return r.waitError(ctx, n.began, what)
			}
			// It was the end of the run, which a request to stop it, or for its status, outlives.
		}
	}
}

// request asks once. With bail it also ends when the head of the line can be taken.
func (r *reader) request(ctx context.Context, subject string, body []byte, limit time.Duration, bail bool) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !bail {
		return r.nc.RequestWithContext(ctx, subject, body)
	}
	var ended error
	var watch sync.WaitGroup
	watch.Go(func() {
		if ended = r.pause(ctx, 2*limit, "", true); errors.Is(ended, errHeadArrived) {
			cancel()
		}
	})
	msg, err := r.nc.RequestWithContext(ctx, subject, body)
	cancel()
	watch.Wait()
	if err != nil && errors.Is(ended, errHeadArrived) {
		return nil, ended
	}
	return msg, err
}

// over is the error of a request that was cut short by Stop, Close or a failure.
func (r *reader) over(life context.Context) error {
	if r.ctx.Err() != nil {
		return r.errClosed()
	}
	return context.Cause(life)
}

// pause waits about d. With bail it also ends when the head of the line can be taken.
func (r *reader) pause(ctx context.Context, d time.Duration, what string, bail bool) error {
	return r.pauseUntil(ctx, nil, d, what, bail)
}

// pauseUntil is pause that also ends early.
func (r *reader) pauseUntil(ctx context.Context, early <-chan struct{}, d time.Duration, what string, bail bool) error {
	began := time.Now()
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return r.waitError(ctx, began, what)
		case <-early:
			return nil
		case <-r.wake:
			r.mu.Lock()
			_, outcome := r.buf.Look()
			err := r.sticky
			r.mu.Unlock()
			if err != nil {
				return err
			}
			if bail && outcome >= headHere {
				return errHeadArrived
			}
		}
	}
}

// verdictAgrees reads the batcher's record through the bucket's leader.
func (r *reader) verdictAgrees(ctx context.Context, res *wire.Result) (bool, error) {
	r.mu.Lock()
	gen, life := r.seat.gen, r.life
	r.mu.Unlock()
	n := newNag()
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		attempt, stop := context.WithTimeout(ctx, requestTimeout)
		rec, err := r.record(attempt)
		stop()
		switch {
		case err == nil:
			v := rec.Verdict
			return rec.Gen == gen && v != nil && v.Seq == res.Seq && (v.Fault == nil) == (res.Kind == wire.KindEnd), nil
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return false, nil
		case errors.Is(err, nats.ErrConnectionClosed):
			return false, fmt.Errorf("batcher %s: %w: %w", r.cfg.Name, ErrDisconnected, err)
		}
		what := fmt.Sprintf("the record of the batcher cannot be read (%v)", err)
		if denied := refusal(r.nc, "$JS.API"); denied != nil {
			return false, fmt.Errorf("batcher %s: %w", r.cfg.Name, denied)
		}
		if life.Err() != nil {
			return false, r.over(life)
		}
		if ctx.Err() != nil {
			return false, r.waitError(ctx, n.began, what)
		}
		r.nag(n, what)
		if err := r.pause(ctx, backoff, what, false); err != nil {
			return false, err
		}
	}
}

func (r *reader) record(ctx context.Context) (*wire.Record, error) {
	kv, err := topology.OpenBucket(ctx, r.js)
	if err != nil {
		return nil, err
	}
	entry, err := kv.Get(ctx, topology.BatcherKey(r.cfg.Name))
	if err != nil {
		return nil, err
	}
	rec := new(wire.Record)
	if err := json.Unmarshal(entry.Value(), rec); err != nil {
		return nil, fmt.Errorf("record of batcher %s: %w", r.cfg.Name, err)
	}
	return rec, nil
}

// status is Batcher.Status.
func (r *reader) status(ctx context.Context) (schema.Status, error) {
	if err := r.open(); err != nil {
		return schema.Status{}, err
	}
	_, _ = r.beat(ctx) // so that the answer counts what was taken until now; if nobody hears it, ask says so
	var reply wire.StatusReply
	err := r.ask(ctx, r.ctx, "status", &wire.StatusRequest{Batcher: r.cfg.Name}, requestTimeout, false, func(data []byte) (*schema.Fault, error) {
		reply = wire.StatusReply{}
		err := json.Unmarshal(data, &reply)
		return reply.Fault, err
	})
	if errors.Is(err, ErrStopped) { // the coordinator has no such batcher any more
		return schema.Status{Batcher: r.cfg.Name, Dataset: r.cfg.Dataset, Phase: schema.PhaseStopped}, nil
	}
	if err != nil {
		return schema.Status{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := reply.Status
	if s.Gen == r.seat.gen && s.Phase == schema.PhaseRunning {
		// What Take has returned is known here before the owner hears of it.
		switch {
		case r.eof:
			s.Phase = schema.PhaseDone
		case r.failed != nil:
			s.Phase, s.Error = schema.PhaseFailed, r.failed
		}
	}
	return s, nil
}

func (r *reader) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.errClosed()
	}
	return nil
}
