package client

import (
	"fmt"
	"strings"
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
		// A network that swallows everything is found out after two to three intervals, and batches flow again within 8 s.
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.RetryOnFailedConnect(false),
	}
	nc, err := nats.Connect(url, append(defaults, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", Redact(url), err)
	}
	return nc, nil
}

// Redact removes user names, passwords and tokens from a comma-separated list of server URLs, for logs and errors.
func Redact(urls string) string {
	list := strings.Split(urls, ",")
	for i, u := range list {
		if at := strings.LastIndexByte(u, '@'); at >= 0 {
			scheme, _, _ := strings.Cut(u, "//")
			list[i] = scheme + "//" + u[at+1:]
		}
	}
	return strings.Join(list, ",")
}
