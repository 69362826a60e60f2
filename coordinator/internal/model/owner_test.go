package model

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func name(c int) string         { return string(rune('A' + c)) }
func state(pos int) []byte      { return strconv.AppendInt(nil, int64(pos), 10) }
func position(state []byte) int { n, _ := strconv.Atoi(string(state)); return n }
func genName(g uint8) string    { return "G" + string(rune('0'+g)) }
func genIndex(name string) uint8 {
	if name == "" {
		return 0
	}
	return name[1] - '0'
}

// A request's number is in the last two digits of its name.
func requestName(n uint8) string { return fmt.Sprintf("%02d", n) }
func requestNumber(name string) uint8 {
	n, _ := strconv.Atoi(name[max(0, len(name)-2):])
	return uint8(n)
}

const batchBytes = 1 << 20 // so large that results are dropped one by one

// start is a world in which the reader has opened the batcher and asks for its first seat.
func (x *stepper) start(left faults) world {
	w := world{left: left, rd: reader{req: 1}}
	w.rec = wire.Record{
		Wire: wire.Version, Batcher: "train", Owner: name(0), Phase: schema.PhaseStopped, Since: now,
		Spec:     wire.Spec{Dataset: "count", Version: 1},
		Settings: wire.Settings{Window: window, IdleTimeout: 1e6 * time.Hour},
		Seat:     1, Reader: "r", Request: requestName(0), BatchBytes: batchBytes,
	}
	if left.seeks == 0 { // else one taken batch is kept for look-ups
		w.rec.Settings.Retain = -1
	}
	x.begin(&w, 0)
	return w
}

// begin makes a coordinator the owner that the record names.
func (x *stepper) begin(w *world, c int) {
	cfg := owner.Config{
		Name: name(c), Kinds: map[string]uint32{"count": 1}, ReaderLease: time.Second, Stall: 1e6 * time.Hour,
		Candidates: x.size.candidates,
		NewGen:     x.newGen, MaxPayload: func() int64 { return 1 << 20 },
	}
	s := &w.co[c]
	*s = slot{o: owner.New(now, cfg, w.rec, w.rev, wire.Sum(nil)), pending: s.pending}
	x.step(w, c, owner.Fleet{Workers: 1, Slots: 2})
}

func (x *stepper) newGen() string {
	if x.w.begun == gens {
		x.full = true
		return genName(gens)
	}
	x.w.begun++
	return genName(x.w.begun)
}

// step lets a copy of an owner decide. What does not matter when it happens is carried out at once.
func (x *stepper) step(w *world, c int, e owner.Event) {
	x.w = w
	s := &w.co[c]
	_, tick := e.(owner.Tick)
	s.o = x.copier.owner(s.o, tick)
	s.pending = slices.Clone(s.pending)
	for events := []owner.Event{e}; len(events) > 0; events = events[1:] {
		for _, effect := range s.o.Step(now, events[0]) {
			if e := x.effect(w, c, effect); e != nil {
				events = append(events, e)
			}
		}
	}
	if s.o.Over() { // what is under way does harm still, or not
		*s = slot{pending: slices.DeleteFunc(s.pending, func(e owner.Effect) bool {
			switch e.(type) {
			case owner.Purge, owner.Discard, owner.Make, owner.Cancel:
				return false
			}
			return true
		})}
	}
	x.hash(s)
}

func (x *stepper) hash(s *slot) {
	h := &x.hasher
	h.begin()
	h.leaf(reflect.TypeFor[*owner.Owner](), unsafe.Pointer(&s.o))
	s.hash = h.Sum64()
	for i := range s.pending { // in any order
		h.begin()
		h.leaf(reflect.TypeFor[owner.Effect](), unsafe.Pointer(&s.pending[i]))
		s.hash += h.Sum64()
	}
}

