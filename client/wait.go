package client

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Waits of Take. The owner is asked from lookAgain on: by then a live message that was lost is not the
// likely reason any more.
const (
	firstLook = 200 * time.Millisecond
	lookAgain = time.Second
	firstWarn = 5 * time.Second
	silence   = 1500 * time.Millisecond // an owner that does not answer for so long may be gone
)

// next waits for the head of the line and takes it.
func (r *reader) next(ctx context.Context, began time.Time, decode func([]byte) error) (taken, error) {
	p := newPatience(began)
	defer p.stop()
	defer r.setWaiting("", false)
	for {
		r.mu.Lock()
		switch {
		case r.closed:
			r.mu.Unlock()
			return taken{}, r.errClosed()
		case r.sticky != nil:
			err := r.sticky
			r.mu.Unlock()
			return taken{}, err
		case r.eof:
			r.mu.Unlock()
			return taken{}, io.EOF
		}
		if r.doubt == "" && r.cfg.OnError == FailFast {
			if res, ok := r.buf.FirstError(); ok {
				r.mu.Unlock()
				if failed, err := r.believe(ctx, res); failed || err != nil {
					return taken{}, err
				}
				continue
			}
		}
		entry, outcome := r.buf.Look()
		if r.doubt != "" {
			outcome = reorder.Broken
		}
		switch outcome {
		case reorder.Batch:
			r.mu.Unlock()
			return r.deliver(entry, began, decode)
		case reorder.Hole:
			r.count.holes++
			r.advance(entry)
			r.mu.Unlock()
			continue
		case reorder.Failed, reorder.End:
			r.mu.Unlock()
			if done, err := r.believe(ctx, entry.Result); done || err != nil {
				return taken{}, err
			}
			continue
		case reorder.Broken:
			if r.doubt == "" {
				r.suspect(fmt.Sprintf("batch %d does not follow from the state before it", entry.Result.Seq), true)
				r.buf.Forget(entry.Result)
			}
			r.mu.Unlock()
			if err := r.repair(ctx); err != nil {
				return taken{}, err
			}
			p.again()
			continue
		}
		what, ask := r.waitingFor(outcome), r.sess
		p.straggle = r.straggleAt()
		if !r.silentSince.IsZero() && time.Since(r.silentSince) > silence && time.Since(p.began) > lookAgain {
			// Nobody feeds this batcher as far as we can tell; whoever can will answer a request for a seat.
			r.suspect(ownerSilent, false)
			r.mu.Unlock()
			continue
		}
		r.mu.Unlock()
		if err := r.wait(ctx, p, what, ask); err != nil {
			return taken{}, err
		}
	}
}

// wait ends when something changed, or it is time to look again.
func (r *reader) wait(ctx context.Context, p *patience, what string, sess *session) error {
	p.arm()
	select {
	case <-r.wake:
		return nil
	case <-ctx.Done():
		return r.waitError(ctx, p.began, what)
	case <-p.timer.C:
	}
	now := time.Now()
	if !now.Before(p.look) {
		asked := p.look.Sub(p.since) >= lookAgain
		p.look = now.Add(lookAgain)
		if !asked {
			p.look = p.since.Add(lookAgain)
		}
		if sess != nil {
			sess.lookSoon()
		}
		if asked {
			r.setWaiting(what, true)
			r.beatSoon()
		}
	}
	if !p.straggle.IsZero() && !now.Before(p.straggle) {
		r.sayStraggler()
	}
	if !now.Before(p.warn) {
		r.cfg.Logger.Warn("still waiting", "for", what, "waited", now.Sub(p.began).Round(time.Millisecond))
		p.warn = now.Add(now.Sub(p.began))
	}
	return nil
}

// patience is the timing of one wait.
type patience struct {
	began, since time.Time // of the wait, and of what is being waited for now
	look, warn   time.Time
	straggle     time.Time // when the head is a straggler; zero for never
	timer        *time.Timer
}

func newPatience(now time.Time) *patience {
	return &patience{began: now, since: now, look: now.Add(firstLook), warn: now.Add(firstWarn)}
}

func (p *patience) again() {
	p.since = time.Now()
	p.look = p.since.Add(firstLook)
}

