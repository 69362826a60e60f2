package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	requestTimeout = 5 * time.Second // for one answer; opening a data set may take some of it
	firstBackoff   = 50 * time.Millisecond
	maxBackoff     = 2 * time.Second
	leaveTimeout   = 2 * time.Second

	// After so many doubts about what is stored, at one and the same state, looking it up again is given up for
	// making it anew, and then that too.
	maxLookups = 2
	maxDoubts  = 6
)

// sitting is what a seat is wanted for.
type sitting struct {
	mode     schema.Mode
	state    schema.State
	takeOver bool // with ModeOpen
	repair   bool // give up when the head of the line arrives meanwhile
}

var errHeadArrived = errors.New("the head of the line arrived")

// hold opens the batcher without starting it.
func (r *reader) hold(ctx context.Context) error {
	reply, err := r.requestSeat(ctx, sitting{mode: schema.ModeOpen, takeOver: r.cfg.TakeOver})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seat = seat{gen: reply.Gen, number: reply.Seat}
	r.phase = reply.Phase
	r.window = reply.Window
	return nil
}

// sit gets a seat and begins to read there.
func (r *reader) sit(ctx context.Context, want sitting) error {
	var reply schema.SeatReply
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		var err error
		reply, err = r.requestSeat(ctx, want)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrSuperseded) && !errors.Is(err, ErrInUse) {
			return err
		}
		// The seat moved on. If nobody else sits there, it was the owner who moved it, or an earlier request of
		// ours whose answer was lost.
		if !r.mine(ctx) {
			if errors.Is(err, ErrSuperseded) {
				r.fail(err)
			}
			return err
		}
		if err := r.pause(ctx, backoff, "the seat keeps moving", false); err != nil {
			return err
		}
	}
	if !want.state.IsZero() && !bytes.Equal(want.state.Data, reply.State.Data) {
		return fmt.Errorf("batcher %s: %w: asked for a seat at %v, got one at %v", r.cfg.Name, ErrBadRequest, want.state, reply.State)
	}
	if reply.Gen == "" || reply.Position == 0 {
		return fmt.Errorf("batcher %s: %w: a seat without generation or position", r.cfg.Name, ErrBadRequest)
	}
	return r.settle(want, reply)
}

// settle makes the seat of the reply ours.
func (r *reader) settle(want sitting, reply schema.SeatReply) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return r.errClosed()
	}
	if r.sticky != nil {
		return r.sticky
	}
	same := r.sess != nil && r.seat.gen == reply.Gen
	r.seat = seat{gen: reply.Gen, number: reply.Seat}
	r.version = reply.State.Version
	if want.state.IsZero() {
		r.zero = reply.State.Clone()
	}
	r.started, r.eof, r.failed = true, false, nil
	r.phase = schema.PhaseRunning
	r.window = max(reply.Window, 1)
	r.doubt, r.hard = "", false
	r.silentSince = time.Time{}
	r.taken, r.sinceCredit = reply.Position-1, 0
	if same {
		for _, e := range r.buf.Seek(reply.Position, reply.State.Data) {
			e.Value.payload.release()
		}
		r.sess.sweepSoon()
		r.sess.fetchSoon()
		return nil
	}
	r.endSession()
	r.buf.Reset(reply.Position, reply.State.Data, max(span, 2*r.window))
	sess, err := r.newSession(reply.Gen)
	if err != nil {
		err = fmt.Errorf("batcher %s: %w: %w", r.cfg.Name, ErrDisconnected, err)
		r.failLocked(err)
		return err
	}
	r.sess = sess
	return nil
}

// span is how far ahead of the head a result may be; the owner's window is far below it.
const span = 1 << 16

// repair is the one answer to every doubt: a seat at the head of the line. Where what is stored is in doubt, and
// looking it up did not help, it is made again.
func (r *reader) repair(ctx context.Context) error {
	r.mu.Lock()
	why, hard := r.doubt, r.hard
	if hard {
		r.doubts++
	}
	doubts, gen, seq := r.doubts, r.seat.gen, r.buf.Head()
	want := sitting{mode: schema.ModeSeek, state: r.headStateLocked(), repair: !hard && why == ownerSilent}
	r.mu.Unlock()
	if doubts > maxDoubts {
		err := fmt.Errorf("batcher %s: generation %s: %w: %s", r.cfg.Name, gen, ErrCorrupt, why)
		r.fail(err)
		return err
	}
	r.cfg.Logger.Warn("asking for the seat again", "gen", gen, "seq", seq, "why", why)
	if hard && doubts > 1 {
		if err := r.pause(ctx, firstBackoff<<doubts, why, false); err != nil {
			return err
		}
	}
	if doubts > maxLookups {
		want.mode = schema.ModeStart
	}
	err := r.sit(ctx, want)
	if errors.Is(err, errHeadArrived) {
		r.mu.Lock()
		r.doubt, r.hard = "", false
		r.mu.Unlock()
		return nil
	}
	return err
}

