package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// taken is what Take hands to the typed layer.
type taken struct {
	seq        uint64
	prev, next schema.State
	timing     schema.Timing
	worker     string
	attempt    string
	deliveries uint64
	trace      string
	payload    payload
}

// call is one Take.
type call struct {
	began time.Time
	asked schema.State
}

// take is Batcher.Take on bytes: it moves to where the state is, waits for the head of the line there, and delivers it.
// The reader calls decode once for the batch that it returns, with the part of the payload that it has and the size in
// bytes of the whole. decode is a parameter of its own so that it does not escape to the heap.
func (r *reader) take(ctx context.Context, asked schema.State, decode func(payload []byte, size int) error) (taken, error) {
	c := call{time.Now(), asked}
	trace := r.cfg.traceOf(ctx)
	if err := r.turn.get(ctx, r.handle); err != nil {
		return taken{}, r.ended(ctx, c.began)
	}
	defer r.giveTurn()
	where, err := r.line.find(asked, trace)
	if err != nil {
		return taken{}, err
	}
	if err := r.cfg.checkState(asked); err != nil {
		return taken{}, err
	}
	if ctx.Err() != nil {
		return taken{}, r.cfg.waitError(ctx, c.began, "the context ended before Take began")
	}
	switch where {
	case unstarted:
		err = r.seats.begin(ctx, asked, false)
	case elsewhere:
		err = r.move(ctx, asked)
	}
	var t taken
	if err == nil {
		t, err = r.next(ctx, c, decode)
	}
	return t, countFrom(c.began, err)
}

// countFrom has the error of a wait count from the beginning of its call: what ended may be the last of several waits.
func countFrom(began time.Time, err error) error {
	if err == nil {
		return nil
	}
	var wait *WaitError
	if errors.As(err, &wait) {
		wait.Waited = time.Since(began)
	}
	return err
}

// ended is the error of a wait for the turn: of the handle, which says enough, or of the context. Both may have ended.
func (r *reader) ended(ctx context.Context, began time.Time) error {
	if r.handle.Err() != nil {
		return context.Cause(r.handle)
	}
	return r.cfg.waitError(ctx, began, "another Take or Start is under way")
}

// move seats the reader at another state than the head's, unless there is a failure that FailFast brings forward.
func (r *reader) move(ctx context.Context, asked schema.State) error {
	if s := r.line.look(time.Now(), 0); s.failed != nil {
		if over, err := r.believe(ctx, s.failed); over || err != nil {
			return err
		}
	}
	r.line.moved()
	head, gen, seq := r.line.head()
	r.cfg.Logger.Warn("moving to another state", "gen", gen, "seq", seq, "state", asked, "head", head)
	return r.seats.sit(ctx, sitting{mode: wire.ModeSeek, state: asked})
}

// next waits for the head of the line and delivers it.
func (r *reader) next(ctx context.Context, c call, decode func(payload []byte, size int) error) (taken, error) {
	p := newPatience(c.began)
	defer p.stop()
	defer r.line.note("", false)
	var changed <-chan struct{} // nil while Take does not wait
	for {
		s := r.line.look(time.Now(), time.Since(c.began))
		switch {
		case s.err != nil:
			return taken{}, s.err
		case s.doubt:
			if err := r.seats.repair(ctx); err != nil {
				return taken{}, err
			}
			p.reset()
			continue
		case s.failed != nil:
			if over, err := r.believe(ctx, s.failed); over || err != nil {
				return taken{}, err
			}
			continue
		}
		switch s.outcome {
		case reorder.Batch:
			return r.deliver(c, s.entry, decode)
		case reorder.Hole:
			if r.line.pass(&s.entry, time.Now()) {
				r.credits.publish()
			}
			if ctx.Err() != nil { // a data set may have nothing but holes
				return taken{}, r.cfg.waitError(ctx, c.began, r.line.lacks(time.Now()))
			}
			continue
		case reorder.Failed, reorder.End:
			if over, err := r.believe(ctx, s.entry.Result); over || err != nil {
				return taken{}, err
			}
			continue
		}
		if changed == nil { // asked for before the look that finds nothing, so that no news comes in between
			changed = r.line.changed.wait()
			continue
		}
		p.straggle = s.straggle
		select {
		case <-changed:
			changed = nil
			continue
		case <-p.alarm():
			r.pursue(p, &s, time.Now())
		case <-ctx.Done():
			return taken{}, r.cfg.waitError(ctx, c.began, r.line.lacks(time.Now()))
		}
	}
}