func (p *patience) arm() {
	next := p.look
	if p.warn.Before(next) {
		next = p.warn
	}
	if !p.straggle.IsZero() && p.straggle.Before(next) {
		next = p.straggle
	}
	if p.timer == nil {
		p.timer = time.NewTimer(time.Until(next))
		return
	}
	p.timer.Reset(time.Until(next))
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// nag says now and then what a request waits for, as Take does of batches.
type nag struct {
	began time.Time
	next  time.Duration
}

func newNag() *nag { return &nag{began: time.Now(), next: firstWarn} }

func (r *reader) nag(n *nag, what string) {
	if waited := time.Since(n.began); waited > n.next {
		n.next = 2 * waited
		r.cfg.Logger.Warn("still waiting", "for", what, "waited", waited.Round(time.Millisecond))
	}
}

// waitingFor names what the head lacks. Called with mu held.
func (r *reader) waitingFor(o reorder.Outcome) string {
	if o == reorder.Fetching {
		return fmt.Sprintf("the payload of batch %d of generation %s is being fetched", r.buf.Head(), r.seat.gen)
	}
	text := fmt.Sprintf("batch %d of generation %s is not committed", r.buf.Head(), r.seat.gen)
	switch {
	case !r.data.IsConnected() || !r.nc.IsConnected():
		text += "; there is no connection to NATS"
	case !r.silentSince.IsZero():
		text += fmt.Sprintf("; no coordinator has answered for %v", time.Since(r.silentSince).Round(time.Second))
	case r.trouble != "":
		text += "; " + r.trouble
	case r.workers == 0:
		text += fmt.Sprintf("; no worker serves data set %s", r.cfg.Dataset)
	}
	return text
}

func (r *reader) waitError(ctx context.Context, began time.Time, what string) error {
	return &WaitError{Batcher: r.cfg.Name, For: what, Waited: time.Since(began), Cause: context.Cause(ctx)}
}

func (r *reader) setWaiting(what string, late bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting, r.late = what, late
}

// deliver hands the head out. Only when it decodes is it taken.
func (r *reader) deliver(entry reorder.Entry[arrival], began time.Time, decode func([]byte) error) (taken, error) {
	res, got := entry.Result, entry.Value
	if err := decode(got.payload.bytes); err != nil {
		return taken{}, r.cfg.decodeError(res.Seq, err)
	}
	now := time.Now()
	timing := timingOf(res, &got, began, now)
	r.meters.observe(&timing)
	r.mu.Lock()
	if !r.lastTake.IsZero() {
		timing.Trainer = began.Sub(r.lastTake)
	}
	r.lastTake = now
	r.total.Add(timing)
	r.count.batches++
	if res.Deliveries > 1 {
		r.count.redelivered++
	}
	r.totalBytes += int64(res.Size)
	r.largestBatch = max(r.largestBatch, int64(res.Size))
	if !got.direct {
		r.largestStored = max(r.largestStored, int64(res.Size))
	}
	// A payload took about as long on its way into the store as out of it.
	r.pace.Observe(res.Worker, int64(res.Materialize+got.arrived.Sub(got.came)))
	r.doubts, r.repairs = 0, 0
	next := schema.State{Dataset: r.cfg.Dataset, Version: r.version, Data: res.Next}
	r.advance(entry)
	r.mu.Unlock()
	return taken{
		seq: res.Seq, next: next, timing: timing, worker: res.Worker, attempt: res.Attempt, deliveries: res.Deliveries, payload: got.payload,
		trace: got.trace,
	}, nil
}

// advance moves past the head and credits it now and then. Called with mu held.
func (r *reader) advance(entry reorder.Entry[arrival]) {
	if head, _ := r.buf.Look(); head.Result != entry.Result || !r.buf.Advance() {
		return // stopped or re-seated meanwhile
	}
	r.taken = entry.Result.Seq
	r.uncover()
	if r.sess != nil {
		r.sess.fetchSoon() // there is room now
	}
	if r.sinceCredit++; r.sinceCredit >= max(1, r.window/4) {
		r.publishCredit()
	}
}

// believe acts on an error or the end of the data, and reports whether it did. A coordinator's verdict
// counts only if its record agrees; if not, somebody who was deposed published it, and a new seat is needed.
func (r *reader) believe(ctx context.Context, res *wire.Result) (bool, error) {
	fault := res.Fault
	if fault == nil && res.Kind == wire.KindError {
		fault = &schema.Fault{Code: schema.CodeMaterialize}
	}
	if res.Kind == wire.KindEnd || ofCoordinator(fault.Code) {
		agrees, err := r.verdictAgrees(ctx, res)
		if err != nil {
			return false, err
		}
		if !agrees {
			r.mu.Lock()
			r.buf.Forget(res)
			r.suspect(fmt.Sprintf("the %v at batch %d is not in the batcher's record", res.Kind, res.Seq), true)
			r.mu.Unlock()
			return false, nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sticky != nil {
		return true, r.sticky
	}
	if res.Kind == wire.KindEnd {
		r.eof, r.taken, r.doubts, r.repairs = true, res.Seq, 0, 0
		r.publishCredit()
		r.beatSoon()
		return true, io.EOF
	}
	f := *fault
	f.Gen, f.Seq = r.seat.gen, res.Seq
	if f.Worker == "" {
		f.Worker = res.Worker
	}
	r.failed = &f
	err := r.cfg.faultError(&f)
	r.publishCredit()
	r.failLocked(err)
	return true, err
}
