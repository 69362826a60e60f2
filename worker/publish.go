package worker

import (
	"encoding/json"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/nats-io/nats.go"
)

const (
	answerTimeout = 2 * time.Second // after which a publication is sent again
	maxTries      = 30              // of one publication before its job is handed back
	maxBackoff    = 2 * time.Second // between tries that the server refused for now
)

// publication is one message that must be stored. It is sent until it is answered.
type publication struct {
	stream  string // that must answer
	subject string
	header  nats.Header
	data    []byte          // not changed or reused before done is called
	done    func(a *pubAck) // called once, without a lock, must not block

	// Under publisher.mu.
	token   uint64
	due     int64 // when to send it again
	tries   int
	sending bool    // its data is being read
	answer  *pubAck // that came meanwhile
}

// publisher sends publications over one connection and hears their answers with one subscription. Its lock guards what
// is pending and is not held while anything is sent.
type publisher struct {
	now   func() int64
	nc    *nats.Conn
	inbox string
	sub   *nats.Subscription

	mu      sync.Mutex
	pending map[uint64]*publication
	last    uint64
	spare   []uint64 // tokens to be used again: their one answer has come
	down    int64    // since when the connection is down; 0 when it is up
}

func newPublisher(now func() int64) *publisher {
	return &publisher{now: now, pending: make(map[uint64]*publication)}
}

// open begins to hear answers. Nothing is sent before.
func (p *publisher) open(nc *nats.Conn) error {
	p.nc, p.inbox = nc, nc.NewInbox()+"."
	var err error
	if p.sub, err = nc.Subscribe(p.inbox+"*", p.onAnswer); err != nil {
		return err
	}
	// Answers are few bytes each, and as many as publications.
	return p.sub.SetPendingLimits(-1, -1)
}

// send publishes x and sees to it that done is called with the answer, or with a zero answer when x was sent in vain
// too often.
func (p *publisher) send(x *publication) {
	p.mu.Lock()
	if n := len(p.spare); n > 0 { // subjects that the server has seen before are looked up sooner
		x.token, p.spare = p.spare[n-1], p.spare[:n-1]
	} else {
		p.last++
		x.token = p.last
	}
	p.pending[x.token] = x
	p.begin(x)
	p.mu.Unlock()
	p.publish(x)
}

// begin notes that x is about to be sent. p.mu is held.
func (p *publisher) begin(x *publication) {
	x.tries++
	x.due = p.now() + int64(answerTimeout)
	x.sending = true
}

// publish sends x once. An answer that comes before the client library has returned waits: done may reuse x.data. It
// reports false when the connection was lost; x is sent again when it is back.
func (p *publisher) publish(x *publication) bool {
	reply := p.inbox + strconv.FormatUint(x.token, 36)
	var err error
	if x.header == nil {
		err = p.nc.PublishRequest(x.subject, reply, x.data)
	} else {
		err = p.nc.PublishMsg(&nats.Msg{Subject: x.subject, Reply: reply, Header: x.header, Data: x.data})
	}
	p.mu.Lock()
	x.sending = false
	answer := x.answer
	if err == nats.ErrMaxPayload && answer == nil && p.pending[x.token] == x {
		delete(p.pending, x.token)
		answer = &pubAck{Error: &refusal{ErrCode: topology.CodeTooLarge, Description: err.Error()}}
	}
	p.mu.Unlock()
	if answer != nil {
		x.done(answer)
	}
	return err == nil
}

// withdraw forgets publications whose answers are not wanted any more. Their data may be reused when it returns.
func (p *publisher) withdraw(xs []*publication) {
	for sending := true; sending; {
		sending = false
		p.mu.Lock()
		for _, x := range xs {
			if p.pending[x.token] == x {
				delete(p.pending, x.token)
			}
			sending = sending || x.sending
		}
		p.mu.Unlock()
		if sending {
			runtime.Gosched() // the client library copies what it sends, and returns
		}
	}
}

func (p *publisher) onAnswer(msg *nats.Msg) {
	token, err := strconv.ParseUint(msg.Subject[len(p.inbox):], 36, 64)
	if err != nil {
		return
	}
	a := new(pubAck)
	switch {
	case a.parse(msg.Data):
	case topology.Unheard(msg):
		a.gone = true
	case json.Unmarshal(msg.Data, a) != nil:
		return
	}
	if x := p.answered(token, a); x != nil {
		x.done(a)
	}
}

// answered takes the publication that an answer decides out of what is pending; nil when there is none, or when it is
// being sent.
func (p *publisher) answered(token uint64, a *pubAck) *publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.pending[token]
	if x == nil {
		return nil // answered before: it was sent twice
	}
	if a.verdict(x.stream) == passing && x.tries < maxTries {
		x.due = p.now() + min(int64(50*time.Millisecond)<<min(x.tries, 10), int64(maxBackoff))
		return nil
	}
	delete(p.pending, token)
	if x.tries == 1 { // what was sent twice may be answered again
		p.spare = append(p.spare, token)
	}
	if x.sending {
		x.answer = a
		return nil
	}
	return x
}

// resend sends again what is due, or everything.
func (p *publisher) resend(all bool) {
	if !p.nc.IsConnected() {
		return
	}
	now := p.now()
	var due, hopeless []*publication
	p.mu.Lock()
	for token, x := range p.pending {
		switch {
		case !all && now < x.due, x.sending:
		case x.tries >= maxTries:
			delete(p.pending, token)
			hopeless = append(hopeless, x)
		default:
			due = append(due, x)
		}
	}
	p.mu.Unlock()
	for _, x := range hopeless {
		x.done(new(pubAck))
	}
	for _, x := range due {
		p.mu.Lock()
		pending := p.pending[x.token] == x && !x.sending
		if pending {
			p.begin(x)
		}
		p.mu.Unlock()
		if pending && !p.publish(x) {
			return // disconnected in between
		}
	}
}

// reachable reports whether the connection is up, or down for less than bound nanoseconds.
func (p *publisher) reachable(now, bound int64) bool {
	up := p.nc.IsConnected()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case up:
		p.down = 0
	case p.down == 0:
		p.down = now
	}
	return up || now-p.down < bound
}

func (p *publisher) close() {
	_ = p.sub.Unsubscribe() // fails only when the connection is closed
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.pending)
}

// maxOutstanding and maxOutstandingBytes bound the records that are published and not answered. A slot is free once its
// record is published, so something must hold a worker back that is faster than the store.
const (
	maxOutstanding      = 256
	maxOutstandingBytes = 64 << 20 // where memory is not limited
)

// outstandingBytes is the bound in a process whose memory is limited so; math.MaxInt64 is no limit.
func outstandingBytes(memoryLimit int64) int { return int(min(maxOutstandingBytes, memoryLimit/8)) }

// gate lets so many records be outstanding.
type gate struct {
	most   int // bytes
	mu     sync.Mutex
	room   sync.Cond // a record was answered, or the gate is closed
	n      int
	size   int
	closed bool
}

func newGate(most int) *gate {
	g := &gate{most: most}
	g.room.L = &g.mu
	return g
}

// enter waits until another record of so many bytes may be outstanding; false when the gate closes.
func (g *gate) enter(size int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.n > 0 && (g.n >= maxOutstanding || g.size+size > g.most) {
		if g.closed {
			return false
		}
		g.room.Wait()
	}
	g.n++
	g.size += size
	return true
}

// leave makes room for other records.
func (g *gate) leave(size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	g.size -= size
	g.room.Broadcast()
}

// close ends all waiting.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.room.Broadcast()
}

// bytes is the size of what is outstanding.
func (g *gate) bytes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size
}
