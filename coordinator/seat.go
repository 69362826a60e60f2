package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// errStalled says that Start did not return in time.
var errStalled = errors.New("Start has not returned")

func openFault(err error) *schema.Fault {
	code := schema.CodeIterator
	if errors.Is(err, kind.ErrBadParams) {
		code = schema.CodeBadParams
	}
	var p *kind.PanicError
	f := &schema.Fault{Code: code, Message: err.Error()}
	if errors.As(err, &p) {
		f.Stack = string(p.Stack)
	}
	return f
}

// seat answers a request for the right to take.
func (b *batcher) seat(req *wire.SeatRequest) wire.SeatReply {
	if req.Wire != wire.Version {
		return wire.SeatReply{Fault: b.c.foreign(req)}
	}
	reply := b.decide(req)
	reply.Wire = wire.Version
	if reply.Fault != nil && reply.Fault.Code != schema.CodeUnavailable {
		// What is given is in the record. What is refused is only right if nobody else has given it meanwhile.
		if fault := b.confirm(); fault != nil {
			return wire.SeatReply{Fault: fault}
		}
	}
	return reply
}

// confirm finds out whether this coordinator owns the batcher still; if not, or if nobody knows, the fault says so.
func (b *batcher) confirm() *schema.Fault {
	ctx, cancel := b.c.call(recordTimeout)
	defer cancel()
	stored, _, err := b.c.read(ctx, b.name)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return nil // lost; there is only what we know
	case err != nil:
		return unavailable("record of batcher %s: %v", b.name, err)
	case stored.Owner != b.c.cfg.Name:
		b.depose(stored.Owner)
		return unavailable("batcher %s is changing hands", b.name)
	}
	return nil
}

func (b *batcher) decide(req *wire.SeatRequest) wire.SeatReply {
	same := b.rec.Reader == req.Reader
	switch {
	case b.overtaken(req.Reader, req.Request):
		return refuse(schema.CodeSuperseded, "this request was overtaken by a later one")
	case same && req.Request == b.rec.Request:
		if r := b.repeated(req); r != nil {
			return *r
		}
	case !same && req.Mode != wire.ModeOpen:
		return refuse(schema.CodeSuperseded, fmt.Sprintf("batcher %s is held by reader %s", b.name, b.rec.Reader))
	}
	b.follow(req.Trace)
	var reply wire.SeatReply
	switch req.Mode {
	case wire.ModeOpen:
		reply = b.sit(req)
	case wire.ModeStart, wire.ModeSeek:
		reply = b.seek(req)
	default:
		return refuse(schema.CodeBadRequest, fmt.Sprintf("unknown mode %q", req.Mode))
	}
	if reply.Fault == nil {
		b.heard, b.last = time.Now(), wire.Credit{Gen: b.rec.Gen, Seat: b.rec.Seat, Reader: b.rec.Reader, BatchBytes: b.rec.BatchBytes}
		b.hint(b.notify) // the one who asked hears it by the answer, and should not have to say that it did before
	}
	return reply
}

// overtaken reports whether a request of a reader is older than what it was last answered, or than the loss of its
// seat: a duplicate that comes so late changes nothing.
func (b *batcher) overtaken(reader, request string) bool {
	if reader == b.rec.Reader {
		return request < b.rec.Request
	}
	return slices.ContainsFunc(b.rec.Former, func(f wire.Former) bool { return f.Reader == reader && request <= f.Request })
}

// vacate notes in the record that its reader has the seat no more.
func vacate(r *wire.Record) {
	if r.Reader == "" {
		return
	}
	former := append(slices.Clone(r.Former), wire.Former{Reader: r.Reader, Request: r.Request})
	r.Former = former[max(0, len(former)-wire.MaxFormer):]
	r.Reader, r.Request = "", ""
}

// repeated answers a request that was carried out before and whose answer was lost; nil when it is to be carried out
// again: the generation that it began could not be set up, or was lost meanwhile and begun again at another state.
func (b *batcher) repeated(req *wire.SeatRequest) *wire.SeatReply {
	r := b.seatReply(false)
	switch {
	case req.Mode == wire.ModeOpen:
	case b.gen != nil && len(r.State.Data) == 0: // after a takeover, until the run has been iterated again so far
		r = wire.SeatReply{Fault: unavailable("the run was taken over and is being iterated again from %d", b.gen.Floor())}
	case b.gen != nil:
		if state, fault := b.stateOf(req.State); fault == nil && !bytes.Equal(state, r.State.Data) {
			return nil
		}
	case b.rec.Phase == schema.PhaseFailed:
		r = wire.SeatReply{Fault: b.rec.Error}
	case b.rec.Phase == schema.PhaseClosed:
		r = refuse(schema.CodeStopped, fmt.Sprintf("batcher %s was stopped after this request", b.name))
	default:
		return nil
	}
	return &r
}

