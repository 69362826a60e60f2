package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/worker"
)

const batcherName = "train"

// world is one run of the service under faults, inside a bubble of fake time.
type world struct {
	plan   plan
	began  time.Time
	server *server.Server
	admin  *nats.Conn // sees the truth: no fault touches it
	js     jetstream.JetStream
	tasks  sync.WaitGroup
	checks *checks
	log    *journal

	mu     sync.Mutex
	rng    *rand.Rand // of the fates of single messages
	tearer *rand.Rand // of the fates of transfers
	rules  []*rule
	torn   float64 // share of the transfers from workers that do not come to their end
	roles  []*role
	born   int
	faults map[string]int
	stale  bool // the next worker's host has a stale copy of the data
	whole  int  // batches that all ranks took, whose rows were put together
}

// rule is a fault that messages meet for a while.
type rule struct {
	endpoint string // empty for all
	dir      int
	class    class
	lost     float64       // probability
	refused  float64       // by the server, that is: the probability of an answer which says that there is no room
	delay    time.Duration // the most; drawn for each message
	until    time.Time     // before which nothing arrives; zero for any time
}

// role is a running coordinator or worker.
type role struct {
	net    *endpoint
	nc     *nats.Conn // nil while it cannot connect yet
	cancel context.CancelFunc
	done   chan struct{}
}

// newWorld starts a server. dir is for what it stores.
func newWorld(p plan, dir string, log *journal) (*world, error) {
	w := &world{plan: p, began: time.Now(), log: log, rng: p.rand(3), tearer: p.rand(6), faults: make(map[string]int)}
	w.checks = newChecks(w)
	srv, err := server.NewServer(&server.Options{
		ServerName: "chaos", DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
		JetStreamMaxMemory: 1 << 30, JetStreamMaxStore: 1 << 30,
	})
	if err != nil {
		return nil, err
	}
	srv.Start()
	w.server = srv
	if !srv.ReadyForConnections(20 * time.Second) {
		return nil, errors.New("the server is not ready")
	}
	if w.admin, err = nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1)); err != nil {
		return nil, err
	}
	w.js, err = jetstream.New(w.admin)
	return w, err
}

// close ends everything; the bubble ends only when nothing is left running.
func (w *world) close() {
	for _, r := range w.all("") {
		w.stop(r)
	}
	if w.admin != nil {
		w.admin.Close()
	}
	if w.server != nil {
		w.server.Shutdown()
		w.server.WaitForShutdown()
	}
	w.tasks.Wait()
}

func (w *world) endpoint(kind string) *endpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.born++
	e := &endpoint{w: w, name: fmt.Sprintf("%s-%d", kind, w.born), number: w.born, role: kind, links: make(map[*link]bool)}
	if kind == "worker" && w.stale {
		w.stale, e.host.ails = false, staleCopy
	}
	return e
}

func (w *world) logger(e *endpoint) *slog.Logger {
	return slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.String("t", w.now())
		}
		return a
	}})).With("at", e.name)
}

// now is fake time since the beginning.
func (w *world) now() string { return fmt.Sprintf("%.3f", time.Since(w.began).Seconds()) }

// note writes down what the schedule does.
func (w *world) note(format string, args ...any) {
	fmt.Fprintf(w.log, "t=%s CHAOS "+format+"\n", append([]any{w.now()}, args...)...)
}

