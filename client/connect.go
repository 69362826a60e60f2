package client

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Connect opens a connection that suits a training run of days: it reconnects for ever, and notices
// within seconds that the server is gone. A server that is not there at first is an error, which says why it was not
// reached. opts come last and win.
func Connect(servers string, opts ...nats.Option) (*nats.Conn, error) {
	defaults := []nats.Option{
		nats.Name("jetbatch"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		// A network that swallows everything is found out after two to three intervals, and batches flow again within 8 s.
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.RetryOnFailedConnect(false),
	}
	var set nats.Options
	note := func(o *nats.Options) error { set = *o; return nil }
	nc, err := nats.Connect(servers, slices.Concat(defaults, opts, []nats.Option{note})...)
	if errors.Is(err, nats.ErrNoServers) && set.CustomDialer == nil && set.InProcessServer == nil {
		if cause := unreached(servers); cause != nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", Redact(servers), err)
	}
	return nc, nil
}

// unreached finds out why a server was not reached: the client library keeps that to itself and says that there are
// no servers. It returns nil where nothing more is known.
func unreached(urls string) error {
	var last error
	for u := range strings.SplitSeq(urls, ",") {
		address, ok := hostPort(strings.TrimSpace(u))
		if !ok {
			continue
		}
		conn, err := net.DialTimeout("tcp", address, nats.DefaultTimeout)
		if err != nil {
			last = err
			continue
		}
		_ = conn.Close() // it is there by now
	}
	return last
}

// hostPort returns where a server's URL leads to; NATS's port is 4222 unless it says so.
func hostPort(server string) (string, bool) {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Hostname() == "" || (u.Scheme != "nats" && u.Scheme != "tls") {
		return "", false
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "4222")), true
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
