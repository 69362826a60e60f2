package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

func TestRedact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"nats://h:1":                      "nats://h:1",
		"nats://u:p@h:1":                  "nats://h:1",
		"tls://u:p@@h:1,nats://token@i:2": "tls://h:1,nats://i:2",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestConnectErrorKeepsSecrets(t *testing.T) {
	t.Parallel()
	_, err := Connect("nats://user:hunter2@127.0.0.1:1")
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("%v, want an error that names the server and no password", err)
	}
}

// TestConnectSaysWhy has nobody listen where the server should be.
func TestConnectSaysWhy(t *testing.T) {
	t.Parallel()
	_, err := Connect("nats://user:hunter2@127.0.0.1:1, 127.0.0.1:2")
	if !errors.Is(err, nats.ErrNoServers) || !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(),
		"hunter2") {
		t.Errorf("%v", err)
	}
	// With a dialer of the caller's only that knows the way.
	dialer := nats.SetCustomDialer(refusing{})
	if _, err := Connect("nats://127.0.0.1:1", dialer); errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialled past the caller's dialer: %v", err)
	}
}

type refusing struct{}

func (refusing) Dial(string, string) (net.Conn, error) { return nil, errors.New("connection refused") }

func TestHostPort(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"h": "h:4222", "h:1": "h:1", "nats://u:p@h:1": "h:1", "tls://[::1]:1": "[::1]:1", "ws://h:1": "", "": "",
		"nats://h:x": "",
	} {
		if got, _ := hostPort(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestOpenSaysWhy has the server be gone when a batcher is opened, and while one is taken from.
func TestOpenSaysWhy(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	o := newOwnerOn(t, srv)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	nc := srv.Connect()
	srv.Stop()
	defer srv.Start()
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	errs := make(chan error, 2)
	go func() {
		_, err := Open[[]byte](short, nc, Config{Name: "other", Dataset: "count"})
		errs <- err
	}()
	go func() {
		_, err := b.Take(short, stateOf(number(state)+1000))
		errs <- err
	}()
	for range 2 {
		if err := <-errs; !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%v", err)
		}
	}
}

// gate lets the first connection through, and later ones once it is opened.
type gate struct {
	first sync.Once
	open  chan struct{}
}

func (g *gate) Dial(network, address string) (net.Conn, error) {
	first := false
	g.first.Do(func() { first = true })
	if !first {
		<-g.open
	}
	return net.Dial(network, address)
}

// TestOpenHeedsItsContext has the second connection take for ever. The client closes one that comes after all.
func TestOpenHeedsItsContext(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	o := newOwnerOn(t, srv)
	g := &gate{open: make(chan struct{})}
	nc := srv.Connect(nats.SetCustomDialer(g), nats.Timeout(time.Minute))
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	opened := make(chan error, 1)
	go func() {
		_, err := Open[[]byte](short, nc, Config{Name: o.name, Dataset: "count"})
		opened <- err
	}()
	select {
	case err := <-opened:
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Open waits for the second connection")
	}
	o.locked(func() {
		if o.rec.Reader != "" {
			t.Errorf("the seat is still %s's", o.rec.Reader)
		}
	})
	l := dial(nc)
	l.close()
	close(g.open)
	if late, err := l.own(deadline(t)); err != nil || !late.IsClosed() {
		t.Errorf("a connection that came late is not closed: %v", err)
	}
}

// TestSecondConnectionIsSilent has the caller's handlers hear of the caller's connection only.
func TestSecondConnectionIsSilent(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	o := newOwnerOn(t, srv)
	var mu sync.Mutex
	heard := map[string]map[*nats.Conn]int{}
	hear := func(what string) func(*nats.Conn) {
		return func(nc *nats.Conn) {
			mu.Lock()
			defer mu.Unlock()
			if heard[what] == nil {
				heard[what] = map[*nats.Conn]int{}
			}
			heard[what][nc]++
		}
	}
	with := func(what string) func(*nats.Conn, error) { return func(nc *nats.Conn, _ error) { hear(what)(nc) } }
	nc := srv.Connect(
		nats.ConnectHandler(hear("connect")), nats.ReconnectHandler(hear("reconnect")), nats.ClosedHandler(hear("closed")),
		nats.DisconnectErrHandler(with("disconnect")), nats.ReconnectErrHandler(with("reconnect error")),
		nats.DiscoveredServersHandler(hear("discovered")), nats.LameDuckModeHandler(hear("lame duck")),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, _ error) { hear("error")(nc) }),
	)
	b, err := Open[[]byte](deadline(t), nc, Config{Name: o.name, Dataset: "count"})
	if err != nil {
		t.Fatal(err)
	}
	state := take(t, b, schema.State{}, 1)
	srv.Restart()
	natstest.Reconnected(t, nc, b.r.intake.data, o.nc)
	take(t, b, state, 3)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, what := range []string{"disconnect", "reconnect"} {
		if heard[what][nc] == 0 {
			t.Errorf("%s of the caller's connection was not heard of", what)
		}
	}
	for what, of := range heard {
		for conn, n := range of {
			if conn != nc {
				t.Errorf("%s of another connection, %d times", what, n)
			}
		}
	}
}
