package owner

import (
	"bytes"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// roster decides what becomes of the request of a rank whose world has the seat.
type roster struct {
	cfg    *Config
	ledger *ledger
	ranks  *ranks
	feeder *feeder
}

// course is what becomes of a rank that asks for a state.
type course uint8

const (
	refused   course = iota // for the reason that goes with it
	diverges                // the world is at two states: the run fails
	seated                  // at a position that is held; nobody else is moved
	movesAll                // all ranks ask for the same state
	elsewhere               // a reader goes on in a batcher of its own
	repeats                 // the answer is given once more
)

// member is the slot that a request is for.
func (r *roster) member(req *wire.SeatRequest) *wire.Member {
	return &r.ledger.rec.Members[req.Rank.Rank]
}

// admits returns why a process does not get the slot of its rank; nil when it does.
func (r *roster) admits(now time.Time, req *wire.SeatRequest) *schema.Fault {
	m, k := r.member(req), &r.ranks.each[req.Rank.Rank]
	ended := req.Ended != "" && wire.ReaderOf(req.Ended) == m.Reader
	if m.Reader == "" || m.Reader == req.Reader || m.Left || ended || req.TakeOver ||
		now.Sub(k.heard) >= r.cfg.ReaderLease {
		return nil
	}
	return &schema.Fault{Code: schema.CodeInUse, Message: fmt.Sprintf(
		"rank %d of world %s is trainer %s, last heard %v ago; take over, or give this launch a world of its own",
		req.Rank.Rank, req.World, m.Reader, now.Sub(k.heard).Round(time.Millisecond))}
}

// course decides what becomes of a rank that asks for a state. One that does not know of its seat asks once more for
// what it has, and may be there.
func (r *roster) course(
	now time.Time, req *wire.SeatRequest, state []byte,
) (c course, position uint64, why *schema.Fault) {
	rec, m, g := &r.ledger.rec, r.member(req), r.feeder.gen
	runs, unready := rec.Phase == schema.PhaseRunning || rec.Phase == schema.PhaseDone, r.feeder.unready()
	again := m.Seated && req.Request == m.Request // it was carried out: the answer was lost, or this is a late duplicate
	switch {
	case req.Repair && rec.Phase == schema.PhaseFailed:
		return refused, 0, rec.Error
	case req.Repair && !runs:
		return refused, 0, &schema.Fault{Code: schema.CodeStopped, Message: "batcher " + rec.Batcher + " was stopped"}
	case !runs, m.Seated && !req.Repair && !again && !r.unaware(req):
		return r.agreed(now, req, state, req.Repair, nil)
	case unready != nil:
		return refused, 0, unready
	case !m.Placed:
		return r.first(g, req, state)
	}
	cursor := r.ranks.cursors[req.Rank.Rank].kept() // up to holes, this is one place
	if m.Seated && !req.Repair && !again && !bytes.Equal(g.StateAfter(cursor), state) {
		return r.agreed(now, req, state, false, nil)
	}
	last := g.Fed() + 1
	if !req.Repair && !again { // of a process that was not there, the others say how far it can be
		last = min(last, r.ranks.furthest()+2)
	}
	position, held := g.FindFrom(cursor, state)
	// A rank that was moved with the others and does not know it yet has its place where they have theirs. Its old
	// place, found here by chance, would be a shift against them.
	astray := req.Repair && m.Moved && req.Seat < m.Seat && position != cursor+1
	if held && position <= last && !astray {
		return seated, position, nil
	}
	if again { // and the rank has gone on since, or it would be found
		return refused, 0, unavailable("rank %d was seated on this request before", req.Rank.Rank)
	}
	if req.Repair && !astray && g.reach(now) {
		return refused, 0, unavailable("rank %d is further than the run was iterated again; more of it is", req.Rank.Rank)
	}
	// The others may be as far, and their credits under way, or go on to there. Then it is there, even if they wait to
	// move to that very state: they were further than the process before it.
	var unheard []int
	if !m.Seated {
		unheard = r.unheard(req.Rank.Rank)
	}
	return r.agreed(now, req, state, req.Repair, unheard)
}

// unaware reports whether a rank may have its seat by a request that it gave up. One that was given it where it said
// that it was has a run, and what else it asks for is a move: it has gone on since.
func (r *roster) unaware(req *wire.SeatRequest) bool {
	m := r.member(req)
	return req.Seat < m.Seat && !m.Repaired
}

// unheard are the other ranks with a seat of which it is not known yet, since a rank asked first, how far they come.
func (r *roster) unheard(rank int) (unheard []int) {
	for _, i := range r.ranks.there() {
		if i != rank && r.ledger.rec.Members[i].Seated && !r.shown(rank, i) {
			unheard = append(unheard, i)
		}
	}
	return unheard
}

// first seats a rank whose slot nobody had. It must ask for the very state that the world began at: another one that is
// held, some steps further, would shift it silently against the others.
func (r *roster) first(g *generation, req *wire.SeatRequest, state []byte) (course, uint64, *schema.Fault) {
	rec := &r.ledger.rec
	began := g.StateAfter(rec.Position - 1)
	if bytes.Equal(began, state) {
		return seated, rec.Position, nil
	}
	other := 0
	for i := range rec.Members {
		if rec.Members[i].Placed {
			other = i
			break
		}
	}
	return diverges, 0, r.diverged(req.Rank.Rank, state, other, began)
}

// agreed takes part in a move, and says whether all ranks ask for it. Where the rank may be at that state already, it
// is no move yet that could differ from another; until the unheard have said where they are, it is none that goes with
// another, either.
func (r *roster) agreed(
	now time.Time, req *wire.SeatRequest, state []byte, there bool, unheard []int,
) (course, uint64, *schema.Fault) {
	rank, asks, early := req.Rank.Rank, r.ranks.asks, len(unheard) > 0
	if !asks.ask(now, rank, req.Reader, req.Request, state, there || early) {
		return refused, 0, unavailable("rank %d has given this request up", rank)
	}
	if asks[rank].early = early; early {
		return refused, 0, unavailable("waiting for %s to say where in the run it is", ranksText(unheard))
	}
	if other, at, ok := asks.differs(rank); ok {
		return diverges, 0, r.diverged(rank, state, other, at)
	}
	for i, k := range asks {
		if k != nil && k.early {
			k.early = len(r.unheard(i)) > 0
		}
	}
	missing := asks.missing(r.ranks.there(), state)
	if len(missing) == 0 {
		return movesAll, 0, nil
	}
	strays := req.Repair && r.feeder.gen != nil && asks[rank].since(now) > r.ranks.patience()
	for _, i := range missing {
		if lost := r.ranks.lostRank(i); lost != nil {
			asks[rank].live = false // its answer is an error, after which it waits no more
			return refused, 0, lost
		}
		if strays && i != rank { // its place is none of the run's, and the others do not ask for it
			return diverges, 0, r.diverged(rank, state, i, r.feeder.gen.StateAfter(r.ranks.cursors[i].taken))
		}
		// A successor that asks for a state at which the others are not, while these go on, came from another checkpoint.
		// One that lives, and does not say where in the run it is, may be there.
		apart := !r.member(req).Seated && r.shown(rank, i) || r.behind(req, i) && r.told(rank, i)
		if apart && r.feeder.gen != nil && r.ledger.rec.Members[i].Seated {
			return diverges, 0, r.diverged(rank, state, i, r.feeder.gen.StateAfter(r.ranks.cursors[i].taken))
		}
	}
	// The run failed. The others may not know it yet, or asked to begin again while this rank was away, and were refused.
	if failed := r.ledger.rec.Error; failed != nil && asks[rank].since(now) > r.ranks.patience() {
		asks[rank].live = false
		return refused, 0, failed
	}
	return refused, 0, unavailable("waiting for %s to ask for the same state", ranksText(missing))
}

// told reports whether a rank has said where it is since two beats after another asked. What it said before may have
// been under way since before that.
func (r *roster) told(asking, rank int) bool {
	k := r.ranks.asking(asking)
	return k != nil && r.ranks.each[rank].told.Sub(k.came) > 2*Beat
}

// shown reports whether a rank has shown how far it comes since another asked: it has said where it is, and has gone
// on, or cannot, or waits to move from there. A rank that rests may take the next batch, which may lie behind holes, at
// any time.
func (r *roster) shown(asking, rank int) bool {
	g, ask := r.feeder.gen, r.ranks.asks[rank]
	switch {
	case !r.told(asking, rank):
		return false
	case g == nil || r.ranks.cursors[rank].taken >= g.Fed():
		return true
	}
	return ask != nil && ask.live && !ask.there ||
		r.ranks.each[rank].took.Sub(r.ranks.asking(asking).came) > 2*Beat
}

// behind reports whether a rank, which waits for a move and has said where, is behind what another one has taken in the
// same run. That one was not where this one moves: as after a record that was lost, they are apart.
func (r *roster) behind(req *wire.SeatRequest, other int) bool {
	rank := req.Rank.Rank
	return !req.Repair && r.ranks.asks[rank].named && r.told(rank, rank) &&
		r.ranks.cursors[rank].taken < r.ranks.cursors[other].kept()
}

// diverged is the error of a world that is at two states.
func (r *roster) diverged(rank int, state []byte, other int, at []byte) *schema.Fault {
	named := func(rank int, data []byte) schema.RankState {
		spec := r.ledger.rec.Spec
		return schema.RankState{Rank: rank, State: schema.State{Dataset: spec.Dataset, Version: spec.Version, Data: data}}
	}
	asks, is := named(rank, state), named(other, at)
	return &schema.Fault{Code: schema.CodeDiverged, Diverged: []schema.RankState{asks, is}, Message: fmt.Sprintf(
		"rank %d of world %s asks for state %v, rank %d is at state %v", rank, r.ledger.rec.Reader, asks.State, other,
		is.State)}
}
