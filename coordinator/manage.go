package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func (d *desk) planManage(req *wire.ManageRequest) (plan, *schema.Fault) {
	planned, fault := planChange(opManage, req.Batcher, "operator", req.Request)
	switch {
	case fault != nil:
	case req.Action != wire.ActionStop && req.Action != wire.ActionRemove:
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: fmt.Sprintf("unknown action %.64q", req.Action)}
	case len(req.By) > wire.MaxBy:
		fault = &schema.Fault{Code: schema.CodeBadRequest, Message: "too long a word on who asks"}
	}
	return planned, fault
}

// manage stops or deletes a batcher on an operator's word.
func (d *desk) manage(f *flight, req *wire.ManageRequest) (wire.ManageReply, error) {
	b, err := d.router.route(f, req.Batcher, nil)
	var stray *strayError
	if errors.As(err, &stray) {
		return d.manageStray(req, stray)
	}
	if err != nil {
		return wire.ManageReply{}, err
	}
	f.doing("batcher %s is busy; an operator asks for its end", req.Batcher)
	return carry(d, f, b, func(answer func(wire.ManageReply)) { b.manage(req, answer) })
}

// manage asks the owner for the batcher's end, and tells who wanted it.
func (b *batcher) manage(req *wire.ManageRequest, answer func(wire.ManageReply)) {
	status := b.status()
	b.managing = true
	b.step(owner.EndAsked{
		Token: b.expect(func(r any) {
			reply := r.(wire.StopReply)
			b.managing = false
			if reply.Fault == nil {
				b.site.tellManaged(req, status)
			}
			answer(wire.ManageReply{Fault: reply.Fault, Status: status})
		}),
		Remove: req.Action == wire.ActionRemove, Force: req.Force,
	})
}

// tellManaged tells of an operator's deed.
func (s *site) tellManaged(req *wire.ManageRequest, was schema.Status) {
	what := "stopped by an operator"
	if req.Action == wire.ActionRemove {
		what = "deleted by an operator"
	}
	s.log.Info("batcher "+what, "batcher", req.Batcher, "by", req.By, "phase", was.Phase, "taken", was.Taken)
	s.tellBatcher(wire.Event{
		Name: req.Batcher, Gen: was.Gen, What: what, By: strings.ToValidUTF8(req.By, ""),
		Why: fmt.Sprintf("it was %s, at %d", was.Phase, was.Taken),
	})
}

// manageStray deletes the record of a batcher that nobody can go on with. There is nothing to stop.
func (d *desk) manageStray(req *wire.ManageRequest, stray *strayError) (wire.ManageReply, error) {
	reply := wire.ManageReply{Status: stray.status}
	switch {
	case req.Action == wire.ActionStop:
		reply.Fault = &schema.Fault{Code: schema.CodeStopped, Message: fmt.Sprintf(
			"nothing of batcher %s runs: %s", req.Batcher, stray.fault.Message)}
		return reply, nil
	case d.strays.readerLives(stray.status) && !req.Force:
		reply.Fault = &schema.Fault{Code: schema.CodeInUse, Message: fmt.Sprintf(
			"batcher %s has a trainer, %s", req.Batcher, stray.status.Reader)}
		return reply, nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, callTimeout)
	defer cancel()
	err := d.records.remove(ctx, req.Batcher, stray.revision)
	if errors.Is(err, errConflict) {
		return reply, unavailable("the record of batcher %s changed", req.Batcher)
	}
	if err != nil {
		return reply, err
	}
	d.directory.forget(req.Batcher)
	d.tellManaged(req, stray.status)
	return reply, nil
}