// connect connects as a product would, again and again while it is held.
func (w *world) connect(ctx context.Context, e *endpoint) (*nats.Conn, error) {
	for {
		nc, err := client.Connect("", nats.InProcessServer(e), nats.Name(e.name))
		if err == nil || ctx.Err() != nil {
			return nc, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// spawn starts a worker or a coordinator.
func (w *world) spawn(kind string) {
	e := w.endpoint(kind)
	ctx, cancel := context.WithCancel(context.Background())
	r := &role{net: e, cancel: cancel, done: make(chan struct{})}
	w.mu.Lock()
	w.roles = append(w.roles, r)
	w.mu.Unlock()
	go func() {
		defer close(r.done)
		defer cancel()
		nc, err := w.connect(ctx, e)
		if err != nil {
			return
		}
		defer nc.Close()
		w.mu.Lock()
		r.nc = nc
		w.mu.Unlock()
		if err := w.run(ctx, e, nc); err != nil {
			w.note("%s ended: %v", e.name, err)
		}
	}()
}

func (w *world) run(ctx context.Context, e *endpoint, nc *nats.Conn) error {
	if e.role == "coordinator" {
		c, err := coordinator.New(nc, coordinator.Config{Name: e.name, Logger: w.logger(e)}, sequenceDefinition())
		if err != nil {
			return err
		}
		return c.Run(ctx)
	}
	cfg := worker.Config{Name: e.name, Slots: w.plan.Slots, JobTimeout: 20 * time.Second, Logger: w.logger(e)}
	switch {
	case w.plan.Transfer == inChunks:
		cfg.Direct = worker.DirectOff
	case w.plan.Transfer == unreachable && e.number%2 == 0:
		cfg.DirectAdvertise = workerAddress("nobody")
	case w.plan.Transfer != "":
		t, err := e.serve()
		if err != nil {
			return err
		}
		cfg.Direct, cfg.DirectAdvertise = workerAddress(e.name), t.address()
	}
	wk, err := worker.New(nc, cfg, e.host.definition())
	if err != nil {
		return err
	}
	return wk.Run(ctx)
}

// all lists the running roles of a kind, or of all kinds.
func (w *world) all(kind string) []*role {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []*role
	for _, r := range w.roles {
		if kind == "" || r.net.role == kind {
			found = append(found, r)
		}
	}
	return found
}

func (w *world) forget(r *role) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.roles {
		if other == r {
			w.roles = append(w.roles[:i], w.roles[i+1:]...)
			return
		}
	}
}

// kill ends a role as kill -9 does: what it wrote may arrive, nothing else will, and nobody hears of its end.
func (w *world) kill(r *role) {
	w.forget(r)
	r.net.close()
	w.mu.Lock()
	nc := r.nc
	w.mu.Unlock()
	if nc != nil {
		nc.Close()
	}
	r.cancel()
	<-r.done
}

// replaceWorker kills the worker of that name and starts another unless there are as many as planned.
func (w *world) replaceWorker(name string) {
	for _, r := range w.all("worker") {
		if r.net.name == name {
			w.kill(r)
		}
	}
	if len(w.all("worker")) < w.plan.Workers {
		w.spawn("worker")
	}
}

// stop ends a role as SIGTERM does.
func (w *world) stop(r *role) {
	w.forget(r)
	r.cancel()
	<-r.done
	r.net.close()
}

// ending is what becomes of a message.
type ending int

const (
	arrives ending = iota
	lost
	refused
)

// fate says what the faults of the moment do to a message.
func (w *world) fate(e *endpoint, dir int, c class) (delay time.Duration, end ending) {
	if c == classWire {
		return 0, arrives
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.rules {
		if r.class != c || r.dir != dir || (r.endpoint != "" && r.endpoint != e.name) {
			continue
		}
		if r.lost > 0 && w.rng.Float64() < r.lost {
			w.faults["message lost"]++
			return 0, lost
		}
		if r.refused > 0 && w.rng.Float64() < r.refused {
			w.faults["message refused"]++
			return 0, refused
		}
		delay = max(delay, time.Until(r.until))
		if r.delay > 0 {
			w.faults["message delayed"]++
			delay = max(delay, time.Duration(w.rng.Int64N(int64(r.delay))))
		}
	}
	return delay, arrives
}

// tears says which share of the transfers from workers does not come to its end from now on.
func (w *world) tears(share float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.torn = share
}

// tear says what the faults of the moment do to a transfer that begins, and after how many bytes.
func (w *world) tear() (what tear, after int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tearer.Float64() >= w.torn {
		return "", 0
	}
	what = []tear{tornOff, stuck, damaged, fatal}[w.tearer.IntN(4)]
	if w.tearer.IntN(4) == 0 {
		return what, 0 // before there is an answer
	}
	return what, w.tearer.IntN(w.plan.Params.BigSize)
}

func (w *world) enforce(r *rule) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules = append(w.rules, r)
}

func (w *world) lift(r *rule) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, other := range w.rules {
		if other == r {
			w.rules = append(w.rules[:i], w.rules[i+1:]...)
			return
		}
	}
}

func (w *world) count(fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[fault]++
}

// injected reports whether one of the faults happened.
func (w *world) injected(faults ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, fault := range faults {
		if w.faults[fault] > 0 {
			return true
		}
	}
	return false
}

// journal keeps the last lines of what happened, for the report of a failure.
type journal struct {
	mu    sync.Mutex
	lines []string
	most  int
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines) >= j.most {
		j.lines = append(j.lines[:0], j.lines[len(j.lines)/2:]...)
	}
	j.lines = append(j.lines, strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

// together counts a batch whose rows were put together.
func (w *world) together() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole++
}
