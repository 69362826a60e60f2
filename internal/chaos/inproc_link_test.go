package chaos

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// endpoint is the network of one role: every connection that it makes goes through here. It can be held (nothing passes
// in the directions that are held, nothing is lost), cut (the connections break and what is under way is lost, new ones
// may be made) and closed for good.
type endpoint struct {
	w      *world
	name   string
	number int    // of all there were
	role   string // worker, coordinator or client
	host   host   // that the role runs on

	mu     sync.Mutex
	links  map[*link]bool
	served *transfers // of a worker that is fetched from; else nil
	held   [2]bool
	closed bool
}

// Directions of a link.
const (
	up   = 0 // from the role to the server
	down = 1
)

// InProcessConn makes a connection to the server; it is what nats.go asks for one.
func (e *endpoint) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	// A connection that is made while the network holds everything would fail after a timeout; nats.go waits for it
	// with its own lock held, on which others wait, so that fake time would stand still. So it fails at once.
	if e.closed || e.held != [2]bool{} {
		return nil, net.ErrClosed
	}
	server, err := e.w.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	l := &link{e: e, server: server, inboxes: make(map[string]string)}
	for dir := range l.pipes {
		l.pipes[dir] = newPipe(l, dir, e.held[dir])
	}
	e.links[l] = true
	e.w.tasks.Go(l.send)
	e.w.tasks.Go(l.receive)
	return l, nil
}

// serve begins to pass on what readers fetch from the role, a worker.
func (e *endpoint) serve() (*transfers, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, net.ErrClosed
	}
	t, err := newTransfers(e.w, e.name)
	if err != nil {
		return nil, err
	}
	t.hold(e.held[up] && e.held[down])
	e.served = t
	return t, nil
}

// hold stops and releases directions. Where both are held it is the role that stopped, and with it what it serves.
func (e *endpoint) hold(upward, downward bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held = [2]bool{upward, downward}
	if e.served != nil {
		e.served.hold(upward && downward)
	}
	for l := range e.links {
		if !l.made.Load() {
			_ = l.server.Close() // and with it the link: see InProcessConn
			continue
		}
		l.pipes[up].hold(upward)
		l.pipes[down].hold(downward)
	}
}

// cut breaks the connections that there are.
func (e *endpoint) cut() {
	e.mu.Lock()
	links := e.links
	e.links = make(map[*link]bool)
	e.mu.Unlock()
	for l := range links {
		_ = l.Close()
	}
}

// close breaks the connections and lets none be made.
func (e *endpoint) close() {
	e.mu.Lock()
	e.closed = true
	served := e.served
	e.mu.Unlock()
	e.cut()
	if served != nil {
		served.close()
	}
}

// link is one connection as the role sees it.
type link struct {
	e      *endpoint
	server net.Conn
	pipes  [2]*pipe
	made   atomic.Bool // the server answered the first PING

	inboxes map[string]string // of the role's subscriptions for answers: what their subjects begin with, and their names; under pipes[up].mu

	once sync.Once
}

// send moves what passed the filter on to the server.
func (l *link) send() {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.pipes[up].read(buf)
		if err == nil {
			_, err = l.server.Write(buf[:n])
		}
		if err != nil {
			_ = l.Close()
			return
		}
	}
}

// receive takes what the server sends. Like the buffers of a kernel and a network it takes much: a server that cannot
// write calls its client slow and breaks the connection, which cut does as well.
func (l *link) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.server.Read(buf)
		if err != nil {
			_ = l.Close()
			return
		}
		l.pipes[down].feed(buf[:n])
	}
}

func (l *link) Read(p []byte) (int, error) { return l.pipes[down].read(p) }

