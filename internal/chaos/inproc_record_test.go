package chaos

import (
	"encoding/json"
	"maps"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// revision is a record that was stored.
type revision struct {
	at  uint64
	rec *wire.Record // nil when none was, and from the first time on that a fault changed it
	set bool         // a fault did
}

// seeWrite notes a record on its way into the bucket.
func (c *checks) seeWrite(f *frame) {
	rec := new(wire.Record)
	if len(f.body) > 0 && json.Unmarshal(f.body, rec) == nil && f.reply != "" {
		c.writes[f.reply] = rec
	}
	// A generation that another was named after, or that failed, is over, or may be: its store may go and its jobs may be
	// acked.
	if rec.Gen == "" || rec.Phase == schema.PhaseFailed {
		c.gens[rec.Gen], c.gen = true, ""
	} else if !c.gens[rec.Gen] {
		c.gens[rec.Gen] = true
		c.gen = rec.Gen
	}
}

// forgetGeneration says that the record was taken away, so that whatever is stored of it may go.
func (c *checks) forgetGeneration() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen = ""
	c.latest = revision{set: true}
	maps.Copy(c.former, c.gens)
}

// seeStored checks that whoever becomes the owner knows what the record was: seats are counted, and so is what is taken
// in one. Who was deposed and writes what it remembers sets it back. (An owner may write less than it did before in a
// change that it did not hear to be stored; it has dropped nothing on its account.)
func (c *checks) seeStored(e *endpoint, rec *wire.Record, at uint64) {
	if c.latest.set || at < c.latest.at {
		return
	}
	if l := c.latest.rec; l != nil && rec.Owner != l.Owner && (rec.Seat < l.Seat || rec.Seat == l.Seat && rec.Gen == l.Gen && rec.Taken < l.Taken) {
		c.breach("I4: %s sets the record back from %s, seat %d, %d taken, to %s, seat %d, %d taken",
			e.name, l.Owner, l.Seat, l.Taken, rec.Owner, rec.Seat, rec.Taken)
	}
	c.latest = revision{at: at, rec: rec}
}

// seeTaken checks that a record counts as taken only what a reader said that it took since it sat down there: P5. Ranks
// say it by the states that they ask for, too, each at its own time, and positions are carried into a generation that
// takes the place of a lost one: what counts too much of theirs shows where the slowest finds nothing.
func (c *checks) seeTaken(e *endpoint, rec *wire.Record) {
	if rec.Gen == "" || c.w.plan.Ranks > 1 {
		return
	}
	s, ok := c.seeks[rec.Gen]
	if !ok || s.position != rec.Position {
		s.position, s.seat = rec.Position, rec.Seat
		// An earlier write may have changed the position, whose answer did not reach its coordinator.
		for _, written := range c.writes {
			if written.Gen == rec.Gen && written.Position == rec.Position && written.Seat > s.last {
				s.seat = min(s.seat, written.Seat)
			}
		}
		if c.former[rec.Gen] {
			s.seat = 0 // it may be of any
		}
	}
	s.last = rec.Seat
	c.seeks[rec.Gen] = s
	allowed := max(rec.Position, 1) - 1
	for seat := s.seat; seat <= rec.Seat; seat++ {
		allowed = max(allowed, c.taken[seatOf{rec.Gen, seat}])
	}
	if rec.Taken > allowed {
		c.breach("P5: %s counts %d batches of %s as taken, and the seat has %d since seat %d", e.name, rec.Taken, rec.Gen, allowed, s.seat)
	}
}
