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

// strays are the batchers whose owner is dead and which this coordinator cannot take over.
type strays struct {
	*site
	directory *directory
}

// unfit says why this coordinator cannot take a batcher over; empty when it can.
func (s *strays) unfit(rec *wire.Record) string {
	switch {
	case rec.Wire != wire.Version:
		return fmt.Sprintf("no coordinator speaks wire version %d", rec.Wire)
	case s.kinds[rec.Spec.Dataset] == nil:
		return fmt.Sprintf("no coordinator has data set %s", rec.Spec.Dataset)
	}
	return ""
}

// note remembers a stray and reports whether it has been without a reader for its idle timeout.
func (s *strays) note(rec *wire.Record, why string) (over bool) {
	status := schema.Status{
		Batcher: rec.Batcher, Phase: rec.Phase, Error: rec.Error, Dataset: rec.Spec.Dataset, Version: rec.Spec.Version,
		Gen: rec.Gen, Seat: rec.Seat, Reader: rec.Reader, Owner: rec.Owner, Taken: rec.Taken, Fed: rec.Taken,
		Total: rec.Total, BatchBytes: rec.BatchBytes, Accepted: rec.Accepted,
	}
	lasts := owner.IdleTimeout(rec.Settings) + s.cfg.Lease
	return s.directory.stray(rec.Batcher, why, status, lasts, time.Now())
}

func (s *strays) remove(ctx context.Context, name string, rev uint64) error {
	err := s.records.remove(ctx, name, rev)
	if errors.Is(err, errConflict) {
		return nil // it changed: it is looked at again
	}
	if err == nil {
		s.directory.forget(name)
		s.log.Info("record collected that no coordinator could go on from", "batcher", name)
		s.tellBatcher(wire.Event{Name: name, What: "deleted", Why: "no coordinator could go on from its record"})
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

// readerLives reports whether a stray has a reader that was heard lately, or has not had the time to be heard.
func (s *strays) readerLives(as schema.Status) bool {
	return as.Phase == schema.PhaseRunning && as.Reader != "" && as.IdleFor <= s.cfg.ReaderLease
}

// fault answers a request for a batcher that this coordinator cannot take over.
func (s *strays) fault(rec *wire.Record, why string) *schema.Fault {
	f := &schema.Fault{Code: schema.CodeUnknownDataset, Message: fmt.Sprintf("batcher %s: %s", rec.Batcher, why)}
	if rec.Wire != wire.Version { // a coordinator of its version may come
		f = unavailable("the record of batcher %s is of wire version %d; coordinator %s speaks %d",
			rec.Batcher, rec.Wire, s.cfg.Name, wire.Version)
	}
	if _, left, ok := s.directory.strayOf(rec.Batcher, time.Now()); ok {
		f.Message += fmt.Sprintf("; its record is deleted in %v", left.Round(time.Second))
	}
	return f
}

// look remembers a batcher whose owner is dead and which this coordinator cannot take over, and deletes its record
// after its idle timeout: a coordinator that could take it over would have done so.
func (s *strays) look(ctx context.Context, rec wire.Record, rev uint64, why string) error {
	if !s.note(&rec, why) {
		return nil
	}
	return s.remove(ctx, rec.Batcher, rev)
}