func (l *link) Write(p []byte) (int, error) {
	if !l.pipes[up].feed(p) {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func (l *link) Close() error {
	l.once.Do(func() {
		_ = l.server.Close() // a pipe in memory
		l.pipes[up].close()
		l.pipes[down].close()
		l.e.mu.Lock()
		delete(l.e.links, l)
		l.e.mu.Unlock()
	})
	return nil
}

// SetReadDeadline ends reads at t. nats.go sets one while it connects; its writes never wait here.
func (l *link) SetReadDeadline(t time.Time) error {
	l.pipes[down].setDeadline(t)
	return nil
}

func (l *link) SetDeadline(t time.Time) error    { return l.SetReadDeadline(t) }
func (l *link) SetWriteDeadline(time.Time) error { return nil }
func (l *link) LocalAddr() net.Addr              { return l.server.LocalAddr() }
func (l *link) RemoteAddr() net.Addr             { return l.server.RemoteAddr() }

// pipe is one direction of a link: bytes in, frame by frame through the filter, bytes out.
type pipe struct {
	l   *link
	dir int

	mu      sync.Mutex
	change  sync.Cond
	in      []byte // not a whole frame yet
	out     []byte // passed
	flows   [classes]flow
	stalled [][]byte // frames in the order that they came while the pipe is held
	held    bool
	closed  bool
	expired bool
	timer   *time.Timer
}

// flow is what is delayed of one class, in order.
type flow struct {
	frames [][]byte
	due    []time.Time
}

func newPipe(l *link, dir int, held bool) *pipe {
	p := &pipe{l: l, dir: dir, held: held}
	p.change.L = &p.mu
	return p
}

// feed takes bytes; false when the pipe is closed.
func (p *pipe) feed(data []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if len(p.in) > 0 {
		p.in = append(p.in, data...)
		data = p.in
	}
	for {
		f, n := cutFrame(data)
		if n == 0 {
			break
		}
		data = data[n:]
		p.enter(&f)
	}
	p.in = append(p.in[:0], data...)
	return true
}

// insert takes a whole frame that the other side did not send.
func (p *pipe) insert(raw []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, _ := cutFrame(raw)
	p.enter(&f)
}

// enter holds a frame or filters it. p.mu is held.
func (p *pipe) enter(f *frame) {
	if p.held {
		p.stalled = append(p.stalled, append([]byte(nil), f.raw...))
	} else {
		p.filter(f)
	}
}

// filter asks the faults of the moment what becomes of a frame. p.mu is held.
func (p *pipe) filter(f *frame) {
	c := f.class()
	flow := &p.flows[c]
	delay, end := p.l.e.w.fate(p.l.e, p.dir, c)
	switch {
	case end == lost:
		return
	case end == refused:
		p.l.refuse(f.reply)
		return
	case delay == 0 && len(flow.frames) == 0:
		p.pass(f)
		return
	}
	due := time.Now().Add(delay)
	if n := len(flow.due); n > 0 && due.Before(flow.due[n-1]) {
		due = flow.due[n-1]
	}
	flow.frames = append(flow.frames, append([]byte(nil), f.raw...))
	flow.due = append(flow.due, due)
	time.AfterFunc(time.Until(due), func() { p.release(c) })
}

// refuse answers a publication as a server does that has no room.
func (l *link) refuse(reply string) {
	const answer = `{"stream":"any","seq":0,"error":{"code":503,"err_code":10023,"description":"insufficient resources"}}`
	for prefix, sid := range l.inboxes {
		if strings.HasPrefix(reply, prefix) {
			l.pipes[down].insert(fmt.Appendf(nil, "MSG %s %s %d\r\n%s\r\n", reply, sid, len(answer), answer))
			return
		}
	}
}

// release passes what is due of a class, or holds it if the pipe is held by now.
func (p *pipe) release(c class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	flow, now := &p.flows[c], time.Now()
	for len(flow.frames) > 0 && !flow.due[0].After(now) {
		raw := flow.frames[0]
		flow.frames, flow.due = flow.frames[1:], flow.due[1:]
		if p.held {
			p.stalled = append(p.stalled, raw)
			continue
		}
		f, _ := cutFrame(raw)
		p.pass(&f)
	}
}

// pass puts a frame out. p.mu is held.
func (p *pipe) pass(f *frame) {
	if p.closed {
		return
	}
	if f.op == "PONG" && p.dir == down {
		p.l.made.Store(true)
	}
	if f.op == "SUB" && strings.HasPrefix(f.subject, "_INBOX.") {
		p.l.inboxes[strings.TrimRight(f.subject, "*>")] = f.sid
	}
	p.l.e.w.checks.see(p.l.e, p.dir, f)
	p.out = append(p.out, f.raw...)
	p.change.Signal()
}

func (p *pipe) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = held
	if held {
		return
	}
	stalled := p.stalled
	p.stalled = nil
	for _, raw := range stalled {
		f, _ := cutFrame(raw)
		p.pass(&f)
	}
}

func (p *pipe) read(buf []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.out) == 0 {
		switch {
		case p.closed:
			return 0, io.EOF
		case p.expired:
			return 0, os.ErrDeadlineExceeded
		}
		p.change.Wait()
	}
	n := copy(buf, p.out)
	p.out = p.out[:copy(p.out, p.out[n:])]
	return n, nil
}

func (p *pipe) setDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.expired = false
	if !t.IsZero() {
		p.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			p.expired = true
			p.change.Broadcast()
			p.mu.Unlock()
		})
	}
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.out, p.stalled = true, nil, nil
	if p.timer != nil {
		p.timer.Stop()
	}
	p.change.Broadcast()
}
