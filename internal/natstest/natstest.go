// Package natstest runs NATS servers with JetStream inside test processes: on a random port of the
// loopback interface or with no port at all, storing in the test's temporary directory, and restartable on
// the same port and directory. Nothing but tests imports it.
package natstest

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

const startTimeout = 20 * time.Second

// Server is one server. Its methods fail the test instead of returning errors and are to be called from
// the test's goroutine.
type Server struct {
	t    testing.TB
	opts server.Options
	srv  *server.Server
}

// Option changes the server's options before it starts.
type Option func(*server.Options)

// Run starts a server that listens on a random port of 127.0.0.1 and is stopped when the test ends.
func Run(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := &Server{t: t, opts: server.Options{
		ServerName: "natstest", Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: t.TempDir(),
		JetStreamMaxMemory: 2 << 30, JetStreamMaxStore: 8 << 30,
		NoLog: true, NoSigs: true,
	}}
	for _, option := range options {
		option(&s.opts)
	}
	t.Cleanup(s.Stop)
	s.Start()
	return s
}

// RunInProcess starts a server that opens no port at all; only its Connect reaches it.
func RunInProcess(t testing.TB, options ...Option) *Server {
	t.Helper()
	return Run(t, append(options, func(o *server.Options) { o.DontListen = true })...)
}

// Start starts the server again after Stop: on the same port, over the same store.
func (s *Server) Start() {
	s.t.Helper()
	opts := s.opts // the server keeps and changes what it is given
	srv, err := server.NewServer(&opts)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		s.t.Fatalf("natstest: the server was not ready after %v", startTimeout)
	}
	if addr, ok := srv.Addr().(*net.TCPAddr); ok {
		s.opts.Port = addr.Port
	}
	s.srv = srv
}

// Stop stops the server and waits until it has. A stopped server may be stopped again.
func (s *Server) Stop() {
	if s.srv == nil {
		return
	}
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	s.srv = nil
}

// Restart stops and starts the server: what it held in memory is gone, files remain.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// URL is where clients of other processes connect; empty for a server without a port.
func (s *Server) URL() string {
	if s.opts.DontListen {
		return ""
	}
	return s.srv.ClientURL()
}

// LeafAddress is where leaf nodes connect, host:port, of a server with that port.
func (s *Server) LeafAddress() string {
	s.t.Helper()
	varz, err := s.srv.Varz(nil)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	return net.JoinHostPort(varz.LeafNode.Host, strconv.Itoa(varz.LeafNode.Port))
}

// Connect returns a connection that reconnects without end and is closed when the test ends. A connection
// to a server without a port does not survive Restart.
func (s *Server) Connect(options ...nats.Option) *nats.Conn {
	s.t.Helper()
	all := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(0, 0)}
	if s.opts.DontListen {
		all = append(all, nats.InProcessServer(s.srv))
	}
	nc, err := nats.Connect(s.URL(), append(all, options...)...)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// JetStream returns a connection like Connect's and JetStream on it.
func (s *Server) JetStream(options ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc := s.Connect(options...)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	return nc, js
}

// Eventually waits until condition holds and fails the test with what, if it does not within 20 s.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
		<-tick.C
	}
}

// Reconnected waits until connections that were there before a restart of their server are connected again. That one is
// connected says nothing: it may not have noticed the restart.
func Reconnected(t testing.TB, connections ...*nats.Conn) {
	t.Helper()
	for _, nc := range connections {
		Eventually(t, "a connection is back", func() bool { return nc.Stats().Reconnects > 0 && nc.IsConnected() })
	}
}

// ServerLeftovers is for goleak in packages whose tests start and stop several servers. What it leaves are goroutines
// of nats-server alone: the one that tells the time to all stores stays behind when one server stops just as another
// starts, and the one that writes a stream's state when the stream was made as its server stopped.
func ServerLeftovers() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	}
}
