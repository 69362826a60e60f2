package coordinator

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/schema"
)

// answerWithin is how long a request waits for its answer before it is told what takes so long. It is less than the
// least that a client waits, so that no client mistakes a busy batcher for a silent coordinator.
const answerWithin = 1500 * time.Millisecond

// places are the requests that are being carried out. Their number is bounded in all, for each batcher and for each
// reader, so that requests that hang take no place of another batcher's or reader's. A repetition joins the request
// under way. A slow request gives back its place among all and keeps that of its batcher.
type places struct {
	mu     sync.Mutex
	taken  int
	shares map[string]*share
	joint  map[string]*flight // by id
}

// share is the number of places that one batcher or reader has taken.
type share struct {
	n     int
	first time.Time // when the first of them began
}

// flight is a request that is being carried out.
type flight struct {
	id     string // empty: repetitions do not join
	data   []byte
	shares []string // places.mu guards them
	began  time.Time
	fast   bool // it has a place among all; places.mu guards it

	mu    sync.Mutex // after places.mu
	stage string     // what is being done, for people
	asked []*waiter
}

// waiter is one message that asks for the answer.
type waiter struct {
	msg   *nats.Msg
	timer *time.Timer
}

// plan says which places a request takes.
type plan struct {
	id     string // by which a repetition is known; empty where it is carried out again
	stage  string // what is done first, for people
	bounds []bound
}

// bound is a share that a request takes a place of.
type bound struct {
	key  string
	max  int
	what string // for people: batcher train
}

// enter gives the request a place, or joins it to the same one under way (flight nil, fault nil), or says why it has to
// be asked again.
func (p *places) enter(m *nats.Msg, plan plan, late func(*flight, *waiter)) (*flight, *schema.Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.joint[plan.id]; f != nil && plan.id != "" && bytes.Equal(f.data, m.Data) {
		return nil, f.join(m, late)
	}
	if p.taken >= maxRequests {
		return nil, unavailable("%d requests are being carried out; ask again", maxRequests)
	}
	now := time.Now()
	for _, b := range plan.bounds {
		if s := p.shares[b.key]; s != nil && s.n >= b.max {
			return nil, unavailable("%s has %d requests under way, the first since %v; ask again",
				b.what, s.n, now.Sub(s.first).Round(100*time.Millisecond))
		}
	}
	if p.shares == nil {
		p.shares, p.joint = make(map[string]*share), make(map[string]*flight)
	}
	f := &flight{id: plan.id, data: m.Data, began: now, stage: plan.stage, fast: true}
	p.taken++
	for _, b := range plan.bounds {
		s := p.shares[b.key]
		if s == nil {
			s = &share{first: now}
			p.shares[b.key] = s
		}
		s.n++
		f.shares = append(f.shares, b.key)
	}
	if plan.id != "" {
		p.joint[plan.id] = f
	}
	return f, f.join(m, late)
}

// join has the answer sent to one more message. After answerWithin, late has it answered with how things stand.
func (f *flight) join(m *nats.Msg, late func(*flight, *waiter)) *schema.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) >= maxJoined {
		return f.pendingLocked()
	}
	w := &waiter{msg: m}
	w.timer = time.AfterFunc(answerWithin, func() { late(f, w) })
	f.asked = append(f.asked, w)
	return nil
}

// slow takes back the flight's place among all.
func (p *places) slow(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.fast {
		f.fast = false
		p.taken--
	}
}

// leave gives the places back, after the request was carried out; once.
func (p *places) leave(f *flight) {
	p.slow(f)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range f.shares {
		if s := p.shares[key]; s.n > 1 {
			s.n--
		} else {
			delete(p.shares, key)
		}
	}
	f.shares = nil
	if f.id != "" && p.joint[f.id] == f {
		delete(p.joint, f.id)
	}
}

// doing notes what takes its time.
func (f *flight) doing(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stage = fmt.Sprintf(format, args...)
}

// give takes a waiter out, to be answered; false when it was.
func (f *flight) give(w *waiter) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.asked {
		if other == w {
			f.asked = append(f.asked[:i:i], f.asked[i+1:]...)
			return true
		}
	}
	return false
}

// land takes out all that wait for the answer. None can join any more once places.leave was called.
func (f *flight) land() []*nats.Msg {
	f.mu.Lock()
	defer f.mu.Unlock()
	messages := make([]*nats.Msg, 0, len(f.asked))
	for _, w := range f.asked {
		w.timer.Stop()
		messages = append(messages, w.msg)
	}
	f.asked = nil
	return messages
}

// pending is the answer to a request that is not carried out yet.
func (f *flight) pending() *schema.Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pendingLocked()
}

func (f *flight) pendingLocked() *schema.Fault {
	return unavailable("%s since %v", f.stage, time.Since(f.began).Round(100*time.Millisecond))
}