// requestSeat asks until a coordinator answers, ctx ends or the handle is stopped.
func (r *reader) requestSeat(ctx context.Context, want sitting) (schema.SeatReply, error) {
	req := schema.SeatRequest{
		Batcher: r.cfg.Name, Request: r.nextRequest().String(), Mode: want.mode, Reader: r.id, TakeOver: want.takeOver,
		Spec: r.cfg.spec(), Settings: r.cfg.settings(), State: want.state,
	}
	var reply schema.SeatReply
	err := r.ask(ctx, "seat", &req, want.repair, func(data []byte) (*schema.Fault, error) {
		reply = schema.SeatReply{}
		err := json.Unmarshal(data, &reply)
		return reply.Fault, err
	})
	if err != nil {
		return schema.SeatReply{}, err
	}
	for _, w := range reply.Warnings {
		r.cfg.Logger.Warn(w, "gen", reply.Gen)
	}
	return reply, nil
}

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
// that asking twice does not act twice.
func (r *reader) ask(ctx context.Context, op string, req any, bail bool, decode func([]byte) (*schema.Fault, error)) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("batcher %s: %s request: %w", r.cfg.Name, op, err)
	}
	r.mu.Lock()
	life := r.life
	r.mu.Unlock()
	if op != "seat" {
		life = r.ctx
	}
	merged, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	subject := schema.CoordinatorPrefix + "." + op
	began, warn := time.Now(), firstWarn
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		attempt, stop := context.WithTimeout(merged, requestTimeout)
		msg, err := r.nc.RequestWithContext(attempt, subject, body)
		stop()
		what := "no coordinator answers"
		switch {
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
			if denied := refusal(r.nc, subject, nats.InboxPrefix); denied != nil {
				return fmt.Errorf("batcher %s: %w", r.cfg.Name, denied)
			}
			if !r.nc.IsConnected() {
				what = "there is no connection to NATS"
			}
		}
		if life.Err() != nil {
			return r.over(life)
		}
		if ended(ctx) {
			return r.waitError(ctx, began, what)
		}
		if waited := time.Since(began); waited > warn {
			r.cfg.Logger.Warn("still waiting", "for", what, "waited", waited.Round(time.Millisecond))
			warn = 2 * waited
		}
		if err := r.pause(merged, backoff, what, bail); err != nil {
			switch {
			case errors.Is(err, errHeadArrived):
				return err
			case life.Err() != nil:
				return r.over(life)
			}
			return r.waitError(ctx, began, what)
		}
	}
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
	began := time.Now()
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return r.waitError(ctx, began, what)
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
func (r *reader) verdictAgrees(ctx context.Context, res *schema.Result) (bool, error) {
	r.mu.Lock()
	gen, life := r.seat.gen, r.life
	r.mu.Unlock()
	began := time.Now()
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		attempt, stop := context.WithTimeout(ctx, requestTimeout)
		rec, err := r.record(attempt)
		stop()
		switch {
		case err == nil:
			v := rec.Verdict
			return rec.Gen == gen && v != nil && v.Seq == res.Seq && (v.Fault == nil) == (res.Kind == schema.KindEnd), nil
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
		if ended(ctx) {
			return false, r.waitError(ctx, began, what)
		}
		if err := r.pause(ctx, backoff, what, false); err != nil {
			return false, err
		}
	}
}

func (r *reader) record(ctx context.Context) (*schema.Record, error) {
	kv, err := topology.OpenBucket(ctx, r.js)
	if err != nil {
		return nil, err
	}
	entry, err := kv.Get(ctx, topology.BatcherKey(r.cfg.Name))
	if err != nil {
		return nil, err
	}
	rec := new(schema.Record)
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
	var reply schema.StatusReply
	err := r.ask(ctx, "status", &schema.StatusRequest{Batcher: r.cfg.Name}, false, func(data []byte) (*schema.Fault, error) {
		reply = schema.StatusReply{}
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

// stop is Batcher.Stop.
func (r *reader) stop(ctx context.Context) error {
	if err := r.open(); err != nil {
		return err
	}
	r.mu.Lock()
	had := r.sticky
	req := schema.StopRequest{Batcher: r.cfg.Name, Reader: r.id, Seat: r.seat.number}
	r.mu.Unlock()
	if errors.Is(had, ErrSuperseded) {
		return had // the run is another's
	}
	var job *JobError
	errors.As(had, &job)
	again := errors.Is(had, ErrStopped)
	if !again {
		r.halt()
	}
	var reply schema.StopReply
	err := r.ask(ctx, "stop", &req, false, func(data []byte) (*schema.Fault, error) {
		reply = schema.StopReply{}
		err := json.Unmarshal(data, &reply)
		return reply.Fault, err
	})
	switch {
	case err != nil && !errors.Is(err, ErrStopped):
		return err
	case again:
		return nil // the first Stop has told
	case job != nil:
		return job
	case reply.Error != nil:
		return r.cfg.faultError(reply.Error)
	}
	return nil
}

// halt ends the run as far as this handle goes, in the place of a failure that it may have had.
func (r *reader) halt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sticky, r.started, r.failed, r.eof = nil, false, nil, false
	r.phase = schema.PhaseClosed
	r.failLocked(fmt.Errorf("batcher %s: %w", r.cfg.Name, ErrStopped))
}

// close is Batcher.Close.
func (r *reader) close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	superseded := errors.Is(r.sticky, ErrSuperseded)
	r.endSession()
	req := schema.StopRequest{Batcher: r.cfg.Name, Reader: r.id, Seat: r.seat.number, Leave: true}
	r.mu.Unlock()
	r.cancel()
	r.signal()
	r.data.Close()
	r.tasks.Wait()
	if superseded {
		return nil
	}
	return r.leave(&req)
}

func (r *reader) leave(req *schema.StopRequest) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("batcher %s: %w", r.cfg.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	msg, err := r.nc.RequestWithContext(ctx, schema.CoordinatorPrefix+".stop", body)
	if err != nil {
		return fmt.Errorf("batcher %s: leave: %w", r.cfg.Name, err)
	}
	var reply schema.StopReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return fmt.Errorf("batcher %s: leave: %w", r.cfg.Name, err)
	}
	if f := reply.Fault; f != nil && f.Code != schema.CodeSuperseded && f.Code != schema.CodeStopped {
		return fmt.Errorf("batcher %s: leave: %w", r.cfg.Name, r.cfg.faultError(f))
	}
	return nil
}
