package client

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Connect opens a connection that suits a training run of days: it reconnects for ever, and notices
// within seconds that the server is gone. A server that is not there at first is an error. opts come last
// and win.
func Connect(url string, opts ...nats.Option) (*nats.Conn, error) {
	defaults := []nats.Option{
		nats.Name("jetbatch"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.PingInterval(3 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.RetryOnFailedConnect(false),
	}
	nc, err := nats.Connect(url, append(defaults, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	return nc, nil
}
