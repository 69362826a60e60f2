package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Operations of the coordinator's service: the last token of a request's subject.
const (
	opSeat     = "seat"
	opStop     = "stop"
	opStatus   = "status"
	opOverview = "overview"
)

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// handle answers a request in a goroutine of its own, since opening a data set may take long.
func (c *Coordinator) handle(m *nats.Msg) {
	if !topology.Answerable(m.Reply) {
		return // nobody to answer
	}
	if len(m.Data) > maxRequest {
		c.respond(m, map[string]*schema.Fault{"fault": tooLarge(len(m.Data))})
		return
	}
	if !c.busy() {
		c.respond(m, map[string]*schema.Fault{"fault": tooMany()})
		return
	}
	c.spawn(func() {
		defer c.requests.Add(-1)
		switch op := lastToken(m.Subject); op {
		case opSeat:
			answer(c, m, func(req *wire.SeatRequest) (wire.SeatReply, *schema.Fault) {
				if fault := checkRequest(req); fault != nil {
					return wire.SeatReply{Fault: fault}, fault
				}
				b, fault := c.route(m, req.Batcher, req)
				if b == nil {
					return wire.SeatReply{Fault: fault}, fault
				}
				return call(b, func() wire.SeatReply { return b.seat(req) })
			})
		case opStop:
			answer(c, m, func(req *wire.StopRequest) (wire.StopReply, *schema.Fault) {
				b, fault := c.route(m, req.Batcher, nil)
				if b == nil {
					return wire.StopReply{Fault: fault}, fault
				}
				return call(b, func() wire.StopReply { return b.stop(req) })
			})
		case opStatus:
			answer(c, m, func(req *wire.StatusRequest) (wire.StatusReply, *schema.Fault) {
				b, fault := c.route(m, req.Batcher, nil)
				if b == nil {
					return wire.StatusReply{Fault: fault}, fault
				}
				return call(b, func() wire.StatusReply { return wire.StatusReply{Status: b.status()} })
			})
		case opOverview:
			c.respond(m, fitting(c.overview(), c.nc.MaxPayload()))
		}
	})
}

// errForwarded says that another coordinator answers.
var errForwarded = &schema.Fault{Code: "forwarded"}

// faulty is a reply that can say what went wrong.
type faulty interface {
	wire.SeatReply | wire.StopReply | wire.StatusReply
}

// answer decodes a request, carries it out and responds, unless it was passed on. A fault that carry
// returns beside the reply is already in it, or the actor ended before it could answer.
func answer[Q any, R faulty](c *Coordinator, m *nats.Msg, carry func(*Q) (R, *schema.Fault)) {
	req := new(Q)
	if err := json.Unmarshal(m.Data, req); err != nil {
		c.respond(m, map[string]*schema.Fault{"fault": {Code: schema.CodeBadRequest, Message: err.Error()}})
		return
	}
	reply, fault := carry(req)
	switch fault {
	case errForwarded:
	case errGone:
		c.respond(m, map[string]*schema.Fault{"fault": fault})
	default:
		c.respond(m, reply)
	}
}

// route returns the actor that owns a batcher, takes the batcher over if its owner is dead, creates it for a
// seat request if there is none, or passes the message on to the coordinator that owns it.
func (c *Coordinator) route(m *nats.Msg, name string, seat *wire.SeatRequest) (*batcher, *schema.Fault) {
	if err := wire.CheckName("batcher", name); err != nil {
		return nil, &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	for range 3 { // the record may change between reading and writing it
		if b := c.owner(name); b != nil {
			return b, nil
		}
		ctx, cancel := context.WithTimeout(c.ctx, callTimeout)
		b, fault, again := c.claim(ctx, m, name, seat)
		cancel()
		if !again {
			return b, fault
		}
	}
	return nil, unavailable("the record of batcher %s keeps changing", name)
}

func unavailable(format string, args ...any) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnavailable, Message: fmt.Sprintf(format, args...)}
}

// foreign is why a reader of another wire version gets no seat: what this coordinator's workers store would look damaged
// to it. A coordinator of its version may answer the next request.
func (c *Coordinator) foreign(req *wire.SeatRequest) *schema.Fault {
	return unavailable("the trainer speaks wire version %d and coordinator %s %d: use programs of one release",
		max(req.Wire, 1), c.cfg.Name, wire.Version)
}