func refuse(code, message string) wire.SeatReply {
	return wire.SeatReply{Fault: &schema.Fault{Code: code, Message: message}}
}

// sit gives the batcher to a reader without starting it.
func (b *batcher) sit(req *wire.SeatRequest) wire.SeatReply {
	spec := wire.Spec{Dataset: req.Spec.Dataset, Version: b.kind.Version, Params: req.Spec.Params}
	differs := spec.Digest() != b.rec.Spec.Digest()
	var warnings []string
	if held := b.held() && b.rec.Reader != req.Reader; held && b.rec.Phase != schema.PhaseClosed {
		switch {
		case differs:
			return refuse(schema.CodeSpecMismatch, fmt.Sprintf("batcher %s runs data set %s with parameters %s; stop it, or use another name",
				b.name, b.rec.Spec.Dataset, b.rec.Spec.Params))
		case !req.TakeOver:
			return refuse(schema.CodeInUse, fmt.Sprintf("batcher %s is held by reader %s, last heard %v ago; take over, or use another name",
				b.name, b.rec.Reader, time.Since(b.heard).Round(time.Millisecond)))
		}
	}
	k := b.c.kinds[spec.Dataset]
	if k == nil {
		return wire.SeatReply{Fault: b.c.unknownDataset(spec.Dataset)}
	}
	spec.Version = k.Version
	inst, release, err := k.Acquire(b.c.ctx, spec.Params)
	if err != nil {
		return wire.SeatReply{Fault: openFault(err)}
	}
	// A run that ended badly, was stopped, or was of another spec is over; any other goes on.
	over := differs || b.rec.Phase == schema.PhaseFailed || b.rec.Phase == schema.PhaseClosed
	before := b.rec.Gen
	err = b.update(func(r *wire.Record) {
		if r.Reader != req.Reader {
			vacate(r)
		}
		r.Reader, r.Request, r.Settings, r.Since = req.Reader, req.Request, req.Settings, time.Now()
		r.Seat++
		if over {
			r.Spec, r.Gen, r.Phase, r.Error, r.Verdict, r.FloorState = spec, "", schema.PhaseStopped, nil, nil, nil
			if differs {
				r.BatchBytes = 0
			}
		}
	})
	if err != nil {
		release()
		return wire.SeatReply{Fault: unavailable("record of batcher %s: %v", b.name, err)}
	}
	if over {
		if differs && before != "" {
			warnings = append(warnings, "the data set or its parameters changed since the batcher last ran")
		}
		b.halt()
		b.discard(before)
	}
	b.closeDataset()
	b.kind, b.inst, b.release = k, inst, release
	b.resize()
	return b.seatReply(false, warnings...)
}

// seek sits the reader at a state: where it is held, or in a new generation.
func (b *batcher) seek(req *wire.SeatRequest) wire.SeatReply {
	if fault := b.open(); fault != nil {
		return wire.SeatReply{Fault: fault}
	}
	state, fault := b.stateOf(req.State)
	if fault != nil {
		return wire.SeatReply{Fault: fault}
	}
	seated := func(r *wire.Record) {
		r.Request, r.Reader, r.Since = req.Request, req.Reader, time.Now()
		r.Seat++
	}
	if b.gen != nil && !b.silent.IsZero() && req.Mode == wire.ModeSeek {
		return wire.SeatReply{Fault: unavailable("the store of results does not answer")}
	}
	if b.gen != nil && !b.gen.settled && req.Mode == wire.ModeSeek {
		return wire.SeatReply{Fault: unavailable("the run was taken over and is being iterated again from %d", b.gen.Floor())}
	}
	if position, ok := b.find(req.Mode, state); ok {
		err := b.update(func(r *wire.Record) {
			seated(r)
			r.Position, r.Taken, r.Phase = position, position-1, schema.PhaseRunning
		})
		if err != nil {
			return wire.SeatReply{Fault: unavailable("record of batcher %s: %v", b.name, err)}
		}
		b.gen.saved = position - 1
		b.cancelJobs(b.gen.Seek(position))
		b.gen.backup = 0
		b.gen.looked, b.gen.pause = time.Time{}, 0
		// What was skipped over before may be wanted now, and the store may be lost; but who looks up what is held waits for
		// none of it. If the actor is too busy to look now, the reader will say that its head is late.
		b.hint(b.repair)
		b.demand()
		b.count.held++
		b.log.Info("seated at a held state", "gen", b.rec.Gen, "seat", b.rec.Seat, "seq", position)
		return b.seatReply(true)
	}
	if fault := b.begin(state, false, seated); fault != nil {
		return wire.SeatReply{Fault: fault}
	}
	return b.seatReply(false)
}

