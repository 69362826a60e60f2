package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	requestTimeout = 5 * time.Second // for one answer; opening a data set may take some of it
	repairTimeout  = 2 * time.Second // where it is open, and whoever was asked may be the one who is away
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
	mode     wire.Mode
	state    schema.State
	takeOver bool // with ModeOpen
	again    bool // the data set is open: an answer that takes long does not come
	repair   bool // give up when the head of the line arrives meanwhile
}

var errHeadArrived = errors.New("the head of the line arrived")

const seatMoves = "the seat keeps moving"

// hold opens the batcher without starting it.
func (r *reader) hold(ctx context.Context) error {
	reply, err := r.requestSeat(ctx, sitting{mode: wire.ModeOpen, takeOver: r.cfg.TakeOver})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seat = seat{gen: reply.Gen, number: reply.Seat}
	if r.sticky != nil {
		r.revive()
	}
	r.phase = reply.Phase
	r.window = reply.Window
	return nil
}

// sit gets a seat and begins to read there.
func (r *reader) sit(ctx context.Context, want sitting) error {
	var reply wire.SeatReply
	n := newNag()
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
		r.nag(n, seatMoves)
		if err := r.pause(ctx, backoff, seatMoves, false); err != nil {
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
func (r *reader) settle(want sitting, reply wire.SeatReply) error {
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
	r.straggler, r.overtaken = 0, time.Time{}
	if same {
		for _, e := range r.buf.Seek(reply.Position, reply.State.Data) {
			e.Value.payload.release()
		}
		r.uncover()
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
	r.count.repairs++
	if hard {
		r.doubts++
	}
	r.repairs++
	doubts, repairs, gen, seq := r.doubts, r.repairs, r.seat.gen, r.buf.Head()
	want := sitting{mode: wire.ModeSeek, state: r.headStateLocked(), again: true, repair: !hard && why == ownerSilent}
	r.mu.Unlock()
	if doubts > maxDoubts {
		err := fmt.Errorf("batcher %s: generation %s: %w: %s", r.cfg.Name, gen, ErrCorrupt, why)
		r.fail(err)
		return err
	}
	r.cfg.Logger.Warn("asking for the seat again", "gen", gen, "seq", seq, "why", why)
	if repairs > 1 {
		// A seat that does not help at once is not asked for in a loop: an owner that was deposed and does not know it, say,
		// goes on contradicting the new one until it has looked.
		if err := r.pause(ctx, min(firstBackoff<<min(repairs, 8), maxBackoff), why, want.repair); err != nil && !errors.Is(err, errHeadArrived) {
			return err
		}
	}
	if doubts > maxLookups {
		want.mode = wire.ModeStart
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
func (r *reader) requestSeat(ctx context.Context, want sitting) (wire.SeatReply, error) {
	req := wire.SeatRequest{
		Wire: wire.Version, Batcher: r.cfg.Name, Request: r.nextRequest().String(), Mode: want.mode, Reader: r.id, TakeOver: want.takeOver,
		Spec: r.cfg.spec(), Settings: r.cfg.settings(), State: want.state,
	}
	r.mu.Lock()
	life := r.life
	req.Trace = r.trace
	r.mu.Unlock()
	if want.mode == wire.ModeOpen {
		life = r.ctx // a displaced reader may ask
	}
	limit := requestTimeout
	if want.again {
		limit = repairTimeout
	}
	var reply wire.SeatReply
	err := r.ask(ctx, life, "seat", &req, limit, want.repair, func(data []byte) (*schema.Fault, error) {
		reply = wire.SeatReply{}
		err := json.Unmarshal(data, &reply)
		if err == nil && reply.Fault == nil && reply.Wire != wire.Version {
			return foreign(reply.Wire), nil
		}
		return reply.Fault, err
	})
	if err != nil {
		return wire.SeatReply{}, err
	}
	for _, w := range reply.Warnings {
		r.cfg.Logger.Warn(w, "gen", reply.Gen)
	}
	return reply, nil
}

// foreign is why a seat with a coordinator of another wire version is no seat: what its workers store would look damaged.
// One of this version may answer the next request.
func foreign(version int) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnavailable, Message: fmt.Sprintf(
		"the batcher's coordinator speaks wire version %d and this trainer %d: use programs of one release",
		max(version, 1), wire.Version)}
}