// claim makes one attempt at routing a batcher that is not owned here.
func (c *Coordinator) claim(ctx context.Context, m *nats.Msg, name string, seat *wire.SeatRequest) (b *batcher, fault *schema.Fault, again bool) {
	rec, rev, err := c.read(ctx, name)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound) && seat == nil:
		return nil, &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf("there is no batcher %s", name)}, false
	case errors.Is(err, jetstream.ErrKeyNotFound):
		b, fault = c.create(ctx, seat)
		return b, fault, b == nil && fault == nil
	case err != nil:
		return nil, unavailable("record of batcher %s: %v", name, err), false
	}
	switch c.leaseOf(ctx, rec.Owner) {
	case leaseLive:
		if strings.Count(m.Subject, ".") > 2 {
			return nil, unavailable("batcher %s is changing hands", name), false // passed on once already
		}
		fwd := &nats.Msg{Subject: wire.CoordinatorPrefix + "." + rec.Owner + "." + lastToken(m.Subject), Reply: m.Reply, Data: m.Data}
		if err := c.nc.PublishMsg(fwd); err != nil {
			return nil, unavailable("pass on to coordinator %s: %v", rec.Owner, err), false
		}
		return nil, errForwarded, false
	case leaseUnknown:
		return nil, unavailable("coordinator %s, which owns batcher %s, may be dead; waiting for its lease", rec.Owner, name), false
	}
	b, fault = c.takeOver(ctx, rec, rev)
	return b, fault, b == nil && fault == nil
}

// create makes the record that a seat request asks for. Both results nil: somebody else just made one.
func (c *Coordinator) create(ctx context.Context, req *wire.SeatRequest) (*batcher, *schema.Fault) {
	if req.Wire != wire.Version {
		return nil, c.foreign(req)
	}
	k := c.kinds[req.Spec.Dataset]
	if k == nil {
		return nil, c.unknownDataset(req.Spec.Dataset)
	}
	if len(c.all()) >= maxBatchers {
		return nil, unavailable("coordinator %s feeds %d batchers, as many as it takes; stop some, or wait until idle ones are collected", c.cfg.Name, maxBatchers)
	}
	rec := wire.Record{
		Wire: wire.Version, Batcher: req.Batcher, Owner: c.cfg.Name, Phase: schema.PhaseStopped,
		Spec: wire.Spec{Dataset: k.Name, Version: k.Version, Params: req.Spec.Params}, Settings: req.Settings,
		Reader: req.Reader, Since: time.Now(),
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	if !c.lockClaims(ctx) {
		return nil, unavailable("record of batcher %s: %v", req.Batcher, ctx.Err())
	}
	defer c.unlockClaims()
	rev, err := c.kv.Create(ctx, topology.BatcherKey(req.Batcher), data)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", req.Batcher, err)
	}
	return c.adopt(rec, rev, k), nil
}

// takeOver makes this coordinator the owner. Both results nil: somebody else was faster.
func (c *Coordinator) takeOver(ctx context.Context, rec wire.Record, rev uint64) (*batcher, *schema.Fault) {
	if rec.Wire != wire.Version {
		return nil, unavailable("the record of batcher %s is of wire version %d; this coordinator speaks %d", rec.Batcher, rec.Wire, wire.Version)
	}
	k := c.kinds[rec.Spec.Dataset]
	if k == nil {
		return nil, c.unknownDataset(rec.Spec.Dataset)
	}
	if !c.lockClaims(ctx) {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, ctx.Err())
	}
	defer c.unlockClaims()
	if b := c.owner(rec.Batcher); b != nil {
		return b, nil
	}
	dead := rec.Owner
	rec.Owner = c.cfg.Name
	data, err := json.Marshal(rec)
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, err)
	}
	rev, err = c.kv.Update(ctx, topology.BatcherKey(rec.Batcher), data, rev)
	if topology.IsConflict(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", rec.Batcher, err)
	}
	c.process.takeovers.Add(1)
	c.log.Info("batcher taken over", "batcher", rec.Batcher, "gen", rec.Gen, "from", dead, "phase", rec.Phase)
	return c.adopt(rec, rev, k), nil
}

// lockClaims takes claiming; false when ctx ended first. It is held while JetStream is asked, which may take long.
func (c *Coordinator) lockClaims(ctx context.Context) bool {
	select {
	case c.claiming <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Coordinator) unlockClaims() { <-c.claiming }

func (c *Coordinator) unknownDataset(name string) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnknownDataset,
		Message: fmt.Sprintf("coordinator %s has no data set %q, only %s", c.cfg.Name, name, strings.Join(c.kindTokens(), ", "))}
}

// read returns a batcher's record as the bucket's leader has it.
func (c *Coordinator) read(ctx context.Context, name string) (rec wire.Record, rev uint64, err error) {
	entry, err := c.kv.Get(ctx, topology.BatcherKey(name))
	if err != nil {
		return rec, 0, err
	}
	if err := json.Unmarshal(entry.Value(), &rec); err != nil {
		return rec, 0, fmt.Errorf("record of batcher %s: %w", name, err)
	}
	return rec, entry.Revision(), nil
}

func (c *Coordinator) overview() wire.Overview {
	o := wire.Overview{Coordinator: c.cfg.Name, Version: wire.Release, Datasets: c.kindTokens(), Workers: c.fleet.list()}
	for _, v := range c.views() {
		o.Batchers = append(o.Batchers, v.Status)
	}
	slices.SortFunc(o.Batchers, func(a, b schema.Status) int { return strings.Compare(a.Batcher, b.Batcher) })
	return o
}
