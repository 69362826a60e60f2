// Package embedded runs the whole service in the caller's process: a NATS server, a coordinator and
// workers. The trainer's code is the same as against a deployment; it uses Service.Conn.
//
// No port is opened unless Config.Listen asks for one, and everything is in memory or a temporary folder
// unless Config.Dir names a folder.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/scratch"
	"github.com/jetbatch/jetbatch/worker"
)

// startTimeout bounds how long the server may take to come up.
const startTimeout = 20 * time.Second

// atOnce is a worker's DrainTimeout that is over when it begins; 0 would be the worker's own default.
const atOnce = time.Nanosecond

// Config of a Service; the zero value runs one worker with a slot per CPU, without a port, in a temporary folder.
type Config struct {
	// Listen is the address that other processes can connect to, as host:port; port 0 takes a free one.
	// Defaults to none.
	Listen string
	// Dir is where the server keeps records. Defaults to a temporary folder, removed by Close, or, on Linux, after this
	// process was killed, by the next one that starts a service.
	Dir string
	// ServerOnly runs the NATS server alone: coordinators and workers are other processes. Defaults to false.
	ServerOnly bool
	// Workers is how many workers run; -1 for none, when other processes bring them. Defaults to 1.
	Workers int
	// Slots is how many batches one worker materializes at a time. Defaults to GOMAXPROCS.
	Slots int
	// JobTimeout bounds one job. Defaults to the worker's default.
	JobTimeout time.Duration
	// DrainTimeout is how long Close, or the end of the context that Start was given, lets running jobs go on before
	// their contexts end. Results end with the server, so that there is nothing to wait for unless a job must not be
	// cut off. Code that ignores the end of its context is left running after another second. Defaults to none.
	DrainTimeout time.Duration
	// Logger is told what changes. Defaults to slog.Default().
	Logger *slog.Logger
	// Registerer is given the metrics of the coordinator and of every worker while they run. Defaults to none.
	Registerer prometheus.Registerer
}

// Service is a running embedded service. Its methods are safe for concurrent use.
type Service struct {
	cfg    Config
	defs   []dataset.Definition
	server *server.Server
	dir    *scratch.Folder // to be removed; nil where Config.Dir is the server's
	nc     *nats.Conn

	ctx    context.Context
	cancel context.CancelFunc
	forget func() bool // the context that Start was given
	roles  sync.WaitGroup
	ended  func() error

	mu      sync.Mutex
	workers map[string]context.CancelFunc
	errs    []error
	n       int
}

// Start starts the service; ctx bounds its life as Close does.
func Start(ctx context.Context, cfg Config, defs ...dataset.Definition) (*Service, error) {
	cfg.Workers = cmp.Or(cfg.Workers, 1)
	cfg.Slots = cmp.Or(cfg.Slots, runtime.GOMAXPROCS(0))
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	s := &Service{cfg: cfg, defs: defs, workers: make(map[string]context.CancelFunc)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.ended = sync.OnceValue(s.end)
	if err := s.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: %w", err), s.ended())
	}
	s.forget = context.AfterFunc(ctx, func() { _ = s.ended() }) // Close returns the error
	return s, nil
}

