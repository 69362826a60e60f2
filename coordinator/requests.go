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
	opManage   = "manage"
	opPing     = "ping" // of one coordinator by another
)

func lastToken(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

// handle answers a request in a goroutine of its own, since carrying it out may take long.
func (c *Coordinator) handle(m *nats.Msg) {
	if !topology.Answerable(m.Reply) {
		return // no inbox to answer
	}
	if len(m.Data) > maxRequest {
		c.refuse(m, tooLarge(len(m.Data)))
		return
	}
	switch lastToken(m.Subject) {
	case opSeat:
		answer(c, m, c.planSeat, func(f *flight, req *wire.SeatRequest) (wire.SeatReply, error) {
			b, err := c.route(f, req.Batcher, req)
			if err != nil {
				return wire.SeatReply{}, err
			}
			if req.Mode == wire.ModeOpen {
				f.doing("data set %s of batcher %s is being opened", req.Spec.Dataset, req.Batcher)
			} else {
				f.doing("the trainer of batcher %s is being seated", req.Batcher)
			}
			return carry(b, func(answer func(wire.SeatReply)) { b.seat(req, c.specKey(req.Spec), answer) })
		})
	case opStop:
		answer(c, m, c.planStop, func(f *flight, req *wire.StopRequest) (wire.StopReply, error) {
			b, err := c.route(f, req.Batcher, nil)
			if err != nil {
				return wire.StopReply{}, err
			}
			f.doing("batcher %s is busy; it is being asked to stop", req.Batcher)
			return carry(b, func(answer func(wire.StopReply)) { b.stop(req, answer) })
		})
	case opStatus:
		answer(c, m, c.planStatus, func(f *flight, req *wire.StatusRequest) (wire.StatusReply, error) {
			if status, _, ok := c.directory.strayOf(req.Batcher, time.Now()); ok && c.owner(req.Batcher) == nil {
				return wire.StatusReply{Status: status}, nil
			}
			b, err := c.route(f, req.Batcher, nil)
			if err != nil {
				return wire.StatusReply{}, err
			}
			f.doing("batcher %s is busy; it is being asked how it stands", req.Batcher)
			return carry(b, func(answer func(wire.StatusReply)) { answer(wire.StatusReply{Status: b.status()}) })
		})
	case opManage:
		answer(c, m, c.planManage, c.manage)
	case opPing:
		c.respond(m, struct{}{})
	case opOverview:
		plan := func(*struct{}) (plan, *schema.Fault) {
			bounds := []bound{{opOverview, maxViews, "the overview"}}
			return plan{stage: "the overview is being put together", bounds: bounds}, nil
		}
		answer(c, m, plan, func(*flight, *struct{}) (wire.Overview, error) {
			return fitting(c.overview(), c.nc.MaxPayload()), nil
		})
	}
}

func (c *Coordinator) planSeat(req *wire.SeatRequest) (plan, *schema.Fault) {
	planned, fault := planChange(opSeat, req.Batcher, req.Reader, req.Request)
	if err := wire.CheckIdleTimeout(req.Settings.IdleTimeout); fault == nil && err != nil {
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	if fault == nil && req.Wire != wire.Version {
		fault = c.foreign(req)
	}
	if fault == nil {
		fault = proven(req.Reader, req.Secret)
	}
	if err := req.Check(req.Size); fault == nil && err != nil {
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	return planned, fault
}

func (c *Coordinator) planStop(req *wire.StopRequest) (plan, *schema.Fault) {
	planned, fault := planChange(opStop, req.Batcher, req.Reader, req.Request)
	if fault == nil {
		fault = proven(req.Reader, req.Secret)
	}
	if err := req.CheckPlace(); fault == nil && err != nil {
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	return planned, fault
}

func planChange(op, batcher, reader, request string) (plan, *schema.Fault) {
	if fault := checkBatcher(batcher); fault != nil {
		return plan{}, fault
	}
	if fault := checkIDs(reader, request); fault != nil {
		return plan{}, fault
	}
	return plan{
		id:    strings.Join([]string{op, batcher, reader, request}, "/"),
		stage: fmt.Sprintf("the record of batcher %s is being read", batcher),
		bounds: []bound{
			{"batcher/" + batcher, maxShare, "batcher " + batcher},
			{"reader/" + reader, maxAsked, "trainer " + reader},
		},
	}, nil
}

func (c *Coordinator) planStatus(req *wire.StatusRequest) (plan, *schema.Fault) {
	return plan{
		stage:  fmt.Sprintf("the record of batcher %s is being read", req.Batcher),
		bounds: []bound{{"status/" + req.Batcher, maxLooks, "the status of batcher " + req.Batcher}},
	}, checkBatcher(req.Batcher)
}

func checkBatcher(name string) *schema.Fault {
	if err := wire.CheckName("batcher", name); err != nil {
		return &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	return nil
}

// refuse answers with a fault, which every reply has in the same place.
func (c *Coordinator) refuse(m *nats.Msg, fault *schema.Fault) {
	c.respond(m, map[string]*schema.Fault{"fault": fault})
}

// forwardError says that another coordinator answers.
type forwardError struct{ owner string }

func (e *forwardError) Error() string { return "coordinator " + e.owner + " answers" }

// carry lets the actor begin f and waits for what f answers.
func carry[R any](b *batcher, f func(answer func(R))) (R, error) {
	r, fault := await(b, f)
	if fault != nil {
		return r, fault
	}
	return r, nil
}

// answer decodes a request, gives it a place and carries it out with do. All messages that repeat the request meanwhile
// are answered, or passed on when do says that another coordinator answers.
func answer[Q, R any](
	c *Coordinator, m *nats.Msg, planned func(*Q) (plan, *schema.Fault), do func(*flight, *Q) (R, error),
) {
	req := new(Q)
	if len(m.Data) > 0 {
		if err := json.Unmarshal(m.Data, req); err != nil {
			c.refuse(m, &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()})
			return
		}
	}
	plan, fault := planned(req)
	if fault != nil {
		c.refuse(m, fault)
		return
	}
	f, fault := c.places.enter(m, plan, c.late)
	if fault != nil {
		c.refuse(m, fault)
	}
	if f == nil {
		return // refused, or joined
	}
	if !c.spawn(func() {
		reply, err := do(f, req)
		c.places.leave(f)
		for _, m := range f.land() {
			c.finish(m, reply, err)
		}
	}) {
		c.places.leave(f)
		f.land()
	}
}

// late answers a message whose request is not carried out yet with what takes so long. The request goes on: a
// repetition joins it, or finds that it was carried out.
func (c *Coordinator) late(f *flight, w *waiter) {
	c.places.slow(f)
	if f.give(w) {
		c.refuse(w.msg, f.pending())
	}
}

// finish answers one message with the outcome of its request.
func (c *Coordinator) finish(m *nats.Msg, reply any, err error) {
	var fault *schema.Fault
	var forward *forwardError
	switch {
	case err == nil:
		c.respond(m, reply)
	case errors.As(err, &forward) && strings.HasPrefix(m.Subject, wire.CoordinatorSubject(wire.EveryCoordinator, "")):
		// The owner heard it, too.
	case errors.As(err, &forward):
		if strings.Count(m.Subject, ".") > 2 { // passed on once already
			c.refuse(m, unavailable("the batcher is changing hands"))
			return
		}
		subject := wire.CoordinatorPrefix + "." + forward.owner + "." + lastToken(m.Subject)
		if err := c.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: m.Reply, Data: m.Data}); err != nil {
			c.refuse(m, unavailable("pass on to coordinator %s: %v", forward.owner, err))
		}
	case errors.As(err, &fault):
		c.refuse(m, fault)
	default:
		c.refuse(m, unavailable("%v", err))
	}
}

// errAgain says that the record changed between reading and writing it.
var errAgain = errors.New("the record changed")

// waitError says that the owner may be dead and that its lease has not been watched for long enough.
type waitError struct{ owner string }

func (e *waitError) Error() string {
	return fmt.Sprintf("coordinator %s may be dead; waiting for its lease", e.owner)
}

// route returns the actor that owns a batcher, takes the batcher over if its owner is dead, creates it for a seat
// request if there is none, or names the coordinator that owns it in a *forwardError. As long as it is not known
// whether the owner lives it waits, at most for the time of a lease.
func (c *Coordinator) route(f *flight, name string, seat *wire.SeatRequest) (*batcher, error) {
	until := time.Now().Add(c.cfg.Lease + 2*beat)
	for tries := 0; tries < 3; { // the record may change between reading and writing it
		if b := c.owner(name); b != nil {
			return b, nil
		}
		looked := c.leases.next()
		ctx, cancel := context.WithTimeout(c.ctx, callTimeout)
		b, err := c.claim(ctx, name, seat)
		cancel()
		var wait *waitError
		switch {
		case errors.Is(err, errAgain):
			tries++
		case errors.As(err, &wait) && time.Now().Before(until):
			f.doing("batcher %s: coordinator %s may be dead, which its lease tells within %v; it has been waited for",
				name, wait.owner, c.cfg.Lease)
			select {
			case <-looked:
			case <-c.ctx.Done():
				return nil, errGone
			case <-time.After(2 * beat):
			}
		default:
			return b, err
		}
	}
	return nil, unavailable("the record of batcher %s keeps changing", name)
}

func unavailable(format string, args ...any) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnavailable, Message: fmt.Sprintf(format, args...)}
}