// find looks a state up in what is held. A start is always a new generation.
func (b *batcher) find(mode wire.Mode, state []byte) (uint64, bool) {
	if b.gen == nil || mode == wire.ModeStart {
		return 0, false
	}
	return b.gen.Find(state)
}

// stateOf returns the data of a state that was asked for, or of the data set's first one.
func (b *batcher) stateOf(s schema.State) ([]byte, *schema.Fault) {
	if s.IsZero() {
		data, err := b.first()
		if err != nil {
			f := iteratorFault(err)
			if errors.Is(err, kind.ErrNoStart) || f == nil {
				f = &schema.Fault{Code: schema.CodeWrongState, Message: err.Error()}
			}
			return nil, f
		}
		return data, nil
	}
	spec := b.rec.Spec
	if s.Dataset != "" && (s.Dataset != spec.Dataset || s.Version != spec.Version) {
		return nil, &schema.Fault{Code: schema.CodeWrongState, Message: fmt.Sprintf(
			"the state is of data set %s version %d, the batcher's is %s version %d", s.Dataset, s.Version, spec.Dataset, spec.Version)}
	}
	if len(s.Data) > schema.MaxState {
		return nil, &schema.Fault{Code: schema.CodeStateTooLarge, Message: fmt.Sprintf("state of %d bytes; at most %d", len(s.Data), schema.MaxState)}
	}
	return bytes.Clone(s.Data), nil
}

// first is the data set's first state. A Start that does not return within the time for Next leaves its goroutine
// behind, and the actor goes on.
func (b *batcher) first() ([]byte, error) {
	type answer struct {
		data []byte
		err  error
	}
	done, start := make(chan answer, 1), b.inst.Start
	go func() {
		data, err := start()
		done <- answer{data, err}
	}()
	limit := time.NewTimer(b.c.cfg.Stall)
	defer limit.Stop()
	select {
	case a := <-done:
		return a.data, a.err
	case <-limit.C:
		return nil, errStalled
	case <-b.c.ctx.Done():
		return nil, context.Cause(b.c.ctx)
	}
}

// cancelJobs removes the jobs in [from, to) that nobody has begun; those that run find their results unwanted.
func (b *batcher) cancelJobs(from, to uint64) {
	if from >= to {
		return
	}
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	err := topology.DeleteJobs(ctx, b.c.js, b.kindToken(), b.name, b.rec.Gen, from, to)
	if err != nil {
		b.log.Warn("skipped jobs not cancelled", "from", from, "to", to, "error", err)
	}
}

func (b *batcher) seatReply(held bool, warnings ...string) wire.SeatReply {
	r := wire.SeatReply{Gen: b.rec.Gen, Seat: b.rec.Seat, Position: b.rec.Position, Phase: b.rec.Phase, Held: held, Warnings: warnings}
	if b.gen != nil {
		r.Window = b.gen.Limit()
		r.State = schema.State{Dataset: b.rec.Spec.Dataset, Version: b.rec.Spec.Version, Data: b.gen.StateAfter(b.rec.Position - 1)}
	}
	return r
}

// stop ends the run, or lets the reader leave it to another.
func (b *batcher) stop(req *wire.StopRequest) wire.StopReply {
	seated, overtaken := b.rec.Reader == req.Reader, b.overtaken(req.Reader, req.Request)
	if !seated || overtaken { // nothing is written, by which a coordinator that was deposed would find out
		if fault := b.confirm(); fault != nil {
			return wire.StopReply{Fault: fault}
		}
	}
	switch {
	case !seated && (b.rec.Phase == schema.PhaseClosed || b.rec.Reader == ""):
		return wire.StopReply{Error: b.rec.Error}
	case !seated:
		return wire.StopReply{Fault: &schema.Fault{Code: schema.CodeSuperseded, Message: fmt.Sprintf("batcher %s is held by reader %s", b.name, b.rec.Reader)}}
	case overtaken:
		return wire.StopReply{Fault: &schema.Fault{Code: schema.CodeSuperseded, Message: "this request was overtaken by a later one"}}
	}
	if req.Last != nil {
		b.credit(req.Last)
	}
	before, failure := b.rec.Gen, b.rec.Error
	err := b.update(func(r *wire.Record) {
		r.Since, r.Request = time.Now(), req.Request
		if b.gen != nil {
			r.Taken = b.gen.Taken()
		}
		if req.Leave {
			vacate(r)
			r.Seat++
			return
		}
		r.Phase, r.Gen, r.Verdict, r.FloorState = schema.PhaseClosed, "", nil, nil
	})
	if err != nil {
		return wire.StopReply{Fault: unavailable("record of batcher %s: %v", b.name, err)}
	}
	if !req.Leave {
		b.halt()
		b.discard(before)
		b.log.Info("batcher stopped", "gen", before)
	}
	b.notify()
	return wire.StopReply{Error: failure}
}
