package model

import "fmt"

// successor is a state that can follow, and how.
type successor struct {
	state
	what  string
	fault bool
	wrong string // the promise that this step breaks
}

// stepper collects the successors of a state.
type stepper struct {
	broken
	batches, seats uint8 // bounds, at most the constants
	out            []successor
	cut            bool // something can happen that the bounds leave out
}

func (x *stepper) add(s state, fault bool, wrong, format string, args ...any) {
	if !x.noGen {
		s.forget()
	}
	x.out = append(x.out, successor{s, fmt.Sprintf(format, args...), fault, wrong})
}

func bit(n uint8) uint8 { return 1 << n }

func (x *stepper) successors(s state) []successor {
	x.out, x.cut = x.out[:0], false
	if s.rd.pos == x.batches && s.left.seeks == 0 {
		return nil // the trainer has everything
	}
	for c := range uint8(2) {
		x.coordinate(s, c)
	}
	for w := range uint8(2) {
		x.work(s, w)
	}
	x.read(s)
	x.lose(s)
	return x.out
}

// write is the compare-and-set. It reports whether the record was written; if not, c lets go of the batcher.
func (x *stepper) write(s *state, c uint8, change func(*record)) bool {
	co := &s.co[c]
	if co.stale && !x.noFence {
		*co = coordinator{purgeGen: co.purgeGen, purgeTo: co.purgeTo, discard: co.discard}
		return false
	}
	change(&co.rec)
	s.rec = co.rec
	s.co[1-c].stale = s.co[1-c].owns
	return true
}

// begin writes a new generation at pos.
func (x *stepper) begin(s *state, c, pos uint8, change func(*record)) bool {
	if s.begun == gens {
		x.cut = true
		return false
	}
	co := &s.co[c]
	before := co.rec.gen
	if x.discardFirst {
		co.discard = before
	}
	ok := x.write(s, c, func(r *record) {
		r.gen, r.taken, r.floor = s.begun+1, 0, 0
		change(r)
	})
	if !ok {
		return true // deposed, which is a step, too
	}
	s.begun++
	s.base[s.begun] = pos
	co.fed, co.saved, co.creating, co.discard = 0, 0, true, before
	return true
}

func (x *stepper) coordinate(s state, c uint8) {
	me := s.co[c]
	if s.left.crashes > 0 && me != (coordinator{}) {
		n := s
		n.co[c] = coordinator{}
		n.left.crashes--
		x.add(n, true, "", "coordinator %d dies", c)
	}
	// What was begun is carried out however late, by a deposed coordinator too.
	if me.purgeTo > 0 {
		n := s
		for q := uint8(1); q <= me.purgeTo; q++ {
			n.res[me.purgeGen][q] = 0
		}
		n.co[c].purgeGen, n.co[c].purgeTo = 0, 0
		wrong := ""
		if me.purgeGen == s.rec.gen && me.purgeTo > s.rec.floor {
			wrong = "I4: results are dropped that the record holds"
		}
		x.add(n, false, wrong, "coordinator %d drops results up to %d of generation %d", c, me.purgeTo, me.purgeGen)
	}
	if me.discard > 0 {
		n := s
		n.store[me.discard], n.res[me.discard], n.job[me.discard] = gone, [batches + 1]uint8{}, 0
		n.co[c].discard = 0
		wrong := ""
		if me.discard == s.rec.gen {
			wrong = "I4: the generation that the record names is deleted"
		}
		x.add(n, false, wrong, "coordinator %d deletes generation %d", c, me.discard)
	}
	if !me.owns {
		free := !s.co[s.rec.owner].owns
		if free || s.left.takeovers > 0 {
			n := s
			if !free {
				n.left.takeovers--
			}
			n.rec.owner = c
			n.co[1-c].stale = n.co[1-c].owns
			n.co[c] = coordinator{owns: true, rec: n.rec, fed: n.rec.floor, saved: n.rec.taken, purgeGen: me.purgeGen, purgeTo: me.purgeTo, discard: me.discard}
			x.add(n, !free, "", "coordinator %d takes over", c)
		}
		return
	}
	gen, base := me.rec.gen, s.base[me.rec.gen]
	if me.creating {
		n := s
		n.store[gen], n.co[c].creating = made, false
		x.add(n, false, "", "coordinator %d makes the store of generation %d", c, gen)
	}
	if gen > 0 {
		if me.fed < me.rec.taken+window && base+me.fed < x.batches && !me.creating {
			n := s
			n.co[c].fed++
			if q := n.co[c].fed; q > me.rec.taken {
				n.job[gen] |= bit(q)
			}
			x.add(n, false, "", "coordinator %d feeds %d of generation %d", c, me.fed+1, gen)
		}
		x.hear(s, c, credit{s.rd.gen, s.rd.seat, s.rd.pos}, s.rd.seated, "the credit")
		x.hear(s, c, s.old, s.old.gen > 0, "a late credit")
		if me.rec.taken != me.saved {
			x.save(s, c)
		}
		if lost := s.store[gen] == gone || s.store[gen] == unmade && !me.creating; lost && !x.noGenesis {
			n := s
			pos := base + min(me.rec.taken, me.fed)
			if x.begin(&n, c, pos, func(*record) {}) {
				x.add(n, false, "", "coordinator %d finds the store of generation %d lost", c, gen)
			}
		} else if !lost && !x.noRepair {
			n := s
			mend(&n, c)
			if n != s {
				x.add(n, false, "", "coordinator %d looks after a late head", c)
			}
		}
	}
	x.seat(s, c, seating{s.rd.req, s.rd.pos}, !s.rd.seated, "the request")
	x.seat(s, c, s.req, s.req.req > 0, "a late request")
}

