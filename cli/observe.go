package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/metrics"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// observeFlags say where a process can be observed.
type observeFlags struct {
	ListenHTTP string `name:"listen-http" env:"JETBATCH_LISTEN_HTTP" help:"Serve /metrics, /healthz and /readyz there; without a host, on 127.0.0.1. Defaults to nowhere." placeholder:"[HOST]:PORT" group:"Observing"`
	Pprof      bool   `help:"Serve /debug/pprof there, too." group:"Observing"`
}

// probe is what a role says of itself. Live fails when only a new process helps, Ready while this one does not serve.
type probe interface {
	Live() error
	Ready() error
}

// errStarting is the answer of /readyz before there is a role.
var errStarting = errors.New("not connected to NATS yet")

// observer is the HTTP side of a process; one that listens nowhere does nothing.
type observer struct {
	registry *prometheus.Registry // nil when it listens nowhere
	server   *http.Server
	address  string
	served   chan error

	mu    sync.Mutex
	probe probe
}

// observe begins to serve. The caller closes what it returns.
func (f *observeFlags) observe(ctx context.Context, log *slog.Logger) (*observer, error) {
	o := new(observer)
	if f.ListenHTTP == "" {
		if f.Pprof {
			return nil, fmt.Errorf("%w: --pprof needs --listen-http", errUsage)
		}
		return o, nil
	}
	address, err := loopback(f.ListenHTTP)
	if err != nil {
		return nil, fmt.Errorf("%w: --listen-http: %w", errUsage, err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: --listen-http: %w", errUsage, err)
	}
	o.registry = prometheus.NewRegistry()
	o.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		metrics.Build(wire.Release, wire.Version))
	o.address = listener.Addr().String()
	o.server = &http.Server{
		Handler: o.handler(f.Pprof), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	o.served = make(chan error, 1)
	go func() { o.served <- o.server.Serve(listener) }()
	log.Info("observable", "url", "http://"+o.address, "pprof", f.Pprof)
	return o, nil
}

// loopback is address with 127.0.0.1 where it has no host: what is to be seen from elsewhere is said so.
func loopback(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

func (o *observer) handler(profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if p := o.watched(); p != nil {
			answer(w, p.Live())
			return
		}
		answer(w, nil) // a process that waits for its broker is alive
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if p := o.watched(); p != nil {
			answer(w, p.Ready())
			return
		}
		answer(w, errStarting)
	})
	if profiles {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, legible.Text(err.Error())) // the asker has gone
		return
	}
	_, _ = fmt.Fprintln(w, "ok") // the asker has gone
}

// watch makes the probes those of a role.
func (o *observer) watch(p probe) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.probe = p
}

func (o *observer) watched() probe {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.probe
}

// registerer is for the Config of a role; nil when nothing is served.
func (o *observer) registerer() prometheus.Registerer {
	if o.registry == nil {
		return nil // and not an interface with a nil in it
	}
	return o.registry
}

// close ends serving.
func (o *observer) close() error {
	if o.server == nil {
		return nil
	}
	err := o.server.Close()
	if served := <-o.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// always is the probe of a process that serves as soon as it is there.
type always struct{}

func (always) Live() error  { return nil }
func (always) Ready() error { return nil }
