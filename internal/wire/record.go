package wire

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/schema"
)

// Bounds of a record: what an owner writes is far within them.
const (
	MaxRecord   = 1 << 20 // bytes, nearly all of them the data set's parameters
	MaxPosition = 1 << 62 // of a sequence number or a seat, so that adding to one never overflows
	// MaxBehind is how far the floor may be behind what is taken: so many positions are held for look-ups at most, and
	// as many are iterated again after a takeover.
	MaxBehind = 1 << 20
)

// ParseRecord decodes a batcher's record and checks the values that could do harm elsewhere, since whoever has it
// written in the owner's place chooses them. Of a record of another wire version it checks the parts that are used: the
// owner and the settings.
func ParseRecord(batcher string, data []byte) (rec Record, err error) {
	if len(data) > MaxRecord {
		return rec, fmt.Errorf("%d bytes; at most %d", len(data), MaxRecord)
	}
	if err := json.Unmarshal(data, &rec); err != nil {
		var head struct{ Wire int }
		if json.Unmarshal(data, &head) != nil || head.Wire == Version || head.Wire <= 0 {
			return rec, err
		}
		rec.Wire = head.Wire // the rest of it may be anything
	}
	if rec.Batcher != batcher {
		return rec, fmt.Errorf("it is of batcher %.64q", rec.Batcher)
	}
	if err := errors.Join(CheckName("owner", rec.Owner), CheckIdleTimeout(rec.Settings.IdleTimeout)); err != nil {
		return rec, err
	}
	if rec.Wire != Version {
		return rec, nil
	}
	return rec, errors.Join(rec.checkNames(), rec.checkWorld(), rec.checkNumbers())
}

func (r *Record) checkNames() error {
	bad := []error{CheckName("data set", r.Spec.Dataset)}
	names := map[string]string{"generation": r.Gen, "reader": r.Reader, "request": r.Request, "origin": r.Origin}
	for what, name := range names {
		if name != "" {
			bad = append(bad, CheckName(what, name))
		}
	}
	switch r.Phase {
	case schema.PhaseStopped, schema.PhaseRunning, schema.PhaseClosed, schema.PhaseDone, schema.PhaseFailed:
	default:
		bad = append(bad, fmt.Errorf("phase %.64q", r.Phase))
	}
	return errors.Join(bad...)
}

func (r *Record) checkNumbers() error {
	furthest := max(r.Taken, r.Position, r.Seat)
	if r.Verdict != nil {
		furthest = max(furthest, r.Verdict.Seq)
	}
	switch {
	case len(r.Former) > r.maxFormer():
		return fmt.Errorf("%d former readers; at most %d", len(r.Former), r.maxFormer())
	case len(r.FloorState) > schema.MaxState:
		return fmt.Errorf("state of %d bytes; at most %d", len(r.FloorState), schema.MaxState)
	case r.Taken < r.Floor:
		return fmt.Errorf("taken up to %d with the floor at %d", r.Taken, r.Floor)
	case r.Holes > r.Taken-r.Floor:
		return fmt.Errorf("%d holes from %d to %d", r.Holes, r.Floor, r.Taken)
	case r.Taken-r.Floor > MaxBehind:
		return fmt.Errorf("taken up to %d with the floor at %d; at most %d are held", r.Taken, r.Floor, MaxBehind)
	case furthest > MaxPosition:
		return fmt.Errorf("position %d; at most %d", furthest, uint64(MaxPosition))
	case r.BatchBytes < 0:
		return fmt.Errorf("batches of %d bytes", r.BatchBytes)
	}
	return nil
}