// mend publishes what has neither result nor job.
func mend(s *state, c uint8) {
	co := &s.co[c]
	for q := co.rec.taken + 1; q <= co.fed; q++ {
		if s.res[co.rec.gen][q] == 0 {
			s.job[co.rec.gen] |= bit(q)
		}
	}
}

func (x *stepper) hear(s state, c uint8, cr credit, there bool, what string) {
	me := &s.co[c]
	if !there || cr.gen != me.rec.gen || cr.seat != me.rec.seat && !x.noSeat || cr.pos < s.base[cr.gen] {
		return
	}
	if taken := min(cr.pos-s.base[cr.gen], me.fed); taken > me.rec.taken {
		me.rec.taken = taken
		x.add(s, false, "", "coordinator %d hears %s: %d taken", c, what, taken)
	}
}

// save writes taken, and with it the floor; then results may go.
func (x *stepper) save(s state, c uint8) {
	me := &s.co[c]
	gen, floor := me.rec.gen, min(me.rec.taken, me.fed)
	if x.purgeFirst {
		me.purgeGen, me.purgeTo = gen, floor
	}
	if x.write(&s, c, func(r *record) { r.floor = max(r.floor, floor) }) {
		me.saved, me.purgeGen, me.purgeTo = me.rec.taken, gen, floor
	}
	x.add(s, false, "", "coordinator %d saves", c)
}

// seat gives the reader a seat at a position: by look-up, or in a new generation.
func (x *stepper) seat(s state, c uint8, q seating, there bool, what string) {
	me := &s.co[c]
	if !there || q.req < me.rec.req && !x.noRequest || me.fed < me.rec.taken {
		return
	}
	if s.rec.seat == x.seats {
		x.cut = true
		return
	}
	wrong := ""
	if q.req != me.rec.req {
		if q.req < s.rec.req && !me.stale {
			wrong = "a request that was overtaken moves the seat"
		}
		gen := me.rec.gen
		seated := func(r *record) { r.seat, r.req = r.seat+1, q.req }
		if gen > 0 && q.pos >= s.base[gen]+me.rec.floor && q.pos <= s.base[gen]+me.fed && (s.store[gen] == made || x.noGenesis) {
			before := me.rec.taken
			to := q.pos - s.base[gen]
			if x.write(&s, c, func(r *record) { seated(r); r.taken = to }) {
				me.saved = to
				for n := before + 1; n <= to; n++ {
					s.job[gen] &^= bit(n)
				}
				mend(&s, c)
			}
		} else if !x.begin(&s, c, q.pos, seated) {
			return
		}
	}
	if me.owns && q.req == s.rd.req && me.rec.gen > 0 {
		s.rd.replies[me.rec.gen] |= bit(me.rec.seat)
	}
	x.add(s, false, wrong, "coordinator %d carries out %s %d at position %d", c, what, q.req, q.pos)
}

