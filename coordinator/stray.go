package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// unfit says why this coordinator cannot take a batcher over; empty when it can.
func (c *Coordinator) unfit(rec *wire.Record) string {
	switch {
	case rec.Wire != wire.Version:
		return fmt.Sprintf("no coordinator speaks wire version %d", rec.Wire)
	case c.kinds[rec.Spec.Dataset] == nil:
		return fmt.Sprintf("no coordinator has data set %s", rec.Spec.Dataset)
	}
	return ""
}

// lookStray remembers a batcher whose owner is dead and which this coordinator cannot take over, and deletes its record
// after its idle timeout: a coordinator that could take it over would have done so.
func (c *Coordinator) lookStray(ctx context.Context, rec wire.Record, rev uint64, why string) error {
	if !c.noteStray(&rec, why) {
		return nil
	}
	return c.removeStray(ctx, rec.Batcher, rev)
}

// noteStray remembers a stray and reports whether it has been without a reader for its idle timeout.
func (c *Coordinator) noteStray(rec *wire.Record, why string) (over bool) {
	status := schema.Status{
		Batcher: rec.Batcher, Phase: rec.Phase, Error: rec.Error, Dataset: rec.Spec.Dataset, Version: rec.Spec.Version,
		Gen: rec.Gen, Seat: rec.Seat, Reader: rec.Reader, Owner: rec.Owner, Taken: rec.Taken, Fed: rec.Taken,
		Total: rec.Total, BatchBytes: rec.BatchBytes, Accepted: rec.Accepted,
	}
	lasts := owner.IdleTimeout(rec.Settings) + c.cfg.Lease
	return c.directory.stray(rec.Batcher, why, status, lasts, time.Now())
}

func (c *Coordinator) removeStray(ctx context.Context, name string, rev uint64) error {
	err := c.records.remove(ctx, name, rev)
	if errors.Is(err, errConflict) {
		return nil // it changed: it is looked at again
	}
	if err == nil {
		c.directory.forget(name)
		c.log.Info("record collected that no coordinator could go on from", "batcher", name)
		c.tellBatcher(wire.Event{Name: name, What: "deleted", Why: "no coordinator could go on from its record"})
	}
	return err
}

// strayError is a batcher that nobody can go on with, as its record was at a revision.
type strayError struct {
	batcher  string
	revision uint64
	status   schema.Status
	fault    *schema.Fault // for who wants more of it than its end
}

func (e *strayError) Error() string { return e.fault.Error() }

func (e *strayError) Unwrap() error { return e.fault }

// claimStray is claim for a batcher that no coordinator can go on with. A reader that opens the batcher on a data set
// that is here gets a new record in the place of the old one, which no reader can have any more: unless that is running
// and its reader was heard lately, and is not to be taken over from.
func (c *Coordinator) claimStray(
	ctx context.Context, seat *wire.SeatRequest, rec wire.Record, rev uint64, why string,
) (*batcher, error) {
	c.noteStray(&rec, why)
	status, _, _ := c.directory.strayOf(rec.Batcher, time.Now())
	stray := &strayError{rec.Batcher, rev, status, c.strayFault(&rec, why)}
	if seat == nil || seat.Mode != wire.ModeOpen || rec.Wire != wire.Version || c.kinds[seat.Spec.Dataset] == nil {
		return nil, stray
	}
	if c.readerLives(status) && !seat.TakeOver && rec.Reader != seat.Holder(seat.Reader) {
		return nil, &schema.Fault{Code: schema.CodeInUse, Message: fmt.Sprintf(
			"batcher %s is held by trainer %s, last heard %v ago, and %s; take over, or use another name",
			rec.Batcher, rec.Reader, status.IdleFor.Round(time.Millisecond), why)}
	}
	c.log.Warn("record replaced", "batcher", rec.Batcher, "dataset", rec.Spec.Dataset, "reason", why)
	b, err := c.create(ctx, seat, rev)
	if err == nil {
		c.tellBatcher(wire.Event{Name: rec.Batcher, Gen: rec.Gen, What: "replaced", Why: why})
	}
	return b, err
}

// readerLives reports whether a stray has a reader that was heard lately, or has not had the time to be heard.
func (c *Coordinator) readerLives(s schema.Status) bool {
	return s.Phase == schema.PhaseRunning && s.Reader != "" && s.IdleFor <= c.cfg.ReaderLease
}

// strayFault answers a request for a batcher that this coordinator cannot take over.
func (c *Coordinator) strayFault(rec *wire.Record, why string) *schema.Fault {
	f := &schema.Fault{Code: schema.CodeUnknownDataset, Message: fmt.Sprintf("batcher %s: %s", rec.Batcher, why)}
	if rec.Wire != wire.Version { // a coordinator of its version may come
		f = unavailable("the record of batcher %s is of wire version %d; coordinator %s speaks %d", rec.Batcher, rec.Wire, c.cfg.Name, wire.Version)
	}
	if _, left, ok := c.directory.strayOf(rec.Batcher, time.Now()); ok {
		f.Message += fmt.Sprintf("; its record is deleted in %v", left.Round(time.Second))
	}
	return f
}
