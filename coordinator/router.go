package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// router finds who answers for a batcher: an actor here, an actor that it makes, or another coordinator.
type router struct {
	*site
	actors    *actors
	members   *membership
	successor *successor
	directory *directory
	claims    *claims
	handover  *handover
	strays    *strays
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
func (r *router) route(f *flight, name string, seat *wire.SeatRequest) (*batcher, error) {
	until := time.Now().Add(r.cfg.Lease + 2*beat)
	claim := r.claim
	if seat != nil {
		r.actors.spawn(func() { _ = r.ready(false) }) // which is asked next
		if r.isNew(seat) {
			claim = r.createFirst
		}
	}
	for tries := 0; tries < 3; { // the record may change between reading and writing it
		if b := r.actors.owner(name); b != nil {
			return b, nil
		}
		looked := r.members.leases.next()
		ctx, cancel := context.WithTimeout(r.ctx, callTimeout)
		b, err := claim(ctx, name, seat)
		cancel()
		claim = r.claim
		var wait *waitError
		switch {
		case errors.Is(err, errAgain):
			tries++
		case errors.As(err, &wait) && time.Now().Before(until):
			f.doing("batcher %s: coordinator %s may be dead, which its lease tells within %v; it has been waited for",
				name, wait.owner, r.cfg.Lease)
			select {
			case <-looked:
			case <-r.ctx.Done():
				return nil, errGone
			case <-time.After(2 * beat):
			}
		default:
			return b, err
		}
	}
	return nil, unavailable("the record of batcher %s keeps changing", name)
}

// isNew reports whether a batcher that is opened has no record, as far as is known here, and can be made here.
func (r *router) isNew(seat *wire.SeatRequest) bool {
	return seat.Mode == wire.ModeOpen && r.kinds[seat.Spec.Dataset] != nil && len(r.actors.all()) < maxBatchers &&
		!r.directory.knows(seat.Batcher)
}

// createFirst is claim for a batcher that is new. It writes without reading first: where there is a record, the write
// is refused.
func (r *router) createFirst(ctx context.Context, _ string, seat *wire.SeatRequest) (*batcher, error) {
	return r.create(ctx, seat, 0)
}

// claim makes one attempt at routing a batcher that is not owned here.
func (r *router) claim(ctx context.Context, name string, seat *wire.SeatRequest) (*batcher, error) {
	rec, rev, size, err := r.records.readSized(ctx, name)
	var damaged *damagedError
	switch {
	case errors.Is(err, errNoRecord) && seat == nil:
		return nil, &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf("there is no batcher %s", name)}
	case errors.Is(err, errNoRecord):
		return r.create(ctx, seat, 0)
	case errors.As(err, &damaged):
		return r.claimDamaged(ctx, seat, size, damaged)
	case err != nil:
		return nil, unavailable("record of batcher %s: %v", name, err)
	}
	r.directory.note(name, seen{rev, size, rec.Owner}, false, time.Now())
	switch r.members.leaseOf(ctx, rec.Owner) {
	case leaseLive:
		return nil, &forwardError{rec.Owner}
	case leaseUnknown:
		return nil, &waitError{rec.Owner}
	}
	if to := r.handover.passOn(ctx, rec, rev); to != "" {
		return nil, &forwardError{to}
	}
	if why := r.strays.unfit(&rec); why != "" {
		return r.claimStray(ctx, seat, rec, rev, why)
	}
	b, fault := r.successor.takeOver(ctx, rec, rev)
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
func (r *router) claimDamaged(
	ctx context.Context, seat *wire.SeatRequest, size int, d *damagedError,
) (*batcher, error) {
	since, owner := r.directory.note(d.batcher, seen{rev: d.revision, size: size}, true, time.Now())
	switch state := r.successor.damagedOwner(ctx, owner, since); {
	case state == leaseLive:
		return nil, &forwardError{owner}
	case state == leaseUnknown && owner != "":
		return nil, &waitError{owner}
	case state == leaseUnknown:
		return nil, unavailable("%v; if it has an owner, that writes it anew; else a new record begins in %v", d,
			(r.successor.damagedPatience() - time.Since(since)).Round(100*time.Millisecond))
	case seat == nil:
		fault := &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf("%v, and no coordinator owns it", d)}
		return nil, &strayError{d.batcher, d.revision, schema.Status{Batcher: d.batcher, Phase: schema.PhaseStopped}, fault}
	}
	r.log.Warn("damaged record replaced", "batcher", d.batcher, "error", d.cause)
	return r.create(ctx, seat, d.revision)
}

