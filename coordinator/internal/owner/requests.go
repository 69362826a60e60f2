package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// maxQueued is how many requests may wait; one more is told to ask again.
const maxQueued = 64

// asking is a request. Every step that may wait ends in an event, after which the request is decided anew: what was
// true before may not be true any more.
type asking struct {
	token    Token
	seat     *wire.SeatRequest // one of the three
	stop     *wire.StopRequest
	end      *EndAsked
	key      wire.Digest // of the Spec that seat asks for
	asked    time.Time
	patience time.Time // until when it waits for a data set to open; zero while it does not
	readying bool      // a Ready is under way
	ready    bool      // a generation can be made now
	making   bool      // the generation is in the record and its store is being made

	over     bool     // sit: the run before is over
	differs  bool     // sit: it is of another spec
	changed  string   // how the data differ from those that the data set has now
	before   lane     // the generation before
	rebasing uint64   // seek: the data set that is asked for rebased; 0 for none
	rebased  *Rebased // seek: where the state goes on
	position uint64   // seek: of the state that is held
	closes   bool     // stop: it ends the run
	failure  *schema.Fault
}

// requests are the one that is being carried out and those that wait for it, in order.
type requests struct {
	out     *effects
	answers *answers
	queue   []*asking
	asking  *asking // nil for none
}

// add puts a request behind those before it, and reports whether there was room.
func (r *requests) add(a *asking, batcher string) bool {
	if len(r.queue) >= maxQueued {
		r.answer(a, unavailable("%d requests for batcher %s wait already; ask again", len(r.queue), batcher))
		return false
	}
	r.queue = append(r.queue, a)
	return true
}

// idle reports whether there is no request.
func (r *requests) idle() bool { return r.asking == nil && len(r.queue) == 0 }

// pop takes the request at the head of the queue.
func (r *requests) pop() *asking {
	a := r.queue[0]
	r.queue = r.queue[1:]
	return a
}

// answer answers a request that failed, without a doubt.
func (r *requests) answer(a *asking, fault *schema.Fault) {
	if a.seat == nil {
		r.out.emit(ReplyStop{a.token, wire.StopReply{Fault: fault}})
	} else {
		r.out.emit(ReplySeat{a.token, wire.SeatReply{Fault: fault}})
	}
}

// refuse ends the request under way with a fault, which is confirmed first unless it only says to ask again.
func (r *requests) refuse(fault *schema.Fault) {
	a := r.asking
	r.asking = nil
	switch {
	case a == nil: // it was answered when the batcher changed hands
	case fault.Code == schema.CodeUnavailable:
		r.answer(a, fault)
	case a.seat == nil:
		r.answers.confirm(ReplyStop{a.token, wire.StopReply{Fault: fault}})
	default:
		r.answers.confirm(ReplySeat{a.token, wire.SeatReply{Fault: fault}})
	}
}

// confirm ends the request under way with an answer that is confirmed first.
func (r *requests) confirm(reply Effect) {
	r.asking = nil
	r.answers.confirm(reply)
}

// end ends the request under way with an answer that is in the record, or was.
func (r *requests) end(reply Effect) {
	r.asking = nil
	r.out.emit(reply)
}

// redirect tells all that wait to ask again.
func (r *requests) redirect() {
	waiting := r.queue
	if r.asking != nil {
		waiting = append(waiting, r.asking)
	}
	for _, a := range waiting {
		r.answer(a, changingHands)
	}
	r.queue, r.asking = nil, nil
	r.answers.redirect()
}
