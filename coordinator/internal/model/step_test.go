package model

import (
	"fmt"
	"slices"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// successor is a world that can follow, and how.
type successor struct {
	world
	what  string
	fault bool
	wrong string // the promise that this step breaks
}

// stepper collects the successors of a world.
type stepper struct {
	broken
	size   bounds
	copier copier
	hasher hasher
	w      *world // that an owner's step changes
	full   bool   // it would need more generations than there are
	wrong  string
	out    []successor
	cut    bool // something can happen that the bounds leave out
}

func newStepper(size bounds, b broken) *stepper {
	size.candidates = max(size.candidates, 1)
	known := make(leaves)
	return &stepper{broken: b, size: size, copier: copier{leaves: known}, hasher: hasher{leaves: known}}
}

func (x *stepper) add(w world, fault bool, format string, args ...any) {
	if x.full {
		x.full, x.wrong, x.cut = false, "", true
		return
	}
	if !x.noGen {
		w.forget()
	}
	x.out = append(x.out, successor{w, fmt.Sprintf(format, args...), fault, x.wrong})
	x.wrong = ""
}

func bit(n uint8) uint8 { return 1 << n }

// finished reports whether the trainer has everything.
func (x *stepper) finished(w *world) bool {
	return w.rd.pos == x.size.batches && (!x.size.end || w.rd.done && w.rec.Phase == schema.PhaseDone)
}

func (x *stepper) successors(w world) []successor {
	x.out, x.cut = x.out[:0], false
	if x.finished(&w) && w.left.seeks == 0 {
		return nil
	}
	for c := range w.co {
		x.coordinate(w, c)
	}
	for k := range uint8(2) {
		x.work(w, k)
	}
	x.read(w)
	x.lose(w)
	return x.out
}

func (x *stepper) coordinate(w world, c int) {
	for i := range w.co[c].pending {
		x.goOn(w, c, i)
	}
	if w.co[c].o == nil {
		other := &w.co[1-c]
		free := other.o == nil || w.rec.Owner != name(1-c)
		if free || w.left.takeovers > 0 {
			n := w
			if !free {
				n.left.takeovers--
			}
			n.rec.Owner = name(c)
			n.rev++
			x.begin(&n, c)
			x.add(n, !free, "coordinator %d takes over", c)
		}
		return
	}
	if w.left.crashes > 0 {
		n := w
		n.co[c] = slot{}
		n.left.crashes--
		x.add(n, true, "coordinator %d dies", c)
	}
	event := func(e owner.Event, format string, args ...any) {
		n := w
		x.step(&n, c, e)
		x.add(n, false, format, args...)
	}
	if w.rec.Owner != name(c) {
		event(owner.Deposed{Owner: w.rec.Owner}, "coordinator %d reads that it is deposed", c)
	}
	event(owner.Tick{}, "time passes for coordinator %d", c)
	rd := &w.rd
	if rd.seated {
		x.hear(w, c, credit{rd.gen, rd.seat, rd.head - 1}, "the credit")
		if !x.noRepair && !rd.done && w.missing(rd.gen, rd.head) {
			late := credit{rd.gen, rd.seat, rd.head - 1}.say(true)
			event(owner.Credited{Credit: late}, "coordinator %d hears that the head is late", c)
		}
	}
	if w.old.gen > 0 {
		x.hear(w, c, w.old, "a late credit")
	}
	if !rd.seated && w.co[c].asked != rd.req {
		x.seat(w, c, seating{rd.req, rd.pos}, "the request")
	}
	if w.req.req > 0 && w.co[c].askedAt == 0 {
		x.seat(w, c, w.req, "a late request")
	}
}

// missing reports whether there is nothing that a result could come of.
func (w *world) missing(g, q uint8) bool {
	return w.live[g][q] == 0 && (w.job[g][q] == 0 || w.store[g] != made)
}

// goOn carries out what is under way.
func (x *stepper) goOn(w world, c, i int) {
	e := w.co[c].pending[i]
	w.co[c].pending = slices.Delete(slices.Clone(w.co[c].pending), i, i+1)
	before := w
	event, what := x.carryOut(&w, c, e)
	if what == "" {
		return
	}
	wrong := x.wrong
	deliver := func(w world, event owner.Event, fault bool, how string) {
		x.wrong = wrong
		if w.co[c].o != nil && event != nil {
			x.step(&w, c, event)
		} else {
			x.hash(&w.co[c])
		}
		x.add(w, fault, "coordinator %d %s%s", c, what, how)
	}
	deliver(w, event, false, "")
	_, late := e.(answered)
	if w.co[c].o == nil || event == nil || w.left.delays == 0 || late {
		return
	}
	w.left.delays--
	before.left.delays--
	n := w
	n.co[c].pending = append(n.co[c].pending, answered{event: event})
	x.hash(&n.co[c])
	x.wrong = wrong
	x.add(n, true, "coordinator %d %s, and the answer is late", c, what)
	if _, ok := e.(owner.Record); ok {
		silent := owner.Recorded{Outcome: owner.Silent, Reason: "no answer"}
		w.co[c].doubt, before.co[c].doubt = true, true
		deliver(w, silent, true, ", and the answer is lost")
		wrong, what = "", "cannot reach the record"
		deliver(before, silent, true, "")
	}
}

// say is the credit on the wire.
func (c credit) say(late bool) *wire.Credit {
	return &wire.Credit{
		Gen: genName(c.gen), Seat: uint64(c.seat), Reader: "r", Taken: uint64(c.taken), Late: late,
		BatchBytes: batchBytes, Stored: batchBytes,
	}
}

func (x *stepper) hear(w world, c int, cr credit, what string) {
	if x.noSeat {
		cr.seat = uint8(w.co[c].o.Status(now).Seat)
	}
	n := w
	x.step(&n, c, owner.Credited{Credit: cr.say(false)})
	if n.co[c].hash != w.co[c].hash {
		x.add(n, false, "coordinator %d hears %s of seat %d: %d of generation %d taken", c, what, cr.seat, cr.taken, cr.gen)
	}
	x.full, x.wrong = false, ""
}

// seat asks for a seat at a position.
func (x *stepper) seat(w world, c int, q seating, what string) {
	if w.rec.Seat >= uint64(x.size.seats) {
		x.cut = true
		return
	}
	request, late := requestName(q.req), q == w.req && what != "the request"
	if late {
		w.co[c].askedAt = q.req
		if x.noRequest {
			request = w.rec.Request + request
		}
	} else {
		w.co[c].asked = q.req
	}
	x.step(&w, c, owner.SeatAsked{Token: owner.Token(q.req), Key: wire.Sum(nil), Request: &wire.SeatRequest{
		Batcher: "train", Reader: "r", Request: request, Mode: wire.ModeSeek, Spec: wire.Spec{Dataset: "count"},
		Settings: w.rec.Settings, State: schema.State{Data: state(int(q.pos))},
	}})
	x.add(w, false, "coordinator %d hears %s %d for position %d", c, what, q.req, q.pos)
}

func (x *stepper) work(w world, k uint8) {
	me := w.wk[k]
	if me.stage == idle {
		for g := uint8(1); g <= w.begun; g++ {
			for q := uint8(1); q < seqs; q++ {
				if w.job[g][q] == 0 {
					continue
				}
				n := w
				other := w.wk[1-k]
				again := other.stage != idle && other.gen == g && other.seq == q // its heartbeats are late
				if again {
					if w.left.delays == 0 {
						continue
					}
					n.left.delays--
				}
				n.wk[k] = worker{g, q, running}
				if x.ackFirst {
					n.job[g][q] = 0
					x.wrong = n.acked(g, q)
				}
				x.add(n, again, "worker %d gets job %d of generation %d", k, q, g)
			}
		}
		return
	}
	g, q := me.gen, me.seq
	if w.left.crashes > 0 {
		n := w
		n.wk[k] = worker{}
		n.left.crashes--
		x.add(n, true, "worker %d dies", k)
	}
	if me.stage == committed {
		n := w
		n.job[g][q] = 0
		n.wk[k] = worker{}
		x.wrong = w.acked(g, q)
		x.add(n, false, "worker %d acks %d of generation %d", k, q, g)
		if w.left.delays > 0 && w.job[g][q] != 0 {
			n.job[g][q], n.left.delays = w.job[g][q], w.left.delays-1
			x.add(n, true, "the ack of worker %d for %d of generation %d is lost", k, q, g)
		}
		return
	}
	n := w
	if w.store[g] != made {
		n.wk[k] = worker{}
		if genIndex(w.rec.Gen) != g {
			n.job[g][q] = 0
		}
		x.add(n, false, "worker %d finds no store for %d of generation %d", k, q, g)
		return
	}
	stored := w.res[g][q] == 0 || x.overwrite
	if stored {
		n.res[g][q] = k + 1
	}
	if stored || x.ingest {
		n.live[g][q] |= bit(k + 1)
	}
	if stored && w.left.delays > 0 {
		late := n
		late.left.delays--
		x.add(late, true, "worker %d commits %d of generation %d and hears no answer", k, q, g)
	}
	n.wk[k].stage = committed
	x.add(n, false, "worker %d commits %d of generation %d", k, q, g)
}

// acked is what is wrong with acking a job now.
func (w *world) acked(g, q uint8) string {
	if w.live[g][q] == 0 && g == genIndex(w.rec.Gen) {
		return "I2: a job is acked whose result was never stored"
	}
	return ""
}

func (x *stepper) read(w world) {
	rd := w.rd
	again := func(fault bool, pos uint8, format string, args ...any) {
		if rd.req == x.size.seats {
			x.cut = true
			return
		}
		n := w
		n.rd = reader{req: rd.req + 1, pos: pos, believed: rd.believed}
		if fault {
			n.left.seeks--
		}
		x.add(n, fault, format, args...)
	}
	if w.left.seeks > 0 {
		for pos := range rd.pos {
			again(true, pos, "the trainer goes back to %d", pos)
		}
	}
	if w.left.delays > 0 {
		n := w
		n.left.delays--
		if rd.seated {
			n.old = credit{rd.gen, rd.seat, rd.head - 1}
		} else {
			n.req = seating{rd.req, rd.pos}
		}
		x.add(n, true, "what the reader just said will come late, too")
	}
	if !rd.seated {
		for g := uint8(1); g <= w.begun; g++ {
			for head := uint8(1); head < seqs; head++ {
				for seat := range uint8(seats + 1) {
					if rd.replies[g][head]&bit(seat) == 0 {
						continue
					}
					n := w
					n.rd = reader{seated: true, pos: rd.pos, gen: g, seat: seat, req: rd.req, head: head, believed: rd.believed}
					x.add(n, false, "the reader sits on seat %d at %d of generation %d", seat, head, g)
				}
			}
		}
		return
	}
	// The owner's answers, or a store that is gone, say that the seat is to be asked for again.
	for c := range w.co {
		if o := w.co[c].o; o != nil && w.rec.Owner == name(c) {
			if s := o.Status(now); genIndex(s.Gen) != rd.gen || uint8(s.Seat) != rd.seat {
				again(false, rd.pos, "the reader has a doubt")
				break
			}
		}
	}
	if w.store[rd.gen] == gone && !x.noGenesis {
		again(false, rd.pos, "the reader finds no store")
	}
	if rd.head >= seqs || rd.done {
		return
	}
	for g := uint8(1); g <= w.begun; g++ {
		for a := uint8(1); a <= verdictBy; a++ {
			if (g == rd.gen || x.noGen) && w.live[g][rd.head]&bit(a) != 0 {
				x.take(w, g, rd.head, a)
			}
		}
	}
}

// take lets the trainer have a result, if it follows from the state before it, or the end, if the record says so, too.
func (x *stepper) take(w world, g, q, a uint8) {
	rd := &w.rd
	pos := w.made[g][q] - 1
	v := w.rec.Verdict
	if pos != rd.pos && !x.noChain || a == verdictBy && (v == nil || v.Seq != uint64(q) || genIndex(w.rec.Gen) != g) {
		return // the reader asks for its seat again, and finds the same
	}
	switch was := rd.believed[g][q]; {
	case pos != rd.pos:
		x.wrong = fmt.Sprintf("the trainer at %d takes batch %d", rd.pos, pos)
	case was != 0 && was != a:
		x.wrong = fmt.Sprintf("I3: two results of %d in generation %d are believed", q, g)
	case a == verdictBy && rd.pos != x.size.batches:
		x.wrong = "P1: the data ends too early"
	}
	rd.believed[g][q] = a
	rd.head++
	if a == verdictBy {
		rd.done = true
		x.add(w, false, "the trainer has the end of the data")
		return
	}
	rd.pos++
	x.add(w, false, "the trainer takes batch %d: result %d of generation %d by worker %d", pos, q, g, a-1)
}

func (x *stepper) lose(w world) {
	if w.left.losses == 0 {
		return
	}
	for g := uint8(1); g <= w.begun; g++ {
		if w.store[g] == made {
			n := w
			n.store[g], n.res[g], n.lossy = gone, [seqs]uint8{}, true
			n.left.losses--
			x.add(n, true, "the results of generation %d are lost", g)
		}
		if w.job[g] != [seqs]uint8{} {
			n := w
			n.job[g], n.lossy = [seqs]uint8{}, true
			n.left.losses--
			x.add(n, true, "the jobs of generation %d are lost", g)
		}
	}
}

// forget drops what nothing can ask for any more, so that worlds that differ in it only are one.
func (w *world) forget() {
	for g := uint8(1); g <= w.begun; g++ {
		wanted := g == genIndex(w.rec.Gen) || g == w.rd.gen || w.rd.replies[g] != [seqs]uint8{}
		for c := range w.co {
			wanted = wanted || w.co[c].o != nil && g == genIndex(w.co[c].o.Gen())
		}
		if !wanted {
			w.live[g], w.rd.believed[g] = [seqs]uint8{}, [seqs]uint8{}
		}
	}
}

// invalid is what is wrong with a world.
func (w *world) invalid() string {
	g, rd := genIndex(w.rec.Gen), &w.rd
	for c := range w.co {
		s := &w.co[c]
		if s.o == nil || w.rec.Owner != name(c) || s.doubt || s.busy() {
			continue
		}
		if w.lossy || w.store[g] != made || s.o.Gen() != w.rec.Gen {
			continue
		}
		st := s.o.Status(now)
		for q := st.Taken + 1; q <= st.Fed; q++ {
			if w.res[g][q] == 0 && w.job[g][q] == 0 {
				return fmt.Sprintf("I1: %d of generation %d has neither result nor job", q, g)
			}
		}
	}
	if rd.seated && g == rd.gen && w.rec.Seat == uint64(rd.seat) {
		switch {
		case w.rec.Taken >= uint64(rd.head):
			return "the record has the trainer further than it is"
		case w.rec.Phase == schema.PhaseDone && !rd.done:
			return "the run is done, and the trainer is not"
		}
	}
	return ""
}

// busy reports whether something is under way after which the owner looks at what is missing.
func (s *slot) busy() bool {
	return slices.ContainsFunc(s.pending, func(e owner.Effect) bool {
		switch e.(type) {
		case owner.Purge, owner.Discard, owner.Demand:
			return false
		}
		return true
	})
}
