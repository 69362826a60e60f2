package worker

import (
	"bytes"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
)

const (
	answerTimeout = 2 * time.Second // after which a publication is sent again
	maxTries      = 30              // of one publication before its job is handed back
	maxBackoff    = 2 * time.Second // between tries that the server refused for now
)

// refusal is why a publication was not stored.
type refusal struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// pubAck is the server's answer to a publication. The zero value is none: the publisher gave up.
type pubAck struct {
	Stream string   `json:"stream"`
	Seq    uint64   `json:"seq"`
	Error  *refusal `json:"error"`
	gone   bool     // no stream takes the subject
}

// parse reads the answer that a server gives as long as all is well, to the letter; all others are left to the JSON
// package.
func (a *pubAck) parse(data []byte) bool {
	rest, ok := bytes.CutPrefix(data, []byte(`{"stream":"`))
	stream, rest, ok2 := bytes.Cut(rest, []byte(`","seq":`))
	number, end, ok3 := bytes.Cut(rest, []byte(`}`))
	if !ok || !ok2 || !ok3 || len(end) > 0 || bytes.IndexByte(stream, '\\') >= 0 || bytes.IndexByte(stream, '"') >= 0 {
		return false
	}
	seq, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return false
	}
	a.Stream, a.Seq = string(stream), seq
	return true
}

// verdict sorts answers by what to do about them.
type verdict int

const (
	stored   verdict = iota // it counts
	exists                  // the subject has its one message
	full                    // no room
	gone                    // no such stream
	tooLarge                // never will be stored
	passing                 // try again
)

func (a *pubAck) verdict(stream string) verdict {
	switch {
	case a.gone:
		return gone
	case a.Error == nil && a.Stream == stream && a.Seq > 0:
		return stored
	case a.Error == nil:
		return passing // an answer from another stream says nothing about ours
	}
	switch code, why := a.Error.ErrCode, a.Error.Description; {
	case topology.IsDuplicate(code, why):
		return exists
	case topology.IsFull(code, why):
		return full
	case topology.IsTooLarge(code, why):
		return tooLarge
	case topology.IsNoStream(code):
		return gone
	}
	return passing // 429 too many requests, no leader, and whatever the future brings
}

// publication is one message that must be stored. It is sent until it is answered.
type publication struct {
	stream  string // that must answer
	subject string
	header  nats.Header
	data    []byte          // not changed or reused before done is called
	done    func(a *pubAck) // called once, must not block

	token uint64
	due   int64 // when to send it again
	tries int
}

// publisher sends publications over one connection and follows their answers with one subscription.
type publisher struct {
	nc    *nats.Conn
	now   func() int64
	inbox string
	sub   *nats.Subscription

	mu      sync.Mutex
	pending map[uint64]*publication
	last    uint64
	spare   []uint64 // tokens to be used again: their one answer has come
	down    int64    // since when the connection is down; 0 when it is up
}

func newPublisher(nc *nats.Conn, now func() int64) (*publisher, error) {
	p := &publisher{nc: nc, now: now, inbox: nc.NewInbox() + ".", pending: make(map[uint64]*publication)}
	var err error
	if p.sub, err = nc.Subscribe(p.inbox+"*", p.onAnswer); err != nil {
		return nil, err
	}
	// Answers are few bytes each, and as many as publications.
	return p, p.sub.SetPendingLimits(-1, -1)
}

// send publishes x and sees to it that done is called with the answer, or with a zero answer when it was
// sent in vain too often.
func (p *publisher) send(x *publication) {
	p.mu.Lock()
	if n := len(p.spare); n > 0 { // subjects that the server has seen before are looked up sooner
		x.token, p.spare = p.spare[n-1], p.spare[:n-1]
	} else {
		p.last++
		x.token = p.last
	}
	x.due = p.now() + int64(answerTimeout)
	x.tries = 1
	p.pending[x.token] = x
	p.mu.Unlock()
	if err := p.publish(x); err != nil {
		p.failed(x, err)
	}
}

func (p *publisher) publish(x *publication) error {
	reply := p.inbox + strconv.FormatUint(x.token, 36)
	if x.header == nil {
		return p.nc.PublishRequest(x.subject, reply, x.data)
	}
	return p.nc.PublishMsg(&nats.Msg{Subject: x.subject, Reply: reply, Header: x.header, Data: x.data})
}

// failed handles an error of the client library: a message above the server's limit never will be sent, any
// other is mended by sending again when the connection is back.
func (p *publisher) failed(x *publication, err error) {
	if err == nats.ErrMaxPayload && p.take(x.token) != nil {
		x.done(&pubAck{Error: &refusal{ErrCode: topology.CodeTooLarge, Description: err.Error()}})
	}
}

func (p *publisher) take(token uint64) *publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.pending[token]
	delete(p.pending, token)
	return x
}

// withdraw forgets publications whose answers nobody waits for any more.
func (p *publisher) withdraw(xs []*publication) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range xs {
		delete(p.pending, x.token)
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
	case len(msg.Data) == 0 && msg.Header.Get("Status") == "503":
		a.gone = true
	case json.Unmarshal(msg.Data, a) != nil:
		return
	}
	p.mu.Lock()
	x := p.pending[token]
	if x == nil {
		p.mu.Unlock()
		return // answered before: it was sent twice
	}
	if a.verdict(x.stream) == passing && x.tries < maxTries {
		x.due = p.now() + min(int64(50*time.Millisecond)<<min(x.tries, 10), int64(maxBackoff))
		p.mu.Unlock()
		return
	}
	delete(p.pending, token)
	if x.tries == 1 { // what was sent twice may be answered again
		p.spare = append(p.spare, token)
	}
	p.mu.Unlock()
	x.done(a)
}

// resend sends again what is due, or everything.
func (p *publisher) resend(all bool) {
	if !p.nc.IsConnected() {
		return
	}
	now := p.now()
	var hopeless []*publication
	p.mu.Lock()
	for token, x := range p.pending {
		if !all && now < x.due {
			continue
		}
		if x.tries >= maxTries {
			delete(p.pending, token)
			hopeless = append(hopeless, x)
			continue
		}
		x.tries++
		x.due = now + int64(answerTimeout)
		// Under the lock, so that x.data is not reused meanwhile.
		if p.publish(x) != nil {
			break // disconnected in between
		}
	}
	p.mu.Unlock()
	for _, x := range hopeless {
		x.done(new(pubAck))
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
	clear(p.pending)
	p.mu.Unlock()
}