func (x *stepper) work(s state, w uint8) {
	me := s.wk[w]
	if me.stage == idle {
		for g := uint8(1); g <= s.begun; g++ {
			for q := uint8(1); q <= batches; q++ {
				if s.job[g]&bit(q) == 0 {
					continue
				}
				n := s
				other := s.wk[1-w]
				again := other.stage != idle && other.gen == g && other.seq == q // its heartbeats are late
				if again {
					if s.left.delays == 0 {
						continue
					}
					n.left.delays--
				}
				n.wk[w] = worker{g, q, running}
				wrong := ""
				if x.ackFirst {
					n.job[g] &^= bit(q)
					wrong = n.acked(g, q)
				}
				x.add(n, again, wrong, "worker %d gets job %d of generation %d", w, q, g)
			}
		}
		return
	}
	g, q := me.gen, me.seq
	if s.left.crashes > 0 {
		n := s
		n.wk[w] = worker{}
		n.left.crashes--
		x.add(n, true, "", "worker %d dies", w)
	}
	if me.stage == committed {
		n := s
		n.job[g] &^= bit(q)
		n.wk[w] = worker{}
		x.add(n, false, s.acked(g, q), "worker %d acks %d of generation %d", w, q, g)
		if s.left.delays > 0 && s.job[g]&bit(q) != 0 {
			n.job[g], n.left.delays = s.job[g], s.left.delays-1
			x.add(n, true, "", "the ack of worker %d for %d of generation %d is lost", w, q, g)
		}
		return
	}
	n := s
	if s.store[g] != made {
		n.wk[w] = worker{}
		if s.rec.gen != g {
			n.job[g] &^= bit(q)
		}
		x.add(n, false, "", "worker %d finds no store for %d of generation %d", w, q, g)
		return
	}
	if s.res[g][q] == 0 || x.overwrite {
		n.res[g][q] = w + 1
		n.live[g][q] |= bit(w + 1)
	} else if x.ingest {
		n.live[g][q] |= bit(w + 1)
	}
	if n != s && s.left.delays > 0 {
		late := n
		late.left.delays--
		x.add(late, true, "", "worker %d commits %d of generation %d and hears no answer", w, q, g)
	}
	n.wk[w].stage = committed
	x.add(n, false, "", "worker %d commits %d of generation %d", w, q, g)
}

// acked is what is wrong with acking a job now.
func (s *state) acked(g, q uint8) string {
	if s.live[g][q] == 0 && g == s.rec.gen {
		return "I2: a job is acked whose result was never stored"
	}
	return ""
}