// effect begins an effect, and returns the event of one that is carried out at once.
func (x *stepper) effect(w *world, c int, e owner.Effect) owner.Event {
	s := &w.co[c]
	switch e := e.(type) {
	case owner.Confirm:
		return owner.Confirmed{Owner: w.rec.Owner}
	case owner.Open:
		return owner.Opened{Serial: e.Serial}
	case owner.Ready:
		return owner.Readied{}
	case owner.Probe:
		return owner.Probed{Gen: e.Gen, Alive: true, Asked: now}
	case owner.Publish:
		x.publish(w, s.o.Gen(), e)
	case owner.ReplySeat:
		x.reply(w, s, e)
	case owner.Look:
		if e.For == owner.ForSweep {
			event, _ := x.carryOut(w, c, e)
			return event
		}
		s.pending = append(s.pending, e)
	case owner.Halt:
		s.pending = slices.DeleteFunc(s.pending, func(e owner.Effect) bool { _, demand := e.(owner.Demand); return demand })
	case owner.Record:
		if x.purgeFirst && e.Record.Gen == w.rec.Gen && e.Record.Floor > w.rec.Floor {
			s.pending = append(s.pending, owner.Purge{Gen: e.Record.Gen, From: w.rec.Floor, To: e.Record.Floor})
		}
		if before := s.o.Gen(); x.discardFirst && before != "" && before != e.Record.Gen {
			s.pending = append(s.pending, owner.Discard{Gen: before})
		}
		asked := e.Record.Gen != w.rec.Gen && e.Record.Seat != w.rec.Seat // for a new generation
		current := w.rec.Owner == name(c) && s.lost != genIndex(w.rec.Gen)
		if asked && current && w.held(position(e.Record.FloorState)) {
			x.wrong = "P2: a batch is to be made again that is held"
		}
		s.pending = append(s.pending, e)
	case owner.Purge:
		// The sweep repeats it.
		if !slices.ContainsFunc(s.pending, func(p owner.Effect) bool { return p == owner.Effect(e) }) {
			s.pending = append(s.pending, e)
		}
	case owner.Make, owner.Discard, owner.Cancel, owner.StoreVerdict, owner.Demand:
		s.pending = append(s.pending, e)
	case owner.Release, owner.Feed, owner.Announce, owner.Notify, owner.Log:
	default:
		panic(fmt.Sprintf("the model knows no %T", e))
	}
	return nil
}

// publish queues a job, unless it is queued.
func (x *stepper) publish(w *world, gen string, p owner.Publish) {
	job, rest, err := wire.DecodeJob(p.Data)
	if err != nil || len(rest) > 0 || job.Seq != p.First {
		panic("not one job")
	}
	g, q, at := genIndex(gen), p.First, uint8(1+position(job.Prev))
	if w.made[g][q] != 0 && w.made[g][q] != at {
		x.wrong = fmt.Sprintf("P1: two different jobs %d of generation %d", q, g)
	}
	w.made[g][q], w.job[g][q] = at, at
}

// reply brings the reader an answer.
func (x *stepper) reply(w *world, s *slot, e owner.ReplySeat) {
	req, rd := uint8(e.Token), &w.rd
	if s.asked == req {
		s.asked = 0
	}
	if s.askedAt == req {
		s.askedAt = 0
	}
	if f := e.Reply.Fault; f != nil {
		if req == rd.req && f.Code != schema.CodeUnavailable && !x.noRequest {
			x.wrong = "the reader is refused its own seat: " + f.Code
		}
		return
	}
	g, seat, head := genIndex(e.Reply.Gen), e.Reply.Seat, e.Reply.Position
	if was := w.granted[seat]; was != 0 && was != req {
		x.wrong = fmt.Sprintf("P5: seat %d is given for two requests", seat)
	}
	w.granted[seat] = req
	if req == rd.req && !rd.seated {
		if at := e.Reply.State.Data; len(at) == 0 || position(at) != int(rd.pos) {
			x.wrong = fmt.Sprintf("P1: the reader at %d is seated at %s", rd.pos, at)
		}
		rd.replies[g][head] |= bit(uint8(seat))
	}
}

