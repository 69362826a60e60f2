package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	beatEvery   = time.Second
	beatTimeout = 2 * time.Second
	timedEvery  = 50 * time.Millisecond // how often, at most, credits between beats say where the time went
)

const headHere = reorder.Batch // and every outcome after it: Take need not wait

// ownerSilent is the one doubt that the arrival of the head settles.
const ownerSilent = "the owner does not answer"

// listen starts what runs from Open to Close: the beat, and the watch over both connections.
func (r *reader) listen() error {
	notices, err := r.nc.Subscribe(wire.NoticePrefix+"."+r.cfg.Name, func(*nats.Msg) {
		poke(r.noticed)
		r.mu.Lock()
		if r.sess != nil && r.sticky == nil {
			r.publishCredit() // a new owner needs it, and the beat may be waiting for the one before
		}
		r.mu.Unlock()
		r.beatSoon()
	})
	if err != nil {
		return fmt.Errorf("batcher %s: notices: %w", r.cfg.Name, err)
	}
	status := r.data.StatusChanged(nats.CONNECTED, nats.CLOSED)
	r.tasks.Go(func() {
		defer func() { _ = notices.Unsubscribe() }() // fails only when the connection is closed anyway
		r.beats()
	})
	r.tasks.Go(func() {
		defer r.data.RemoveStatusListener(status)
		r.watch(status)
	})
	return nil
}

// beats tells the owner once a second, and whenever asked to, how far the trainer has come. It is what keeps
// the seat while the trainer computes, and how the reader hears that it lost it.
func (r *reader) beats() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
		case <-r.beatNow:
		}
		r.mu.Lock()
		mute := errors.Is(r.sticky, ErrSuperseded) || errors.Is(r.sticky, ErrDisconnected)
		r.mu.Unlock()
		if !mute {
			_, _ = r.beat(r.ctx) // beat itself acts on the answer and on silence
		}
	}
}

// watch follows the connection that batches arrive on.
func (r *reader) watch(status <-chan nats.Status) {
	for {
		select {
		case <-r.ctx.Done():
			return
		case s := <-status:
			if s == nats.CLOSED {
				r.fail(fmt.Errorf("batcher %s: %w: %w", r.cfg.Name, ErrDisconnected, r.data.LastError()))
				return
			}
			// Live messages of the meantime are lost, and the store may be too.
			r.mu.Lock()
			if r.sess != nil {
				r.sess.sweepSoon()
			}
			r.mu.Unlock()
			r.beatSoon()
		}
	}
}

// credit says how far the trainer has come. Called with mu held.
func (r *reader) credit() wire.Credit {
	timing := r.total
	var lost []wire.Lost
	if r.sess != nil {
		lost = r.sess.lostResults()
	}
	return wire.Credit{
		Gen: r.seat.gen, Seat: r.seat.number, Reader: r.id, Taken: r.taken, BatchBytes: r.largestBatch, Stored: max(r.largestStored, 1), Bytes: r.totalBytes,
		Waiting: r.waiting, Late: r.late, Straggles: r.straggles(), Failed: r.failed, Timing: &timing,
		Trace: r.trace, Lost: lost,
	}
}

// publishCredit opens the window without waiting for an answer. Called with mu held: the connection's buffer
// takes the message, and a lost one is made up for by the next beat.
func (r *reader) publishCredit() {
	r.sinceCredit = 0
	credit := r.credit()
	if now := time.Now(); now.Sub(r.timed) < timedEvery {
		credit.Timing = nil
	} else {
		r.timed = now
	}
	body, err := json.Marshal(credit)
	if err == nil {
		err = r.nc.Publish(wire.ReaderPrefix+"."+r.cfg.Name, body)
	}
	if err != nil {
		r.beatSoon()
	}
}

// beat sends the credit as a request, acts on the answer and returns it.
func (r *reader) beat(ctx context.Context) (wire.CreditReply, error) {
	r.mu.Lock()
	sent := r.credit()
	r.mu.Unlock()
	body, err := json.Marshal(sent)
	if err != nil {
		return wire.CreditReply{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	subject := wire.ReaderPrefix + "." + r.cfg.Name
	msg, err := r.nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		r.unheard(subject, err)
		return wire.CreditReply{}, err
	}
	var reply wire.CreditReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		r.unheard(subject, err)
		return wire.CreditReply{}, err
	}
	r.heard(&sent, &reply)
	return reply, nil
}

