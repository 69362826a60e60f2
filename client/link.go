package client

import (
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
)

// link is both connections to NATS, and the reason while there is none. It is safe for concurrent use.
type link struct {
	nc   *nats.Conn // the caller's: control messages
	data *nats.Conn // our own: batches

	mu   sync.Mutex
	last error // of the latest attempt to connect
}

// dial opens our own connection and follows its attempts: the caller's goes to the same servers, and its handlers are
// the caller's.
func dial(nc *nats.Conn) (*link, error) {
	l := &link{nc: nc}
	var err error
	l.data, err = topology.Dial(nc, "data", nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.last = err
	}))
	return l, err
}

// down says that there is no connection, and why if that is known; it is empty while there are both. Our own is not
// missed once it is closed: what is asked for then goes over the caller's.
func (l *link) down() string {
	if l.nc.IsConnected() && (l.data.IsConnected() || l.data.IsClosed()) {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	const text = "there is no connection to NATS"
	if l.last == nil {
		return text
	}
	return text + ": " + l.last.Error()
}
