package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker"
)

// brokerAnswer says where the broker listens.
type brokerAnswer struct {
	URL string `json:"url"`
}

type brokerArg struct {
	Listen string `json:"listen,omitempty"` // host:port; a free port where empty
	Dir    string `json:"dir,omitempty"`    // a temporary one where empty
}

// startBroker is the NATS server alone, of the service and of the floors alike.
func startBroker(ctx context.Context, log *slog.Logger, arg brokerArg) (*role, any, error) {
	listen := cmp.Or(arg.Listen, "127.0.0.1:0")
	s, err := embedded.Start(ctx, embedded.Config{Listen: listen, Dir: arg.Dir, ServerOnly: true, Logger: log})
	if err != nil {
		return nil, nil, err
	}
	return &role{close: func() { closing(log, s.Close()) }}, brokerAnswer{s.URL()}, nil
}

func closing(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("a role of a benchmark ended badly", "error", err)
	}
}

type runner interface {
	Run(ctx context.Context) error
}

// running is a role that runs until it is closed.
func running(ctx context.Context, log *slog.Logger, nc *nats.Conn, r runner) *role {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return &role{close: func() {
		cancel()
		closing(log, <-done)
		nc.Close()
	}}
}

type coordinatorArg struct {
	URL      string `json:"url"`
	Replicas int    `json:"replicas,omitempty"` // of record and jobs; 0 is one
}