// foreign is why a reader of another wire version gets no seat: what this coordinator's workers store would look
// damaged to it. A coordinator of its version may answer the next request.
func (c *Coordinator) foreign(req *wire.SeatRequest) *schema.Fault {
	return unavailable("the trainer speaks wire version %d and coordinator %s %d: use programs of one release",
		max(req.Wire, 1), c.cfg.Name, wire.Version)
}

// claim makes one attempt at routing a batcher that is not owned here.
func (c *Coordinator) claim(ctx context.Context, name string, seat *wire.SeatRequest) (*batcher, error) {
	rec, rev, size, err := c.records.readSized(ctx, name)
	var damaged *damagedError
	switch {
	case errors.Is(err, errNoRecord) && seat == nil:
		return nil, &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf("there is no batcher %s", name)}
	case errors.Is(err, errNoRecord):
		return c.create(ctx, seat, 0)
	case errors.As(err, &damaged):
		return c.claimDamaged(ctx, seat, size, damaged)
	case err != nil:
		return nil, unavailable("record of batcher %s: %v", name, err)
	}
	c.directory.note(name, seen{rev, size, rec.Owner}, false, time.Now())
	switch c.leaseOf(ctx, rec.Owner) {
	case leaseLive:
		return nil, &forwardError{rec.Owner}
	case leaseUnknown:
		return nil, &waitError{rec.Owner}
	}
	if to := c.passOn(ctx, rec, rev); to != "" {
		return nil, &forwardError{to}
	}
	if why := c.unfit(&rec); why != "" {
		return c.claimStray(ctx, seat, rec, rev, why)
	}
	b, fault := c.takeOver(ctx, rec, rev)
	if fault != nil {
		return nil, fault
	}
	if b == nil {
		return nil, errAgain
	}
	return b, nil
}

