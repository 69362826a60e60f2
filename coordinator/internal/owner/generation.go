package owner

import (
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// generation is the running generation of a batcher.
type generation struct {
	*window.Window
	spec    wire.Digest // of the record
	saved   uint64      // taken, as the record has it
	moved   time.Time   // when the trainer came further last
	looked  time.Time   // of the last repair
	pause   time.Duration
	done    map[uint64]bool // results that were there at the takeover
	settled bool            // everything that was fed before a takeover is in the window again
	ended   bool            // nothing more is fed, not even from a Next that returns late
	unsaid  *wire.Verdict   // the verdict until record and store have it
	telling bool            // a StoreVerdict is under way
	owed    []uint64        // beyond the window and without a job, ascending: to be published when it opens
	purged  uint64          // results up to here are dropped from the store
	shrunk  int             // bound on the window after the store was full; 0 for none
	roomed  time.Time       // when it was shrunk last
	backup  uint64          // the sequence number whose job a second worker may have; 0 for none
	swept   time.Time       // when results that came after they were dropped were last looked for
	lost    map[uint64]bool // sequence numbers that a Remove is under way for
	cancels int             // under way: until they end, a job that is published again could be deleted at once
	relook  bool            // what was found missing during a Cancel is looked for again

	// The iterator: whether it owes jobs, since when it has been watched, and how much of the time since then counts.
	busy    bool
	watched time.Time
	owing   time.Duration
}

// making is a generation that takes the place of one whose store was lost.
type making struct {
	stage  stage
	lost   string // the generation before
	gen    string
	chosen bool // it is made already
}

type stage uint8

const (
	readying  stage = iota // a Ready is under way
	choosing               // a Make of several is under way, before the record
	recording              // the record is to be changed, or its change is under way
	storing                // a Make is under way, after the record
)

// beginIn turns a record into that of a new generation. The first taken positions after state are the trainer's
// already.
func beginIn(now time.Time, r *wire.Record, gen string, state []byte, taken uint64) {
	r.Gen, r.Phase, r.Since = gen, schema.PhaseRunning, now
	r.Floor, r.FloorState, r.Taken, r.Position = 0, state, taken, taken+1
	r.Verdict, r.Error = nil, nil
}

// beginRecorded goes on when the generation that a request begins is in the record. The record comes first: a
// generation that it names and that has no store is found out and begun again, a store that it does not name is
// collected.
func (o *Owner) beginRecorded(now time.Time, a *asking) {
	o.discard(a.before)
	o.count.Generations++
	a.making = true
	o.emit(Make{Gens: []string{o.rec.Gen}})
}

// readied goes on when a generation can be made now, or says why it cannot.
func (o *Owner) readied(now time.Time, reason string) {
	switch a, m := o.asking, o.making; {
	case m != nil && m.stage == readying && reason != "":
		o.unmake(now, reason)
	case m != nil && m.stage == readying && o.cfg.Candidates > 1:
		m.stage, m.chosen = choosing, true
		gens := make([]string, o.cfg.Candidates)
		for i := range gens {
			gens[i] = o.cfg.NewGen()
		}
		o.emit(Make{Gens: gens, Patient: o.unmade >= 3})
	case m != nil && m.stage == readying:
		m.stage, m.gen = recording, o.cfg.NewGen()
	case a != nil && a.readying:
		a.readying, a.ready = false, reason == ""
		if reason != "" {
			o.finish(a, unavailable("generation of batcher %s: %s", o.rec.Batcher, reason))
		}
	}
}

// made goes on when a generation has its store.
func (o *Owner) made(now time.Time, e Made) {
	a, m := o.asking, o.making
	switch {
	case m != nil && m.stage == choosing:
		if e.Reason != "" {
			o.unmade++
			o.unmake(now, e.Reason)
			return
		}
		o.unmade = 0
		m.stage, m.gen = recording, e.Gen
	case m != nil && m.stage == storing:
		if e.Reason != "" {
			o.unmake(now, e.Reason)
			return
		}
		o.startNew(now)
	case a != nil && a.making:
		a.making = false
		if e.Reason != "" { // the record has it: resume finds that it has no store
			o.resumes, o.retryAt = true, now.Add(retryPause)
			o.finish(a, unavailable("generation of batcher %s: %s", o.rec.Batcher, e.Reason))
			return
		}
		o.info("generation begun", "gen", o.rec.Gen, "seat", o.rec.Seat)
		if a.changed != "" {
			o.warn("begun from a state of other parameters or data, as the trainer accepts",
				"gen", o.rec.Gen, "changed", a.changed)
		}
		o.start(now, window.New(0, o.rec.FloorState, 0))
		o.gen.settled = true
		o.give(now, a, o.seatReply(false, a.warnings(o.ownData(now))...))
	}
}

// remakeAll begins a new generation for the same reader, because the store of the last one is lost. Where a server may
// just have died, several generations are made at once and before the record: one of them is whole at once, while a
// cluster goes on giving streams to a dead server for some seconds.
func (o *Owner) remakeAll(now time.Time) {
	if o.rec.Phase != schema.PhaseRunning {
		o.resumes = false // a finished run needs no store
		return
	}
	if o.making != nil || o.asking != nil {
		return // a request may begin another generation, else the loss is found again
	}
	d := o.ownData(now)
	if !d.open {
		return
	}
	if !d.isOf(o.rec.Origin) { // it was opened anew since the run began, and what was fed cannot be fed again from it
		o.halt()
		o.resumes = true
		return
	}
	o.making = &making{lost: o.rec.Gen}
	o.emit(Ready{})
}

// makeOn records a generation that takes the place of a lost one, once nothing else is being recorded.
func (o *Owner) makeOn(now time.Time) {
	m := o.making
	if o.over || m == nil || m.stage != recording || o.writing != nil {
		return
	}
	// After a takeover only the floor's state is known: positions up to the trainer's are iterated, and not made again.
	state, taken := o.rec.FloorState, o.rec.Taken-o.rec.Floor
	if g := o.gen; g != nil && g.Taken() <= g.Fed() {
		state, taken = g.StateAfter(g.Taken()), 0
	}
	o.record(toBeginNew, nil, func(r *wire.Record) { beginIn(now, r, m.gen, state, taken) })
}

// newRecorded goes on when the new generation is in the record.
func (o *Owner) newRecorded(now time.Time) {
	m := o.making
	o.discard(m.lost)
	o.count.Generations++
	if m.chosen {
		o.startNew(now)
		return
	}
	m.stage = storing
	o.emit(Make{Gens: []string{m.gen}})
}

func (o *Owner) startNew(now time.Time) {
	lost := o.making.lost
	o.making, o.hindered = nil, ""
	o.restarts++
	o.warn("results were lost; generation begun again", "lost", lost, "gen", o.rec.Gen)
	o.start(now, window.New(0, o.rec.FloorState, o.rec.Taken))
	o.gen.settled = o.rec.Taken == 0
	o.notify()
}

// unmake gives a new generation up for now; it is tried again.
func (o *Owner) unmake(now time.Time, reason string) {
	m := o.making
	o.making = nil
	o.resumes = o.gen == nil
	if m != nil && m.chosen && m.gen != "" && m.gen != o.rec.Gen {
		o.emit(Discard{m.gen})
	}
	o.retryAt = now.Add(retryPause)
	if o.hindered != reason {
		o.hindered = reason
		o.warn("lost generation not begun again yet", "gen", o.rec.Gen, "error", reason)
	}
}

// retry takes up what could not be begun or resumed.
func (o *Owner) retry(now time.Time) {
	switch {
	case o.gen != nil && o.forsaken != "" && o.forsaken == o.rec.Gen:
		o.look(now, ForLast)
	case o.resumes && o.making == nil && o.asking == nil && o.writing == nil:
		o.resume(now)
	}
}

// Bounds of the pause between two tries to open the data set of a run that was taken over.
const (
	openPauseMin = time.Second
	openPauseMax = 10 * time.Second
)

// resume goes on from the record: after a takeover, or after a generation that could not be set up. It feeds again from
// the floor; publishing a job that is there changes nothing.
func (o *Owner) resume(now time.Time) {
	if version := o.cfg.Kinds[o.rec.Spec.Dataset]; o.rec.Spec.Version != version {
		o.fail(o.anotherVersion(version))
		return
	}
	d := o.ownData(now)
	if fault := o.failed(d); fault != nil {
		o.notHere(now, fmt.Sprintf("coordinator %s cannot open data set %s: %s",
			o.cfg.Name, o.rec.Spec.Dataset, fault.Message))
		return
	}
	if !d.open {
		return
	}
	if !d.isOf(o.rec.Origin) {
		o.standBack(now, d)
		return
	}
	if o.openPause > 0 {
		o.openPause, o.trouble = 0, ""
	}
	if o.forsaken == o.rec.Gen {
		o.look(now, ForLast)
		return
	}
	o.look(now, ForResume)
}

// notHere waits with a run that this machine cannot feed. That says nothing about the run, so it is no verdict.
func (o *Owner) notHere(now time.Time, trouble string) {
	o.openPause = min(max(2*o.openPause, openPauseMin), openPauseMax)
	o.retryAt = now.Add(o.openPause)
	o.trouble = trouble
	o.warn("run not resumed", "dataset", o.rec.Spec.Dataset, "error", trouble, "again", o.openPause.String())
	o.notify()
}

// anotherVersion is why a run of an earlier version of its data set does not go on: its states mean something else.
func (o *Owner) anotherVersion(version uint32) *schema.Fault {
	return &schema.Fault{Code: schema.CodeWrongState, Message: fmt.Sprintf(
		"data set %s is at version %d now, the run was at %d; start again", o.rec.Spec.Dataset, version, o.rec.Spec.Version)}
}

// resumeFrom feeds the record's generation again, whose stored results are done.
func (o *Owner) resumeFrom(now time.Time, done map[uint64]bool) {
	if d := o.ownData(now); !o.resumes || o.making != nil || !d.open || !d.isOf(o.rec.Origin) {
		return
	}
	w := window.New(o.rec.Floor, o.rec.FloorState, o.rec.Taken)
	w.FedBefore(fedBefore(o.rec.Taken, done))
	o.start(now, w)
	o.gen.done = done
	for seq := range done {
		if seq <= o.rec.Floor { // dropped by the record, and not by the store
			o.gen.purged = min(o.gen.purged, seq-1)
		}
	}
	o.info("generation resumed", "gen", o.rec.Gen, "taken", o.rec.Taken, "floor", o.rec.Floor, "results", len(done))
	o.notify() // a reader that waits for an owner need not wait longer
}

// fedBefore is how far jobs were out before a takeover, as results show: the trainer may be anywhere up to there, since
// its progress is recorded now and then. A result far beyond the others shows nothing; workers can store what they
// like.
func fedBefore(taken uint64, done map[uint64]bool) uint64 {
	furthest := taken
	for seq := range done {
		if seq <= taken+uint64(2*len(done))+wire.BlockSize {
			furthest = max(furthest, seq)
		}
	}
	return furthest
}

// start feeds the record's generation from the window on. Its data set is open.
func (o *Owner) start(now time.Time, w *window.Window) {
	o.silent, o.forsaken, o.looking = time.Time{}, "", [purposes]bool{}
	o.resumes, o.finished, o.save, o.saveTo = false, false, false, 0
	o.gen = &generation{Window: w, spec: o.rec.SpecDigest(), saved: o.rec.Taken, purged: o.rec.Floor, moved: now, lost: make(map[uint64]bool)}
	o.emit(Feed{o.rec.Gen, o.ownData(now).serial})
	o.announce()
	o.resize(now)
}

// halt stops feeding.
func (o *Owner) halt() {
	if o.gen != nil {
		o.gen = nil
		o.emit(Halt{})
	}
}

// discard ends a generation that the record does not name any more, or that failed. Workers are told, so that its jobs
// end and keep no slot.
func (o *Owner) discard(gen string) {
	o.halt()
	o.resumes = false
	o.silent, o.forsaken, o.looking = time.Time{}, "", [purposes]bool{}
	if gen != "" {
		o.emit(Announce{wire.Lane{Batcher: o.rec.Batcher, Gen: gen, Kind: o.KindToken(), Over: true}})
		o.emit(Discard{gen})
	}
}

// announce tells workers that there are jobs to pull.
func (o *Owner) announce() {
	if o.gen != nil {
		o.emit(Announce{wire.Lane{Batcher: o.rec.Batcher, Gen: o.rec.Gen, Kind: o.KindToken(), Floor: o.rec.Floor}})
	}
}