func startCoordinator(ctx context.Context, log *slog.Logger, arg coordinatorArg) (*role, any, error) {
	nc, err := client.Connect(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	c, err := coordinator.New(nc, coordinator.Config{Replicas: arg.Replicas, Logger: log}, definitions()...)
	if err != nil {
		return nil, nil, err
	}
	return running(ctx, log, nc, c), nil, nil
}

type workerArg struct {
	URL   string `json:"url"`
	Slots int    `json:"slots"` // 0 is the worker's own choice
	Crew  int    `json:"crew"`  // workers in this process; 0 is one

	NoDirect bool `json:"no_direct"` // large batches by way of the store, never directly
}

// opFirstJob asks a worker how long after its start it began its first job, which sleeps.
const opFirstJob = "first-job"

// startWorker starts one worker, or several that share a process and nothing else.
func startWorker(ctx context.Context, log *slog.Logger, arg workerArg) (*role, any, error) {
	var crew []*role
	began := time.Now()
	all := &role{close: func() {
		var ended sync.WaitGroup
		for _, r := range crew {
			ended.Go(r.close)
		}
		ended.Wait()
	}}
	all.ops = map[string]op{opFirstJob: handle(func(ctx context.Context, _ struct{}) (time.Duration, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, takeTimeout, errLate)
		defer cancel()
		select {
		case <-firstJob.passed:
			return firstJob.at.Sub(began), nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	})}
	for i := range max(arg.Crew, 1) {
		r, err := oneWorker(ctx, log, arg, fmt.Sprintf("bench-%d-%d", os.Getpid(), i))
		if err != nil {
			all.close()
			return nil, nil, err
		}
		crew = append(crew, r)
	}
	return all, nil, nil
}

func oneWorker(ctx context.Context, log *slog.Logger, arg workerArg, name string) (*role, error) {
	nc, err := client.Connect(arg.URL)
	if err != nil {
		return nil, err
	}
	cfg := worker.Config{Name: name, Slots: arg.Slots, Logger: log}
	if arg.NoDirect {
		cfg.Direct = worker.DirectOff
	}
	w, err := worker.New(nc, cfg, definitions()...)
	if err != nil {
		return nil, err
	}
	return running(ctx, log, nc, w), nil
}

type trainerArg struct {
	URL string `json:"url"`
}

// trainer takes, by name of the batcher.
type trainer struct {
	log      *slog.Logger
	nc       *nats.Conn
	batchers map[string]batcher
	fetched  map[string]*prometheus.Registry // of those that count what they fetch
	opens    int                             // batchers that were opened to see how long it takes
	launches int                             // worlds that took the place of another
}

// batcher is a client.Batcher whatever its batches are, and where it is.
type batcher interface {
	take(ctx context.Context) (bytes int, err error)
	stop(ctx context.Context) error
	close() error
}

func startTrainer(_ context.Context, log *slog.Logger, arg trainerArg) (*role, any, error) {
	nc, err := client.Connect(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	t := &trainer{log: log, nc: nc, batchers: make(map[string]batcher), fetched: make(map[string]*prometheus.Registry)}
	return &role{close: t.close, ops: map[string]op{
		opOpen: handle(t.open),
		opTake: handle(t.take),
		opEnd:  handle(t.end),

		opTakeAll: handle(t.takeAll),
		opOpenAll: handle(t.openAll),
		opShare:   handle(t.share),
		opTimes:   handle(t.times),
		opOpened:  handle(t.opened),
		opMoved:   handle(t.moved),
		opStall:   handle(t.stall),
		opLost:    handle(t.lost),
		opFetched: handle(t.fetchedBy),
		opSucceed: handle(t.succeed),
		opAgree:   handle(t.agree),
	}}, nil, nil
}

func (t *trainer) close() {
	for _, b := range t.batchers {
		closing(t.log, b.close())
	}
	t.nc.Close()
}

// Requests to trainers, and opTake to the consumers of floors as well.
const (
	opOpen = "open"
	opTake = "take"
	opEnd  = "end" // stops and closes a batcher
)

type openArg struct {
	Name    string          `json:"name"`
	Dataset string          `json:"dataset"`
	Params  json.RawMessage `json:"params"`
	Window  int             `json:"window"`
	Tensors bool            `json:"tensors"` // else bytes
	As      string          `json:"as"`      // what the handle is taken from by; the batcher's name if empty
	World   *client.World   `json:"world"`
	Reader  string          `json:"reader,omitempty"`
	Lag     int             `json:"lag,omitempty"`

	TakeOver bool `json:"take_over,omitempty"`
	Counted  bool `json:"counted,omitempty"` // what it fetches
}

func (t *trainer) open(ctx context.Context, arg openArg) (struct{}, error) {
	b, err := t.handle(ctx, arg)
	if err == nil {
		t.batchers[cmp.Or(arg.As, arg.Name)] = b
	}
	return struct{}{}, err
}

// handle opens a batcher.
func (t *trainer) handle(ctx context.Context, arg openArg) (batcher, error) {
	cfg := client.Config{
		Name: arg.Name, Dataset: arg.Dataset, Params: arg.Params, Window: arg.Window, Logger: t.log, World: arg.World,
		TakeOver: arg.TakeOver, Reader: arg.Reader, Lag: arg.Lag,
	}
	if arg.Counted {
		registry := prometheus.NewRegistry()
		t.fetched[cmp.Or(arg.As, arg.Name)], cfg.Registerer = registry, registry
	}
	if arg.Tensors {
		return openHandle(ctx, t.nc, cfg, batchSize)
	}
	return openHandle(ctx, t.nc, cfg, func(b []byte) int { return len(b) })
}

func batchSize(b schema.Batch) int {
	n := 0
	for _, named := range b {
		n += len(named.Tensor.Data)
	}
	return n
}

// handleOf is a batcher of B.
type handleOf[B any] struct {
	b     *client.Batcher[B]
	size  func(B) int
	state schema.State
}

func openHandle[B any](ctx context.Context, nc *nats.Conn, cfg client.Config, size func(B) int) (batcher, error) {
	b, err := client.Open[B](ctx, nc, cfg)
	if err != nil {
		return nil, err
	}
	return &handleOf[B]{b: b, size: size}, nil
}

func (h *handleOf[B]) take(ctx context.Context) (int, error) {
	step, err := h.b.Take(ctx, h.state)
	if err != nil {
		return 0, err
	}
	h.state = step.Next
	n := h.size(step.Batch)
	step.Release()
	return n, nil
}

func (h *handleOf[B]) stop(ctx context.Context) error { return h.b.Stop(ctx) }

func (h *handleOf[B]) close() error { return h.b.Close() }

// takeArg asks for batches: some that are not timed, then those that are.
type takeArg struct {
	Name  string `json:"name"`
	Warm  int    `json:"warm"`
	Timed int    `json:"timed"`
}

type takeAnswer struct {
	Elapsed time.Duration `json:"elapsed"` // of the timed ones
	Bytes   int64         `json:"bytes"`   // of all
}

// takeTimeout is how long one batch may take before the benchmark gives up.
const takeTimeout = 30 * time.Second

func (t *trainer) take(ctx context.Context, arg takeArg) (takeAnswer, error) {
	b := t.batchers[arg.Name]
	if b == nil {
		return takeAnswer{}, fmt.Errorf("batcher %q is not open", arg.Name)
	}
	return timed(ctx, arg, b.take)
}

func (t *trainer) end(ctx context.Context, name string) (struct{}, error) {
	b := t.batchers[name]
	if b == nil {
		return struct{}{}, fmt.Errorf("batcher %q is not open", name)
	}
	delete(t.batchers, name)
	return struct{}{}, errors.Join(b.stop(ctx), b.close())
}

// timed takes as arg says.
func timed(ctx context.Context, arg takeArg, take func(context.Context) (int, error)) (takeAnswer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// One timer for all: a context with a timeout for each would cost more than some batches do.
	late := time.AfterFunc(takeTimeout, func() { cancel(errLate) })
	defer late.Stop()
	var answer takeAnswer
	var began time.Time
	for i := range arg.Warm + arg.Timed {
		if i == arg.Warm {
			began = time.Now()
		}
		if i%64 == 0 {
			late.Reset(takeTimeout)
		}
		n, err := take(ctx)
		if err != nil {
			return answer, err
		}
		answer.Bytes += int64(n)
	}
	answer.Elapsed = time.Since(began)
	return answer, nil
}

var errLate = errors.New("no batch came for too long")

// serviceConfig is the shape of the service.
type serviceConfig struct {
	Workers  int  // processes
	Slots    int  // of each worker; 0 is the worker's own choice
	Crew     int  // workers in each process; 0 is one
	NoDirect bool // large batches by way of the store, never directly
	Broker   brokerArg
	Servers  int     // brokers, in a cluster; 0 is one alone
	Replicas int     // of record and jobs; 0 is one
	URL      *string // is set to where the broker is, unless nil
}

// service starts a broker, a coordinator, workers and a trainer, each in a process of its own.
func (b *bench) service(ctx context.Context, name string, cfg serviceConfig) (s *side, trainer *process, err error) {
	s = b.side(name)
	at, err := s.brokers(ctx, cfg.Servers, cfg.Broker)
	if err != nil {
		return nil, nil, err
	}
	if cfg.URL != nil {
		*cfg.URL = at
	}
	if _, err = s.start(ctx, "coordinator", coordinatorArg{at, cfg.Replicas}, nil); err != nil {
		return nil, nil, err
	}
	for range cfg.Workers {
		if _, err = s.start(ctx, "worker", workerArg{URL: at, Slots: cfg.Slots, Crew: cfg.Crew, NoDirect: cfg.NoDirect}, nil); err != nil {
			return nil, nil, err
		}
	}
	trainer, err = s.start(ctx, "trainer", trainerArg{at}, nil)
	return s, trainer, err
}
