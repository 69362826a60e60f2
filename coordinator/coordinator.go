// Package coordinator feeds batchers: it iterates their data sets from an explicit state and publishes
// the jobs in order, as far ahead of the trainer as the window allows.
//
// A coordinator promises that what it stores can be derived again from (data set, state), that it changes a
// batcher's record only by compare-and-set, and that a coordinator which was paused and deposed does no
// harm when it wakes. Several may run: each batcher is fed by one of them, and by another when that one is
// not heard of for Config.Lease. It never materializes a batch and never reads one.
package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	// callTimeout bounds one call to JetStream, or a few.
	callTimeout = 5 * time.Second
	// askTimeout bounds one question to a server that may be silent: a change of a record, so that a client that waits
	// hears within its own patience that it is not stored, or a look at a store.
	askTimeout = time.Second
)

// Coordinator feeds any number of batchers. Its methods are safe for concurrent use.
type Coordinator struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	cfg   Config
	log   *slog.Logger
	kinds map[string]*kind.Kind // by data set name

	ran     atomic.Bool
	ctx     context.Context // of Run; set before anything is owned
	domain  string          // of the JetStream that it stores in; set before anything is owned
	kv      jetstream.KeyValue
	records *records
	inbox   string // where the server says that no worker is there to be asked
	origins *origins
	fleet   fleet
	line    line
	process process
	pulse   pulse
	meters  *meters
	running sync.WaitGroup // batchers' actors, requests being handled, and the loops

	leases    leases
	directory directory
	claims    claims
	places    places
	follows   *follows

	listed time.Time // the records, by reads
	turn   int       // of leases that do not fit one look, by judges

	mu     sync.Mutex
	owned  map[string]*batcher
	closed bool // nothing new is begun
}

// New returns a coordinator for the given data sets. It does nothing until Run.
func New(nc *nats.Conn, cfg Config, defs ...dataset.Definition) (*Coordinator, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	js, err := topology.JetStream(nc, cfg.Domain)
	if err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	c := &Coordinator{
		nc: nc, js: js, cfg: cfg, inbox: nc.NewInbox(), log: cfg.Logger.With("coordinator", cfg.Name),
		kinds: make(map[string]*kind.Kind), owned: make(map[string]*batcher),
	}
	for _, d := range defs {
		if err := d.Validate(); err != nil {
			return nil, err
		}
		if c.kinds[d.Name()] != nil {
			return nil, fmt.Errorf("coordinator: data set %q is defined twice", d.Name())
		}
		c.kinds[d.Name()] = kind.Of(d)
	}
	c.fleet.changed, c.fleet.tell, c.fleet.log = c.fleetChanged, c.tellWorker, c.log
	c.fleet.answered = make(chan struct{}, 1)
	c.leases.init(cfg.Lease)
	c.follows = newFollows(c)
	c.meters = c.newMeters()
	return c, nil
}

// Run feeds batchers until ctx ends and then lets go of them: their records stay, and another coordinator, or
// this one started again, goes on. The error is nil after ctx ended, else why the coordinator could not run: a
// *schema.PermissionError when the server denies it a subject that it needs, ErrRan when it was called before.
func (c *Coordinator) Run(ctx context.Context) error {
	if !c.ran.CompareAndSwap(false, true) {
		return ErrRan
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx = ctx
	if err := c.prepare(ctx); err != nil {
		return fmt.Errorf("coordinator: %w", err)
	}
	c.running.Go(func() { c.renews(ctx) })
	failure := c.serve(ctx)
	cancel()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.running.Wait()
	c.resign()
	for _, k := range c.kinds {
		k.CloseIdle()
	}
	if failure != nil {
		return fmt.Errorf("coordinator: %w", failure)
	}
	return nil
}

// serve answers requests and owns batchers until ctx ends, or until the server denies a subject that the coordinator
// needs. Every other error here, an error of the undoing included, means that the connection is closed.
func (c *Coordinator) serve(ctx context.Context) error {
	subs, err := c.subscribe()
	defer func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}()
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	c.meet(ctx)
	svc, err := c.addService()
	if err != nil {
		return fmt.Errorf("service: %w", err)
	}
	defer func() { _ = svc.Stop() }()
	unregister, err := c.register()
	if err != nil {
		return err
	}
	defer unregister()
	defer c.follow(ctx)()
	c.log.Info("coordinator runs", "kinds", c.kindTokens())
	c.tellCoordinator(c.cfg.Name, "came", fmt.Sprintf("data sets: %s; workers there: %d",
		strings.Join(c.kindTokens(), " "), len(c.fleet.list())), false)
	return c.loop(ctx)
}