// carryOut carries an effect out and returns its event.
func (x *stepper) carryOut(w *world, c int, e owner.Effect) (event owner.Event, what string) {
	s := &w.co[c]
	switch e := e.(type) {
	case answered:
		return e.event, fmt.Sprintf("hears late of %T", e.event)
	case owner.Record:
		return x.save(w, c, e)
	case owner.Make:
		if g := genIndex(e.Gens[0]); w.store[g] == unmade {
			w.store[g] = made
		}
		return owner.Made{Gen: e.Gens[0]}, "makes " + e.Gens[0]
	case owner.Discard:
		g := genIndex(e.Gen)
		if e.Gen == w.rec.Gen {
			x.wrong = "I4: the generation that the record names is deleted"
		}
		w.store[g], w.res[g], w.job[g] = gone, [seqs]uint8{}, [seqs]uint8{}
		return nil, "deletes " + e.Gen
	case owner.Purge:
		g := genIndex(e.Gen)
		if e.Gen == w.rec.Gen && e.To > w.rec.Floor {
			x.wrong = "I4: results are dropped that the record holds"
		}
		for q := e.From + 1; q <= e.To; q++ {
			w.res[g][q] = 0
		}
		return nil, fmt.Sprintf("drops results %d to %d of %s", e.From+1, e.To, e.Gen)
	case owner.Cancel:
		g := genIndex(e.Gen)
		for q := e.From; q < e.To; q++ {
			w.job[g][q] = 0
		}
		w.lossy = w.lossy || w.rec.Owner != name(c)
		return owner.Cancelled{Gen: e.Gen}, fmt.Sprintf("cancels jobs %d to %d", e.From, e.To-1)
	case owner.Look:
		g := genIndex(e.Gen)
		l := owner.Looked{Gen: e.Gen, For: e.For, Asked: now, Connected: true, Done: map[uint64]bool{}}
		if w.store[g] != made && !x.noGenesis {
			l.Store, s.lost = owner.StoreLost, g
		}
		for q, r := range w.res[g] {
			if r != 0 {
				l.Done[uint64(q)] = true
			}
		}
		return l, fmt.Sprintf("looks at %s for %d", e.Gen, e.For)
	case owner.StoreVerdict:
		g, q := genIndex(e.Gen), e.Result.Seq
		v := owner.VerdictStored{Gen: e.Gen, Seq: q}
		switch {
		case w.store[g] != made:
			v.Reason = "no store"
		case w.res[g][q] == 0:
			w.res[g][q], w.made[g][q] = verdictBy, uint8(1+position(e.Result.Prev))
			w.live[g][q] |= bit(verdictBy)
		}
		return v, fmt.Sprintf("stores the end at %d", q)
	case owner.Demand:
		p := owner.Produced{Gen: s.o.Gen()}
		for at := position(e.State); len(p.Items) < e.N && at < int(x.size.batches); at++ {
			p.Items = append(p.Items, owner.Item{Job: []byte{0xc0}, Next: state(at + 1)})
		}
		short := len(p.Items) < e.N
		if short && !x.size.end && len(p.Items) == 0 {
			return nil, "" // there is more, and the search does not go there
		}
		p.Last, p.Ended = true, short && x.size.end
		return p, fmt.Sprintf("iterates %d from %s", len(p.Items), e.State)
	}
	panic(fmt.Sprintf("the model cannot carry out %T", e))
}

// save is the compare-and-set, as the shell has it: an owner that the record names still, and that may not know its
// own last change, writes over it.
func (x *stepper) save(w *world, c int, e owner.Record) (owner.Event, string) {
	s, was, r := &w.co[c], &w.rec, e.Record
	if was.Owner != name(c) && !x.noFence {
		return owner.Recorded{Outcome: owner.Conflict, Owner: was.Owner}, "finds that the record is another's"
	}
	request := requestNumber(r.Request)
	switch {
	case s.doubt: // nobody has heard of what it writes over
	case e.Revision != w.rev && !x.noFence:
		x.wrong = "the record is written at another revision than the owner has"
	case request < requestNumber(was.Request):
		x.wrong = "a request that was overtaken moves the seat"
	case r.Seat < was.Seat, r.Gen == was.Gen && r.Floor < was.Floor:
		x.wrong = "the record goes back"
	}
	if !s.doubt && r.Gen == was.Gen && r.Seat == was.Seat && r.Taken < was.Taken {
		x.wrong = "the record goes back"
	}
	w.rec = r
	w.rev++
	s.doubt = false
	return owner.Recorded{Revision: w.rev}, fmt.Sprintf(
		"records gen %s seat %d request %s taken %d floor %d %s", r.Gen, r.Seat, r.Request, r.Taken, r.Floor, r.Phase)
}

// held reports whether the record's generation has a result for what follows a position, above its floor.
func (w *world) held(pos int) bool {
	g, floor := genIndex(w.rec.Gen), int(w.rec.Floor)
	head := floor + pos - position(w.rec.FloorState) + 1
	return g > 0 && w.store[g] == made && head > floor && head < seqs && w.res[g][head] != 0
}
