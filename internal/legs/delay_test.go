package legs

import (
	"net"
	"os"
	"sync"
	"time"
)

// leg is how long a message takes from a role to the server, or from the server to a role.
const leg = 4 * time.Millisecond

// dialer makes connections on which every leg takes its time; it is what nats.go asks for a connection.
type dialer struct {
	server interface{ InProcessConn() (net.Conn, error) }
}

func (d dialer) InProcessConn() (net.Conn, error) {
	server, err := d.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	l := &line{Conn: server, up: newWay(), down: newWay()}
	go l.up.carry(server.Write)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if n > 0 {
				l.down.put(buf[:n])
			}
			if err != nil {
				_ = l.Close()
				return
			}
		}
	}()
	return l, nil
}

// line is one connection as the role sees it. Writes never wait.
type line struct {
	net.Conn
	up, down *way
}

func (l *line) Write(p []byte) (int, error) {
	if !l.up.put(p) {
		return 0, net.ErrClosed
	}
	return len(p), nil
}

func (l *line) Read(p []byte) (int, error) { return l.down.read(p) }

func (l *line) Close() error {
	l.up.close()
	l.down.close()
	return l.Conn.Close()
}

func (l *line) SetReadDeadline(t time.Time) error {
	l.down.until(t)
	return nil
}

func (l *line) SetDeadline(t time.Time) error    { return l.SetReadDeadline(t) }
func (l *line) SetWriteDeadline(time.Time) error { return nil }

// way is one direction of a line: bytes in their order, each a leg after it was put in.
type way struct {
	mu      sync.Mutex
	change  sync.Cond
	parts   []part
	closed  bool
	expired bool
	timer   *time.Timer
}

type part struct {
	data []byte
	due  time.Time
}

func newWay() *way {
	w := new(way)
	w.change.L = &w.mu
	return w
}

func (w *way) put(p []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.parts = append(w.parts, part{append([]byte(nil), p...), time.Now().Add(leg)})
	time.AfterFunc(leg, w.wake)
	return true
}

func (w *way) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.change.Broadcast()
}

func (w *way) read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case len(w.parts) > 0 && !time.Now().Before(w.parts[0].due):
			n := copy(p, w.parts[0].data)
			if w.parts[0].data = w.parts[0].data[n:]; len(w.parts[0].data) == 0 {
				w.parts = w.parts[1:]
			}
			return n, nil
		case w.closed:
			return 0, net.ErrClosed
		case w.expired:
			return 0, os.ErrDeadlineExceeded
		}
		w.change.Wait()
	}
}

// carry hands on what has arrived.
func (w *way) carry(write func([]byte) (int, error)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := w.read(buf)
		if err == nil {
			_, err = write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

func (w *way) until(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if w.expired = false; !t.IsZero() {
		w.timer = time.AfterFunc(time.Until(t), func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.expired = true
			w.change.Broadcast()
		})
	}
}

func (w *way) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.change.Broadcast()
}