// prepare makes the shared streams and takes the first lease, again and again while the server is not up yet.
func (c *Coordinator) prepare(ctx context.Context) error {
	for {
		err := c.prepareOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if denied := topology.Denied(c.nc, needs.In(c.cfg.Domain)); denied != nil {
			return denied
		}
		if !passing(err) {
			return err
		}
		c.log.Warn("JetStream does not answer yet", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(beat):
		}
	}
}

func (c *Coordinator) prepareOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.ensure(ctx); err != nil {
		return err
	}
	if info, err := c.js.AccountInfo(ctx); err == nil { // it only helps others to find it
		c.domain = info.Domain
	}
	kv, err := topology.OpenBucket(ctx, c.js)
	if err != nil {
		return err
	}
	stream, err := c.js.Stream(ctx, topology.BucketStream)
	if err != nil {
		return err
	}
	c.kv, c.records = kv, &records{kv: kv, stream: stream, self: c.cfg.Name}
	c.origins = &origins{records: c.records, written: make(map[string]time.Time)}
	return c.renew(ctx)
}

// ensure makes the shared streams where they are missing.
func (c *Coordinator) ensure(ctx context.Context) error {
	return topology.Ensure(ctx, c.js, topology.Config{Replicas: c.cfg.Replicas})
}

// askAgain is the pause between two questions that a server without a leader may not answer.
const askAgain = 100 * time.Millisecond

// answering asks JetStream, the bucket and the job stream for a sign of life.
func (c *Coordinator) answering(ctx context.Context) error {
	return c.insist(ctx, func() error {
		_, err := c.js.AccountInfo(ctx)
		for _, name := range []string{topology.BucketStream, topology.JobsStream} {
			if err == nil {
				_, err = c.js.Stream(ctx, name)
			}
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				err = nil
			}
		}
		return err
	})
}