// create makes the record that a seat request asks for. A rev above 0 is the revision of a record to be replaced,
// which is damaged or a stray.
func (r *router) create(ctx context.Context, req *wire.SeatRequest, rev uint64) (*batcher, error) {
	k := r.kinds[req.Spec.Dataset]
	if k == nil {
		of := func(kind string) bool { return strings.HasPrefix(wire.KindName(kind), req.Spec.Dataset+"@") }
		if to := r.handover.substitute(ctx, nil, of); to != "" {
			return nil, &forwardError{to}
		}
		return nil, r.unknownDataset(req.Spec.Dataset)
	}
	if len(r.actors.all()) >= maxBatchers {
		return nil, unavailable("coordinator %s feeds %d batchers, as many as it takes; "+
			"stop some, or wait until idle ones are collected", r.cfg.Name, maxBatchers)
	}
	rec := wire.Record{
		Wire: wire.Version, Batcher: req.Batcher, Owner: r.cfg.Name, Phase: schema.PhaseStopped,
		Spec: wire.Spec{Dataset: k.Name, Version: k.Version, Params: req.Spec.Params}, Settings: req.Settings,
		Since: time.Now(), // and no reader: whether this one gets the seat is not decided yet
	}
	unlock, ok := r.claims.lock(ctx, req.Batcher)
	if !ok {
		return nil, unavailable("record of batcher %s: %v", req.Batcher, ctx.Err())
	}
	defer unlock()
	var err error
	if rev == 0 {
		rev, err = r.records.create(ctx, rec)
	} else {
		rev, err = r.records.update(ctx, rec, rev)
	}
	if errors.Is(err, errConflict) {
		return nil, errAgain
	}
	if err != nil {
		return nil, unavailable("record of batcher %s: %v", req.Batcher, err)
	}
	r.directory.note(req.Batcher, seen{rev: rev, owner: rec.Owner}, false, time.Now())
	return r.actors.adopt(rec, rev), nil
}

func (r *router) unknownDataset(name string) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnknownDataset, Message: fmt.Sprintf(
		"coordinator %s has no data set %q, only %s",
		r.cfg.Name, name, strings.Join(wire.KindNames(r.kindTokens()), ", "))}
}

// claimStray is claim for a batcher that no coordinator can go on with. A reader that opens the batcher on a data set
// that is here gets a new record in the place of the old one, which no reader can have any more: unless that is running
// and its reader was heard lately, and is not to be taken over from.
func (r *router) claimStray(
	ctx context.Context, seat *wire.SeatRequest, rec wire.Record, rev uint64, why string,
) (*batcher, error) {
	r.strays.note(&rec, why)
	status, _, _ := r.directory.strayOf(rec.Batcher, time.Now())
	stray := &strayError{rec.Batcher, rev, status, r.strays.fault(&rec, why)}
	if seat == nil || seat.Mode != wire.ModeOpen || rec.Wire != wire.Version || r.kinds[seat.Spec.Dataset] == nil {
		return nil, stray
	}
	if r.strays.readerLives(status) && !seat.TakeOver && rec.Reader != seat.Holder(seat.Reader) {
		return nil, &schema.Fault{Code: schema.CodeInUse, Message: fmt.Sprintf(
			"batcher %s is held by trainer %s, last heard %v ago, and %s; take over, or use another name",
			rec.Batcher, rec.Reader, status.IdleFor.Round(time.Millisecond), why)}
	}
	r.log.Warn("record replaced", "batcher", rec.Batcher, "dataset", rec.Spec.Dataset, "reason", why)
	b, err := r.create(ctx, seat, rev)
	if err == nil {
		r.tellBatcher(wire.Event{Name: rec.Batcher, Gen: rec.Gen, What: "replaced", Why: why})
	}
	return b, err
}
