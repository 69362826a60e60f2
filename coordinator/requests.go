package coordinator

import (
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

// desk takes the requests of trainers, operators and other coordinators, and answers them.
type desk struct {
	*site
	router    *router
	actors    *actors
	directory *directory
	strays    *strays
	fleet     *fleet
	callers   *callers
	places    places
}

// handle answers a request in a goroutine of its own, since carrying it out may take long.
func (d *desk) handle(m *nats.Msg) {
	if !topology.Answerable(m.Reply) {
		return // no inbox to answer
	}
	if len(m.Data) > maxRequest {
		d.refuse(m, tooLarge(len(m.Data)))
		return
	}
	switch lastToken(m.Subject) {
	case opSeat:
		answer(d, m, d.planSeat, func(f *flight, req *wire.SeatRequest) (wire.SeatReply, error) {
			b, err := d.router.route(f, req.Batcher, req)
			if err != nil {
				return wire.SeatReply{}, err
			}
			if req.Mode == wire.ModeOpen {
				f.doing("data set %s of batcher %s is being opened", req.Spec.Dataset, req.Batcher)
			} else {
				f.doing("the trainer of batcher %s is being seated", req.Batcher)
			}
			key := b.specKey(req.Spec)
			return carry(d, f, b, func(answer func(wire.SeatReply)) { b.seat(req, key, answer) })
		})
	case opStop:
		answer(d, m, d.planStop, func(f *flight, req *wire.StopRequest) (wire.StopReply, error) {
			b, err := d.router.route(f, req.Batcher, nil)
			if err != nil {
				return wire.StopReply{}, err
			}
			f.doing("batcher %s is busy; it is being asked to stop", req.Batcher)
			return carry(d, f, b, func(answer func(wire.StopReply)) { b.stop(req, answer) })
		})
	case opStatus:
		answer(d, m, d.planStatus, func(f *flight, req *wire.StatusRequest) (wire.StatusReply, error) {
			if status, _, ok := d.directory.strayOf(req.Batcher, time.Now()); ok && d.actors.owner(req.Batcher) == nil {
				return wire.StatusReply{Status: status}, nil
			}
			b, err := d.router.route(f, req.Batcher, nil)
			if err != nil {
				return wire.StatusReply{}, err
			}
			f.doing("batcher %s is busy; it is being asked how it stands", req.Batcher)
			return carry(d, f, b, func(answer func(wire.StatusReply)) { answer(wire.StatusReply{Status: b.status()}) })
		})
	case opManage:
		answer(d, m, d.planManage, d.manage)
	case opPing:
		d.callers.note(string(m.Data), time.Now())
		d.respond(m, struct{}{})
	case opOverview:
		plan := func(*struct{}) (plan, *schema.Fault) {
			bounds := []bound{{opOverview, maxViews, "the overview"}}
			return plan{stage: "the overview is being put together", bounds: bounds}, nil
		}
		answer(d, m, plan, func(*flight, *struct{}) (wire.Overview, error) {
			return fitting(d.overview(), d.nc.MaxPayload()), nil
		})
	}
}

func (d *desk) planSeat(req *wire.SeatRequest) (plan, *schema.Fault) {
	planned, fault := planChange(opSeat, req.Batcher, req.Reader, req.Request)
	if err := wire.CheckIdleTimeout(req.Settings.IdleTimeout); fault == nil && err != nil {
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	if fault == nil && req.Wire != wire.Version {
		fault = d.foreign(req)
	}
	if fault == nil {
		fault = proven(req.Reader, req.Secret)
	}
	if err := req.Check(req.Size); fault == nil && err != nil {
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()}
	}
	return planned, fault
}

func (d *desk) planStop(req *wire.StopRequest) (plan, *schema.Fault) {
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

func (d *desk) planStatus(req *wire.StatusRequest) (plan, *schema.Fault) {
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
func (d *desk) refuse(m *nats.Msg, fault *schema.Fault) {
	d.respond(m, map[string]*schema.Fault{"fault": fault})
}

// forwardError says that another coordinator answers.
type forwardError struct{ owner string }

func (e *forwardError) Error() string { return "coordinator " + e.owner + " answers" }

// carry lets the actor begin a request and waits for what becomes of it. The actor sends the answer itself: from
// another goroutine it would come behind what the actor says and asks next, and the trainer waits for it alone.
func carry[R any](d *desk, f *flight, b *batcher, begin func(answer func(R))) (R, error) {
	r, fault := await(b, func(done func(R)) {
		begin(func(r R) {
			d.land(f, r, nil)
			done(r)
		})
	})
	if fault != nil {
		return r, fault
	}
	return r, nil
}

// answer decodes a request, gives it a place and carries it out with do. All messages that repeat the request meanwhile
// are answered, or passed on when do says that another coordinator answers.
func answer[Q, R any](
	d *desk, m *nats.Msg, planned func(*Q) (plan, *schema.Fault), do func(*flight, *Q) (R, error),
) {
	req := new(Q)
	if len(m.Data) > 0 {
		if err := json.Unmarshal(m.Data, req); err != nil {
			d.refuse(m, &schema.Fault{Code: schema.CodeBadRequest, Message: err.Error()})
			return
		}
	}
	plan, fault := planned(req)
	if fault != nil {
		d.refuse(m, fault)
		return
	}
	f, fault := d.places.enter(m, plan, d.late)
	if fault != nil {
		d.refuse(m, fault)
	}
	if f == nil {
		return // refused, or joined
	}
	if !d.actors.spawn(func() {
		reply, err := do(f, req)
		d.land(f, reply, err)
	}) {
		d.places.leave(f)
		f.land()
	}
}

// land gives back a request's places and answers all that wait for it. Once that is done there is nobody to answer.
func (d *desk) land(f *flight, reply any, err error) {
	d.places.leave(f)
	for _, m := range f.land() {
		d.finish(m, reply, err)
	}
}

// late answers a message whose request is not carried out yet with what takes so long. The request goes on: a
// repetition joins it, or finds that it was carried out.
func (d *desk) late(f *flight, w *waiter) {
	d.places.slow(f)
	if f.give(w) {
		d.refuse(w.msg, f.pending())
	}
}

// finish answers one message with the outcome of its request.
func (d *desk) finish(m *nats.Msg, reply any, err error) {
	var fault *schema.Fault
	var forward *forwardError
	switch {
	case err == nil:
		d.respond(m, reply)
	case errors.As(err, &forward) && strings.HasPrefix(m.Subject, wire.CoordinatorSubject(wire.EveryCoordinator, "")):
		// The owner heard it, too.
	case errors.As(err, &forward):
		if strings.Count(m.Subject, ".") > 2 { // passed on once already
			d.refuse(m, unavailable("the batcher is changing hands"))
			return
		}
		subject := wire.CoordinatorPrefix + "." + forward.owner + "." + lastToken(m.Subject)
		if err := d.nc.PublishMsg(&nats.Msg{Subject: subject, Reply: m.Reply, Data: m.Data}); err != nil {
			d.refuse(m, unavailable("pass on to coordinator %s: %v", forward.owner, err))
		}
	case errors.As(err, &fault):
		d.refuse(m, fault)
	default:
		d.refuse(m, unavailable("%v", err))
	}
}

// foreign is why a reader of another wire version gets no seat: what this coordinator's workers store would look
// damaged to it. A coordinator of its version may answer the next request.
func (d *desk) foreign(req *wire.SeatRequest) *schema.Fault {
	return unavailable("the trainer speaks wire version %d and coordinator %s %d: use programs of one release",
		max(req.Wire, 1), d.cfg.Name, wire.Version)
}

func (d *desk) overview() wire.Overview {
	o := wire.Overview{
		Coordinator: d.cfg.Name, Version: wire.Release, Kinds: d.kindTokens(), Workers: d.fleet.list(),
	}
	for _, v := range d.actors.views() {
		o.Batchers = append(o.Batchers, v.Status)
	}
	for _, s := range d.directory.strays(time.Now(), 2*d.cfg.Lease) {
		if d.actors.owner(s.Batcher) == nil {
			o.Batchers = append(o.Batchers, s)
		}
	}
	slices.SortFunc(o.Batchers, func(a, b schema.Status) int { return strings.Compare(a.Batcher, b.Batcher) })
	return o
}

func unavailable(format string, args ...any) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnavailable, Message: fmt.Sprintf(format, args...)}
}