func (x *stepper) read(s state) {
	rd := s.rd
	again := func(fault bool, pos uint8, format string, args ...any) {
		if rd.req == x.seats {
			x.cut = true
			return
		}
		n := s
		n.rd.seated, n.rd.req, n.rd.pos = false, rd.req+1, pos
		n.rd.replies = [gens + 1]uint8{}
		if fault {
			n.left.seeks--
		}
		x.add(n, fault, "", format, args...)
	}
	if s.left.seeks > 0 {
		for pos := range rd.pos {
			again(true, pos, "the trainer goes back to %d", pos)
		}
	}
	if s.left.delays > 0 {
		n := s
		n.left.delays--
		if rd.seated {
			n.old = credit{rd.gen, rd.seat, rd.pos}
		} else {
			n.req = seating{rd.req, rd.pos}
		}
		x.add(n, true, "", "what the reader just said will come late, too")
	}
	if !rd.seated {
		for g := uint8(1); g <= s.begun; g++ {
			for seat := uint8(1); seat <= seats; seat++ {
				if rd.replies[g]&bit(seat) == 0 || rd.pos < s.base[g] {
					continue
				}
				n := s
				n.rd.seated, n.rd.gen, n.rd.seat, n.rd.replies = true, g, seat, [gens + 1]uint8{}
				x.add(n, false, "", "the reader sits on seat %d of generation %d", seat, g)
			}
		}
		return
	}
	// The owner's answers, or a store that is gone, say that the seat is to be asked for again.
	owner := s.co[s.rec.owner]
	if owner.owns && (owner.rec.gen != rd.gen || owner.rec.seat != rd.seat) || s.store[rd.gen] == gone && !x.noGenesis {
		again(false, rd.pos, "the reader has a doubt")
	}
	head := rd.pos - s.base[rd.gen] + 1
	if rd.pos == x.batches || head > batches {
		return
	}
	for g := uint8(1); g <= s.begun; g++ {
		for a := uint8(1); a <= 2; a++ {
			if (g == rd.gen || x.noGen) && s.live[g][head]&bit(a) != 0 {
				x.take(s, g, head, a)
			}
		}
	}
}

// take lets the trainer have a result, if it follows from the state before it.
func (x *stepper) take(s state, g, q, a uint8) {
	pos := s.base[g] + q - 1
	if pos != s.rd.pos && !x.noChain {
		return // the reader asks for its seat again, and finds the same
	}
	wrong := ""
	switch was := s.rd.believed[g][q]; {
	case pos != s.rd.pos:
		wrong = fmt.Sprintf("the trainer at %d takes batch %d", s.rd.pos, pos)
	case was != 0 && was != a:
		wrong = fmt.Sprintf("I3: two results of %d in generation %d are believed", q, g)
	}
	s.rd.believed[g][q] = a
	s.rd.pos++
	x.add(s, false, wrong, "the trainer takes batch %d: result %d of generation %d by worker %d", pos, q, g, a-1)
}

func (x *stepper) lose(s state) {
	if s.left.losses == 0 {
		return
	}
	for g := uint8(1); g <= s.begun; g++ {
		if s.store[g] == made {
			n := s
			n.store[g], n.res[g], n.lossy = gone, [batches + 1]uint8{}, true
			n.left.losses--
			x.add(n, true, "", "the results of generation %d are lost", g)
		}
		if s.job[g] != 0 {
			n := s
			n.job[g], n.lossy = 0, true
			n.left.losses--
			x.add(n, true, "", "the jobs of generation %d are lost", g)
		}
	}
}

// forget drops what nothing can ask for any more, so that states that differ in it only are one.
func (s *state) forget() {
	for g := uint8(1); g <= s.begun; g++ {
		if g == s.rec.gen || g == s.rd.gen || s.rd.replies[g] != 0 || s.co[0].rec.gen == g || s.co[1].rec.gen == g {
			continue
		}
		s.live[g], s.rd.believed[g] = [batches + 1]uint8{}, [batches + 1]uint8{}
	}
}

// invalid is what is wrong with a state.
func (s *state) invalid() string {
	owner := s.co[s.rec.owner]
	if gen := owner.rec.gen; owner.owns && !owner.stale && !s.lossy && s.store[gen] == made {
		for q := owner.rec.taken + 1; q <= owner.fed; q++ {
			if s.res[gen][q] == 0 && s.job[gen]&bit(q) == 0 {
				return fmt.Sprintf("I1: %d of generation %d has neither result nor job", q, gen)
			}
		}
	}
	if s.rd.seated && s.rec.gen == s.rd.gen && s.rec.seat == s.rd.seat && s.base[s.rec.gen]+s.rec.taken > s.rd.pos {
		return "the record has the trainer further than it is"
	}
	return ""
}