// insist asks a question and returns the first outcome. One that is sent while there is no leader stays unanswered
// after the election, so it is asked again and again.
func (c *Coordinator) insist(ctx context.Context, question func() error) error {
	answers := make(chan error)
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		c.running.Go(func() {
			err := question()
			select {
			case answers <- err:
			case <-ctx.Done():
			}
		})
		select {
		case err := <-answers:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// passing reports whether an error of JetStream may go away by itself. A cluster without a leader, or without all of
// its servers, answers so for a while; a server without JetStream needs another configuration.
func passing(err error) bool {
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return false
	case topology.IsPassing(err):
		return true
	}
	for _, passes := range []error{
		context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, jetstream.ErrNoStreamResponse,
		nats.ErrDisconnected, nats.ErrConnectionReconnecting,
	} {
		if errors.Is(err, passes) {
			return true
		}
	}
	return false
}

func (c *Coordinator) subscribe() (subs []*nats.Subscription, err error) {
	for subject, handle := range map[string]nats.MsgHandler{
		wire.WorkerPrefix + ".*": c.fleet.hear,
		c.inbox:                  c.fleet.hear,
		wire.ReaderPrefix + ".*": c.deliverReader,
		wire.ReportPrefix + ".*": c.deliver((*batcher).hearReport),

		wire.CoordinatorSubject(c.cfg.Name, "*"):            c.handle,
		wire.CoordinatorSubject(wire.EveryCoordinator, "*"): c.handle,
	} {
		sub, err := c.nc.Subscribe(subject, handle)
		if err != nil {
			return subs, err
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// deliver hands a message for a batcher, whose name is the subject's last token, to its actor if it is owned here.
func (c *Coordinator) deliver(hear func(*batcher, *nats.Msg)) nats.MsgHandler {
	return func(m *nats.Msg) {
		if b := c.owner(lastToken(m.Subject)); b != nil {
			hear(b, m)
		}
	}
}

// deliverReader hands a credit to the batcher's actor, if it is here. Of a batcher that no coordinator can take over the
// directory notes that the reader lives.
func (c *Coordinator) deliverReader(m *nats.Msg) {
	name := lastToken(m.Subject)
	if b := c.owner(name); b != nil {
		b.hearReader(m)
	} else if c.directory.isStray(name) {
		if credit := readCredit(m.Data); credit != nil {
			c.directory.heard(name, credit.Holder(credit.Reader), time.Now())
		}
	}
}

// loop runs until ctx ends, or until the server denies a subject that the coordinator needs. Work that waits for
// JetStream has goroutines of its own.
func (c *Coordinator) loop(ctx context.Context) error {
	for _, f := range []func(context.Context){c.judges, c.pings, c.reads, c.collects, c.follows.run} {
		c.running.Go(func() { f(ctx) })
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		if c.nc.IsConnected() {
			c.fleet.expire(time.Now())
		}
		if err := topology.Denied(c.nc, needs.In(c.cfg.Domain)); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// every calls f at once and then in the rhythm of d until ctx ends. pulse, unless nil, is set before each call.
func (c *Coordinator) every(ctx context.Context, d time.Duration, pulse *atomic.Int64, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		if pulse != nil {
			pulse.Store(time.Now().UnixNano())
		}
		f()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// fleetChanged lets every batcher look at its window again and say that it has jobs, as it does every beat.
func (c *Coordinator) fleetChanged() {
	c.follows.changed()
	for _, b := range c.all() {
		b.hint(func() {
			b.countFleet()
		})
	}
}

// owner returns the actor of a batcher that this coordinator owns, or nil.
func (c *Coordinator) owner(name string) *batcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.owned[name]
}

func (c *Coordinator) all() []*batcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*batcher, 0, len(c.owned))
	for _, b := range c.owned {
		all = append(all, b)
	}
	return all
}

// adopt starts the actor of a batcher whose record, at rev, names this coordinator.
func (c *Coordinator) adopt(rec wire.Record, rev uint64) *batcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := newBatcher(c, rec, rev)
	c.owned[rec.Batcher] = b
	c.running.Go(b.run)
	return b
}

// spawn runs f in a goroutine that Run waits for. It reports false when Run is about to return: a callback of a
// subscription may come after its end.
func (c *Coordinator) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.running.Go(f)
	}
	return !c.closed
}

// disown forgets an actor that ended.
func (c *Coordinator) disown(b *batcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owned[b.name] == b {
		delete(c.owned, b.name)
		c.follows.end(b.name, "")
	}
}

// versions are the data sets of this coordinator and their versions.
func (c *Coordinator) versions() map[string]uint32 {
	versions := make(map[string]uint32, len(c.kinds))
	for name, k := range c.kinds {
		versions[name] = k.Version
	}
	return versions
}

func (c *Coordinator) kindTokens() []string {
	tokens := make([]string, 0, len(c.kinds))
	for _, k := range c.kinds {
		tokens = append(tokens, wire.KindToken(k.Name, k.Version))
	}
	return tokens
}

// addService registers the coordinator as a NATS micro service. Requests for one batcher go to any
// coordinator of the queue group; the overview is asked of all.
func (c *Coordinator) addService() (*topology.Service, error) {
	cfg := topology.ServiceConfig{
		Name: "jetbatch-coordinator", Version: wire.Release, Description: "feeds jetbatch batchers with jobs",
		ID: c.cfg.Name, Metadata: map[string]string{"coordinator": c.cfg.Name},
		Stats: func() any { return map[string]int{"batchers": len(c.all())} },
		Ready: c.Ready,
	}
	for _, op := range []string{opSeat, opStop, opStatus, opOverview, opManage} {
		e := topology.Endpoint{Name: op, Subject: wire.CoordinatorPrefix + "." + op, Queue: "jetbatch", Handle: c.handle}
		if op == opOverview {
			e.Queue = ""
		}
		cfg.Endpoints = append(cfg.Endpoints, e)
	}
	return topology.Serve(c.nc, cfg)
}

func (c *Coordinator) respond(m *nats.Msg, reply any) {
	data, err := json.Marshal(reply)
	if err == nil {
		err = c.nc.Publish(m.Reply, data)
	}
	if err != nil {
		c.log.Warn("no answer sent", "subject", m.Subject, "error", err)
	}
}