// unheard notes that the owner did not answer. Whether that matters is for Take to say: while batches arrive,
// it does not.
func (r *reader) unheard(subject string, err error) {
	if r.ctx.Err() != nil {
		return
	}
	if denied := refusal(r.nc, subject); denied != nil && !errors.Is(err, nats.ErrNoResponders) {
		r.fail(fmt.Errorf("batcher %s: %w", r.cfg.Name, denied))
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.silentSince.IsZero() {
		r.silentSince = time.Now()
	}
	r.signal()
}

// heard compares how things stand with how we thought they stood.
func (r *reader) heard(sent *wire.Credit, reply *wire.CreditReply) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.seat.gen != sent.Gen || r.seat.number != sent.Seat {
		return // it answers a seat that we have left since
	}
	r.silentSince = time.Time{}
	if reply.Seat < sent.Seat {
		// An owner that was deposed before we sat down and does not know it, or a record that was lost. A request finds
		// out which.
		if r.started && r.sticky == nil {
			r.suspect(fmt.Sprintf("an owner speaks of seat %d, which is before ours", reply.Seat), false)
		}
		return
	}
	if reply.Reader != r.id && (reply.Reader != "" || r.started) {
		// Nobody has the seat only when whoever took it over has left it: a lease that runs out is still ours.
		r.failLocked(fmt.Errorf("batcher %s: %w: reader %s", r.cfg.Name, ErrSuperseded, cmp.Or(reply.Reader, "that has left since")))
		return
	}
	r.phase, r.trouble = reply.Phase, reply.Trouble
	if !r.started || r.sticky != nil {
		return
	}
	r.countWorkers(reply.Workers)
	switch {
	case reply.Phase == schema.PhaseClosed:
		r.failLocked(fmt.Errorf("batcher %s: %w", r.cfg.Name, ErrStopped))
	case reply.Seat != r.seat.number || reply.Gen != r.seat.gen:
		r.suspect(fmt.Sprintf("the owner moved on to seat %d of generation %s", reply.Seat, reply.Gen), false)
	case reply.Phase == schema.PhaseFailed:
		r.failedElsewhere(reply.Error)
	case reply.Phase == schema.PhaseStopped:
		r.suspect("the owner says that the batcher was never started", false)
	case reply.Window > 0:
		r.window = reply.Window
	}
}

// failedElsewhere takes over the owner's word that the run failed. With InOrder the batches before the
// failure come first, and the failure's own record after them. Called with mu held.
func (r *reader) failedElsewhere(f *schema.Fault) {
	if f == nil {
		f = &schema.Fault{Code: schema.CodeIterator, Gen: r.seat.gen}
	}
	if r.cfg.OnError == InOrder && f.Gen == r.seat.gen && f.Seq > r.taken {
		return
	}
	r.failLocked(r.cfg.faultError(f))
}

// countWorkers warns when nobody or only one works for this batcher. Called with mu held.
func (r *reader) countWorkers(n int) {
	// A coordinator that has just begun has not heard of anybody yet, so no worker is believed the second time.
	none := n == 0 && r.workers == 0
	r.workers = n
	switch {
	case n > 1:
		r.warnedNone = false
	case n == 1 && !r.warnedLone:
		r.warnedLone, r.warnedNone = true, false
		r.cfg.Logger.Warn("only one worker serves the data set", "dataset", r.cfg.Dataset)
	case none && !r.warnedNone:
		r.warnedNone = true
		r.cfg.Logger.Warn("no worker serves the data set", "dataset", r.cfg.Dataset)
	}
}

// mine asks the owner who holds the seat and reports whether it is ours to ask for again. A seat that nobody
// holds is opened again.
func (r *reader) mine(ctx context.Context) bool {
	reply, err := r.beat(ctx)
	switch {
	case err != nil:
		return true // nobody says otherwise: the next request will
	case reply.Reader == r.id:
		return true
	case reply.Reader != "":
		return false
	}
	_, err = r.requestSeat(ctx, sitting{mode: wire.ModeOpen})
	return !errors.Is(err, ErrInUse) && !errors.Is(err, ErrSuperseded)
}