// claimDamaged is claim for a record that cannot be used. Its owner, if one lives, writes it anew; else a seat request
// begins a new record in its place, and there is nothing to stop.
func (c *Coordinator) claimDamaged(
	ctx context.Context, seat *wire.SeatRequest, size int, d *damagedError,
) (*batcher, error) {
	since, owner := c.directory.note(d.batcher, seen{rev: d.revision, size: size}, true, time.Now())
	switch state := c.damagedOwner(ctx, owner, since); {
	case state == leaseLive:
		return nil, &forwardError{owner}
	case state == leaseUnknown && owner != "":
		return nil, &waitError{owner}
	case state == leaseUnknown:
		return nil, unavailable("%v; if it has an owner, that writes it anew; else a new record begins in %v", d,
			(c.damagedPatience() - time.Since(since)).Round(100*time.Millisecond))
	case seat == nil:
		fault := &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf("%v, and no coordinator owns it", d)}
		return nil, &strayError{d.batcher, d.revision, schema.Status{Batcher: d.batcher, Phase: schema.PhaseStopped}, fault}
	}
	c.log.Warn("damaged record replaced", "batcher", d.batcher, "error", d.cause)
	return c.create(ctx, seat, d.revision)
}

// create makes the record that a seat request asks for. A rev above 0 is the revision of a record to be replaced,
// which is damaged or a stray.
func (c *Coordinator) create(ctx context.Context, req *wire.SeatRequest, rev uint64) (*batcher, error) {
	k := c.kinds[req.Spec.Dataset]
	if k == nil {
		of := func(kind string) bool { return strings.HasPrefix(wire.KindName(kind), req.Spec.Dataset+"@") }
		if to := c.substitute(ctx, nil, of); to != "" {
			return nil, &forwardError{to}
		}
		return nil, c.unknownDataset(req.Spec.Dataset)
	}
	if len(c.all()) >= maxBatchers {
		return nil, unavailable("coordinator %s feeds %d batchers, as many as it takes; "+
			"stop some, or wait until idle ones are collected", c.cfg.Name, maxBatchers)
	}
	rec := wire.Record{
		Wire: wire.Version, Batcher: req.Batcher, Owner: c.cfg.Name, Phase: schema.PhaseStopped,
		Spec: wire.Spec{Dataset: k.Name, Version: k.Version, Params: req.Spec.Params}, Settings: req.Settings,
		Since: time.Now(), // and no reader: whether this one gets the seat is not decided yet
	}
	unlock, ok := c.claims.lock(ctx, req.Batcher)
	if !ok {
		return nil, unavailable("record of batcher %s: %v", req.Batcher, ctx.Err())
	}
	defer unlock()
	var err error
	if rev == 0 {
		rev, err = c.records.create(ctx, rec)
	} else {
		rev, err = c.records.update(ctx, rec, rev)
	}
	if errors.Is(err, errConflict) {
		return nil, errAgain
	}
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", req.Batcher, err)
	}
	c.directory.note(req.Batcher, seen{rev: rev, owner: rec.Owner}, false, time.Now())
	return c.adopt(rec, rev), nil
}