func (s *Service) start() error {
	if err := s.startServer(); err != nil {
		return err
	}
	var err error
	if s.nc, err = s.connect("jetbatch-trainer"); err != nil || s.cfg.ServerOnly {
		return err
	}
	nc, err := s.connect("jetbatch-coordinator")
	if err != nil {
		return err
	}
	c, err := coordinator.New(nc, coordinator.Config{Logger: s.cfg.Logger, Registerer: s.cfg.Registerer}, s.defs...)
	if err != nil {
		nc.Close()
		return err
	}
	s.roles.Go(func() { s.run(nc, c.Run) })
	for range max(s.cfg.Workers, 0) {
		if _, err := s.AddWorker(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) startServer() error {
	dir := s.cfg.Dir
	if dir == "" {
		var err error
		if s.dir, err = scratch.New("embedded"); err != nil {
			return err
		}
		dir = s.dir.Path
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { // the server would only say that it is not ready
		return err
	}
	opts := &server.Options{
		ServerName: "jetbatch", JetStream: true, StoreDir: dir, DontListen: s.cfg.Listen == "",
		NoSigs: true, MaxPayload: 1 << 20, NoLog: true,
	}
	if s.cfg.Listen != "" {
		host, port, err := net.SplitHostPort(s.cfg.Listen)
		if err != nil {
			return fmt.Errorf("listen address %q: %w", s.cfg.Listen, err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return fmt.Errorf("listen address %q: %w", s.cfg.Listen, err)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.server = srv
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		return fmt.Errorf("the NATS server was not ready after %v; is the address %q free and the folder writable", startTimeout, s.cfg.Listen)
	}
	return nil
}

func (s *Service) connect(name string) (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(s.server), nats.Name(name), nats.MaxReconnects(-1))
}

// run runs a role on a connection of its own and keeps its error for Close.
func (s *Service) run(nc *nats.Conn, role func(context.Context) error) {
	defer nc.Close()
	if err := role(s.ctx); err != nil && s.ctx.Err() == nil {
		s.mu.Lock()
		s.errs = append(s.errs, err)
		s.mu.Unlock()
		s.cfg.Logger.Error("role ended", "error", err)
	}
}

// Conn is the trainer's connection; Close closes it.
func (s *Service) Conn() *nats.Conn { return s.nc }

// URL is where other processes can connect; empty without Config.Listen.
func (s *Service) URL() string {
	if s.cfg.Listen == "" {
		return ""
	}
	return s.server.ClientURL()
}

// AddWorker starts another worker and returns its name.
func (s *Service) AddWorker() (name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return "", fmt.Errorf("the service has ended: %w", context.Cause(s.ctx))
	}
	s.n++
	name = fmt.Sprintf("embedded-%d", s.n)
	nc, err := s.connect("jetbatch-worker-" + name)
	if err != nil {
		return "", err
	}
	cfg := worker.Config{
		Name: name, Slots: s.cfg.Slots, JobTimeout: s.cfg.JobTimeout, DrainTimeout: cmp.Or(s.cfg.DrainTimeout, atOnce),
		Logger: s.cfg.Logger, Registerer: s.cfg.Registerer,
		// One process keeps for all its workers what it would keep for one.
		KeepBytes: min(worker.DefaultKeepBytes, debug.SetMemoryLimit(-1)/4/int64(max(s.cfg.Workers, 1))),
	}
	if host, _, err := net.SplitHostPort(s.cfg.Listen); err == nil && host != "" { // where other processes come
		cfg.Direct = net.JoinHostPort(host, "0")
	}
	w, err := worker.New(nc, cfg, s.defs...)
	if err != nil {
		nc.Close()
		return "", err
	}
	// Killing a worker takes its connections away, so that it can neither finish nor hand back.
	var killed atomic.Bool
	s.workers[name] = func() {
		killed.Store(true)
		nc.Close()
	}
	s.roles.Go(func() {
		s.run(nc, func(ctx context.Context) error {
			err := w.Run(ctx)
			if killed.Load() {
				return nil // it was told so
			}
			return err
		})
	})
	return name, nil
}

// KillWorker cuts a worker off at once, as if its machine had died: what it ran is run again by another.
func (s *Service) KillWorker(name string) error {
	s.mu.Lock()
	kill := s.workers[name]
	delete(s.workers, name)
	s.mu.Unlock()
	if kill == nil {
		return fmt.Errorf("embedded: there is no worker %q", name)
	}
	kill()
	return nil
}

// Close stops everything and returns what went wrong on the way: running jobs are cancelled, after
// Config.DrainTimeout if there is one. Twice is fine.
func (s *Service) Close() error {
	s.forget()
	return s.ended()
}

// end is what Close does, and the end of the context that Start was given: whichever comes first.
func (s *Service) end() error {
	s.mu.Lock() // a worker that is being added is waited for, and none comes after it
	s.cancel()
	s.mu.Unlock()
	s.roles.Wait()
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	if s.dir != nil {
		if err := s.dir.Close(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}
