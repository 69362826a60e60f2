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
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

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
	*site
	ran   atomic.Bool
	inbox string // where the server says that no worker is there to be asked

	fleet     *fleet
	follows   *follows
	meters    *meters
	members   *membership
	actors    *actors
	successor *successor
	collector *collector
	desk      *desk
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
	s := &site{
		nc: nc, js: js, cfg: cfg, log: cfg.Logger.With("coordinator", cfg.Name), kinds: make(map[string]*kind.Kind),
		records: &records{self: cfg.Name},
	}
	s.origins = &origins{records: s.records, written: make(map[string]time.Time)}
	for _, d := range defs {
		if err := d.Validate(); err != nil {
			return nil, err
		}
		if s.kinds[d.Name()] != nil {
			return nil, fmt.Errorf("coordinator: data set %q is defined twice", d.Name())
		}
		s.kinds[d.Name()] = kind.Of(d)
	}
	return assemble(s), nil
}

// assemble makes the parts of a coordinator and tells each which others it works with.
func assemble(s *site) *Coordinator {
	directory, claims := new(directory), new(claims)
	handover := &handover{site: s, directory: directory}
	strays := &strays{site: s, directory: directory}
	c := &Coordinator{site: s, inbox: s.nc.NewInbox(), collector: &collector{s}}
	c.fleet = &fleet{tell: s.tellWorker, ask: c.askWorkers, log: s.log, answered: make(chan struct{}, 1)}
	c.follows = newFollows(s, c.fleet)
	c.actors = &actors{
		site: s, fleet: c.fleet, follows: c.follows, directory: directory, handover: handover,
		owned: make(map[string]*batcher),
	}
	c.fleet.changed = c.actors.fleetChanged
	c.members = &membership{
		site: s, leases: newLeases(s.cfg.Lease), callers: new(callers), doubt: func() { directory.doubt(c.actors.all()) },
	}
	c.successor = &successor{
		site: s, actors: c.actors, members: c.members, directory: directory, claims: claims,
		handover: handover, strays: strays,
	}
	c.desk = &desk{
		site: s, actors: c.actors, directory: directory, strays: strays, fleet: c.fleet, callers: c.members.callers,
		router: &router{
			site: s, actors: c.actors, members: c.members, successor: c.successor, directory: directory, claims: claims,
			handover: handover, strays: strays,
		},
	}
	c.meters = c.newMeters()
	c.actors.iterate = c.meters.iterate
	return c
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
	c.running.Go(func() { c.members.renews(ctx) })
	failure := c.serve(ctx)
	cancel()
	c.actors.close()
	c.running.Wait()
	c.members.resign()
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
	c.fleet.meet(ctx)
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
		strings.Join(wire.KindNames(c.kindTokens()), " "), len(c.fleet.list())), false)
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
	c.records.kv, c.records.stream = kv, stream
	return c.members.renew(ctx)
}

func (c *Coordinator) subscribe() (subs []*nats.Subscription, err error) {
	for subject, handle := range map[string]nats.MsgHandler{
		wire.WorkerPrefix + ".*": c.fleet.hear,
		c.inbox:                  c.fleet.hear,
		wire.ReaderPrefix + ".*": c.actors.deliverReader,
		wire.ReportPrefix + ".*": c.actors.deliver((*batcher).hearReport),

		wire.CoordinatorSubject(c.cfg.Name, "*"):            c.desk.handle,
		wire.CoordinatorSubject(wire.EveryCoordinator, "*"): c.desk.handle,
	} {
		sub, err := c.nc.Subscribe(subject, handle)
		if err != nil {
			return subs, err
		}
		subs = append(subs, sub)
	}
	return subs, nil
}

// loop runs until ctx ends, or until the server denies a subject that the coordinator needs. Work that waits for
// JetStream has goroutines of its own.
func (c *Coordinator) loop(ctx context.Context) error {
	for _, f := range []func(context.Context){
		c.members.judges, c.members.pings, c.successor.reads, c.collector.collects, c.follows.run,
	} {
		c.running.Go(func() { f(ctx) })
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		if c.nc.IsConnected() {
			c.fleet.expire(time.Now())
			if len(c.actors.all()) > 0 {
				c.actors.spawn(func() { _ = c.ready(true) }) // who begins a generation hears the error
			}
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

// askWorkers has every worker beat at once. At the inbox nobody answers but the server, where there is no worker: a
// worker may not write to the inboxes of coordinators.
func (c *Coordinator) askWorkers() {
	if err := c.nc.PublishRequest(wire.AskSubject, c.inbox, nil); err != nil {
		c.log.Warn("workers not asked", "error", err)
	}
}

// addService registers the coordinator as a NATS micro service. Requests for one batcher go to any
// coordinator of the queue group; the overview is asked of all.
func (c *Coordinator) addService() (*topology.Service, error) {
	cfg := topology.ServiceConfig{
		Name: "jetbatch-coordinator", Version: wire.Release, Description: "feeds jetbatch batchers with jobs",
		ID: c.cfg.Name, Metadata: map[string]string{"coordinator": c.cfg.Name},
		Stats: func() any { return map[string]int{"batchers": len(c.actors.all())} },
		Ready: c.Ready,
	}
	for _, op := range []string{opSeat, opStop, opStatus, opOverview, opManage} {
		e := topology.Endpoint{
			Name: op, Subject: wire.CoordinatorPrefix + "." + op, Queue: "jetbatch", Handle: c.desk.handle,
		}
		if op == opOverview {
			e.Queue = ""
		}
		cfg.Endpoints = append(cfg.Endpoints, e)
	}
	return topology.Serve(c.nc, cfg)
}