// specKey is equal for specs that mean the same: parameters are compared in the form that the data set gives them.
// Those that it refuses, and those of a data set that is not here, are found out when it is to be opened.
func (c *Coordinator) specKey(spec wire.Spec) wire.Digest {
	if k := c.kinds[spec.Dataset]; k != nil {
		spec.Version = k.Version
		if params, err := k.NormalFunc(spec.Params); err == nil {
			spec.Params = params
		}
	}
	return spec.Digest()
}

func (c *Coordinator) unknownDataset(name string) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnknownDataset, Message: fmt.Sprintf(
		"coordinator %s has no data set %q, only %s", c.cfg.Name, name, strings.Join(c.kindTokens(), ", "))}
}

func (c *Coordinator) overview() wire.Overview {
	o := wire.Overview{
		Coordinator: c.cfg.Name, Version: wire.Release, Kinds: c.kindTokens(), Workers: c.fleet.list(),
	}
	for _, v := range c.views() {
		o.Batchers = append(o.Batchers, v.Status)
	}
	for _, s := range c.directory.strays(time.Now(), 2*c.cfg.Lease) {
		if c.owner(s.Batcher) == nil {
			o.Batchers = append(o.Batchers, s)
		}
	}
	slices.SortFunc(o.Batchers, func(a, b schema.Status) int { return strings.Compare(a.Batcher, b.Batcher) })
	return o
}
