package client

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
)

// link is both connections to NATS, and the reason while there is none. It is safe for concurrent use.
type link struct {
	nc     *nats.Conn    // the caller's: control messages
	dialed chan struct{} // closed when the attempt to open our own has ended

	mu     sync.Mutex
	data   *nats.Conn // our own: batches; nil before
	err    error      // why it could not be opened
	last   error      // of the latest attempt to connect
	closed bool       // nobody needs our own any more
}

// dial begins to open our own connection, which no request for the seat needs, and follows its attempts: the caller's
// goes to the same servers, and its handlers are the caller's.
func dial(nc *nats.Conn) *link {
	l := &link{nc: nc, dialed: make(chan struct{})}
	go func() {
		defer close(l.dialed)
		data, err := topology.Dial(nc, "data", nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.last = err
		}))
		l.mu.Lock()
		l.data, l.err = data, err
		late := l.closed
		l.mu.Unlock()
		if late && err == nil {
			data.Close()
		}
	}()
	return l
}

// own waits for our own connection, or returns the cause of the context that ended first. It may be away; without an
// error there is one that comes back.
func (l *link) own(ctx context.Context) (*nats.Conn, error) {
	select {
	case <-l.dialed:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.data, l.err
}

// close closes our own connection. It does not wait for one that is being opened, which is closed when it comes.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	data := l.data
	l.mu.Unlock()
	if data != nil {
		data.Close()
	}
}

// down says that there is no connection, and why if that is known; it is empty while there are both. Our own is not
// missed once it is closed: what is asked for then goes over the caller's.
func (l *link) down() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nc.IsConnected() && (l.data == nil || l.data.IsConnected() || l.data.IsClosed()) {
		return ""
	}
	const text = "there is no connection to NATS"
	if l.last == nil {
		return text
	}
	return text + ": " + l.last.Error()
}