// pursue does what is due during a wait: it looks into the store, asks the owner, says what straggles, and warns.
func (r *reader) pursue(p *patience, s *sight, now time.Time) {
	if look, ask := p.dueLook(now); look {
		s.sess.headNow.give()
		if ask {
			r.line.note(r.line.lacks(now), true)
			r.credits.due.give()
		}
	}
	if p.dueStraggler(now) && r.line.straggles(now) {
		r.credits.publish()
	}
	if p.dueWarning(now) {
		r.cfg.Logger.Warn("still waiting", "for", r.line.lacks(now), "waited", now.Sub(p.began).Round(time.Millisecond))
	}
}

// deliver hands the head out. Only when it decodes is it taken.
func (r *reader) deliver(c call, entry reorder.Entry[arrival], decode func(payload []byte, size int) error) (taken, error) {
	res, got := entry.Result, &entry.Value
	if err := decode(got.payload.bytes, int(res.Size)); err != nil {
		var no declined
		if errors.As(err, &no) {
			return taken{}, no.error
		}
		return taken{}, r.undecoded(res.Seq, err)
	}
	timing, following, due := r.count(c.began, &entry, time.Now())
	if due {
		r.credits.publish()
	}
	from := c.asked
	if from.Origin != "" && from.Origin != following.Origin { // accepted, and gone on from where the data set says
		from = following
		from.Data = res.Prev
	}
	prev, next := apart(from.Data, res.Next)
	t := taken{
		seq: res.Seq, prev: from, next: following, timing: timing,
		worker: res.Worker, attempt: res.Attempt, deliveries: res.Deliveries, payload: got.payload, trace: got.trace,
	}
	t.prev.Data, t.next.Data = prev, next
	return t, nil
}

// count counts the head as taken by a call that began then. It returns where the time of the batch went, what names the
// states of the seat, and whether a credit is due.
func (r *reader) count(
	began time.Time, entry *reorder.Entry[arrival], now time.Time,
) (timing schema.Timing, named schema.State, due bool) {
	timing = timingOf(entry.Result, &entry.Value, r.line.shared(began), began, now)
	r.meters.observe(&timing)
	named, due = r.line.deliver(entry, &timing, began, now)
	return timing, named, due
}

// undecoded is the error of a batch that does not decode. In a world it ends the run, since the other ranks would wait
// for this one: at the same batch where it is the batch's, at once where it is this rank's alone.
func (r *reader) undecoded(seq uint64, err error) error {
	said := r.cfg.decodeError(seq, err)
	if r.cfg.World == nil {
		return said
	}
	fault := &schema.Fault{Code: schema.CodeRankLost, Message: said.Error()}
	switch {
	case errors.Is(err, ErrUneven):
		fault.Code, fault.Seq = schema.CodeUneven, seq
	case errors.Is(err, ErrNotRows):
		fault.Code, fault.Seq = schema.CodeNotRows, seq
	}
	said = r.run.blame(said, fault)
	r.credits.publish()
	return said
}

// apart copies the data of two states into memory that neither the line nor the caller knows: what the caller changes
// in one of them changes nothing else.
func apart(prev, next []byte) (ofPrev, ofNext []byte) {
	both := append(append(make([]byte, 0, len(prev)+len(next)), prev...), next...)
	if prev != nil {
		ofPrev = both[:len(prev):len(prev)]
	}
	return ofPrev, both[len(prev):]
}

// believe acts on an error or the end of the data, and reports whether the run is over with it. A coordinator's verdict
// counts only if its record agrees; if not, a coordinator that was deposed published it, and a new seat is needed.
func (r *reader) believe(ctx context.Context, res *wire.Result) (over bool, err error) {
	fault := res.Fault
	if fault == nil && res.Kind == wire.KindError {
		fault = &schema.Fault{Code: schema.CodeMaterialize}
	}
	_, gen, _ := r.line.head()
	if res.Kind == wire.KindEnd || ofCoordinator(fault.Code) {
		agrees, err := r.record.agrees(ctx, gen, res)
		if err != nil {
			return false, err
		}
		if !agrees {
			r.line.disbelieve(res, fmt.Sprintf("the %v at batch %d is not in the batcher's record", res.Kind, res.Seq))
			return false, nil
		}
	}
	if res.Kind == wire.KindEnd {
		if err = r.line.finish(res); isEnd(err) {
			r.credits.due.give()
		}
	} else {
		f := *fault
		f.Gen, f.Seq = gen, res.Seq
		if f.Worker == "" {
			f.Worker = res.Worker
		}
		err = r.run.blame(r.cfg.faultError(&f), &f)
	}
	r.credits.publish()
	return true, err
}
