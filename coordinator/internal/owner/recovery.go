package owner

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// retryPause is between two tries to begin or to resume a generation.
const retryPause = 100 * time.Millisecond

// recovery brings the record's run back into memory: by resuming it after a takeover, or by a new generation in the
// place of one whose store was lost.
type recovery struct {
	cfg    *Config
	out    *effects
	ledger *ledger
	data   *datasets
	store  *watch
	ranks  *ranks
	feeder *feeder
	count  *Counters

	making    *making // a generation that takes the place of a lost one; nil for none
	retryAt   time.Time
	restarts  int           // generations begun because a store was lost
	unmade    int           // tries in a row to make one that came to nothing
	hindered  string        // why a lost generation could not be begun again
	openPause time.Duration // between two tries to open the data set of a run that was taken over
}

// making is a generation that takes the place of one whose store was lost.
type making struct {
	stage  stage
	lost   lane   // the generation before
	after  uint64 // its sequence number that the new one begins after, with some taken already
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

// retry takes up what could not be begun or resumed. A request that is under way may begin another generation.
func (r *recovery) retry(now time.Time, asking bool) {
	if now.Before(r.retryAt) {
		return
	}
	r.retryAt = now.Add(retryPause)
	switch {
	case r.feeder.gen != nil && r.store.isForsaken():
		r.store.look(ForLast)
	case r.feeder.resumes && r.making == nil && !asking && r.ledger.writing == nil:
		r.resume(now)
	}
}

// due is when retry is wanted; zero for not.
func (r *recovery) due() time.Time {
	if r.feeder.resumes || r.store.isForsaken() {
		return r.retryAt
	}
	return time.Time{}
}

// resume goes on from the record: after a takeover, or after a generation that could not be set up. It feeds again from
// the floor; publishing a job that is there changes nothing.
func (r *recovery) resume(now time.Time) {
	rec := &r.ledger.rec
	if version := r.cfg.Kinds[rec.Spec.Dataset]; rec.Spec.Version != version {
		r.feeder.failRun(anotherVersion(rec, version))
		return
	}
	d := r.feeder.ownData(now)
	if fault := r.data.failed(d); fault != nil {
		r.notHere(now, fmt.Sprintf("coordinator %s cannot open data set %s: %s", r.cfg.Name, rec.Spec.Dataset, fault.Message))
		return
	}
	if !d.open {
		return
	}
	if !d.isOf(rec.Origin) {
		r.standBack(now, d)
		return
	}
	r.openPause, r.feeder.trouble = 0, ""
	if r.store.isForsaken() {
		r.store.look(ForLast)
		return
	}
	r.store.look(ForResume)
}

// notHere waits with a run that this machine cannot feed. That says nothing about the run, so it is no verdict.
func (r *recovery) notHere(now time.Time, trouble string) {
	r.openPause = min(max(2*r.openPause, Beat), longestPause)
	r.retryAt = now.Add(r.openPause)
	r.feeder.trouble = trouble
	r.out.warn("run not resumed", "dataset", r.ledger.rec.Spec.Dataset, "error", trouble, "again", r.openPause.String())
	r.feeder.notify()
}

// standBack does not feed a run that was begun on other data than this machine has: a mixture of both would be of
// neither. The data set is opened again later.
func (r *recovery) standBack(now time.Time, d *data) {
	differences := r.data.differences(d, r.ledger.rec.Origin)
	if len(differences) == 0 {
		return // it is being found out
	}
	r.data.release(d)
	r.notHere(now, fmt.Sprintf("coordinator %s has other data than the run: %s", r.cfg.Name, strings.Join(differences, "; ")))
}

// anotherVersion is why a run of an earlier version of its data set does not go on: its states mean something else.
func anotherVersion(rec *wire.Record, version uint32) *schema.Fault {
	return &schema.Fault{Code: schema.CodeWrongState, Message: fmt.Sprintf(
		"data set %s is at version %d now, the run was at %d; start again", rec.Spec.Dataset, version, rec.Spec.Version)}
}

// resumeFrom feeds the record's generation again, whose stored results are done.
func (r *recovery) resumeFrom(now time.Time, done map[uint64]bool) {
	rec := &r.ledger.rec
	if d := r.feeder.ownData(now); !r.feeder.resumes || r.making != nil || !d.open || !d.isOf(rec.Origin) {
		return
	}
	w := window.New(rec.Floor, rec.FloorState, rec.Taken)
	w.FedBefore(max(fedBefore(rec.Taken, done), r.ranks.furthest()))
	r.feeder.start(now, w)
	r.feeder.gen.resumed(done)
	r.out.info("generation resumed", "gen", rec.Gen, "taken", rec.Taken, "floor", rec.Floor, "results", len(done))
	r.feeder.notify() // a reader that waits for an owner need not wait longer
}

// remake begins a new generation for the same reader, because the store of the last one is lost. Where a server may
// just have died, several generations are made at once and before the record: one of them is whole at once, while a
// cluster goes on giving streams to a dead server for some seconds.
func (r *recovery) remake(now time.Time, asking bool) {
	rec := &r.ledger.rec
	if rec.Phase != schema.PhaseRunning && (rec.Phase != schema.PhaseDone || rec.Size == 0 || len(r.ranks.there()) == 0) {
		r.feeder.resumes = false // a finished run needs no store, unless one of several comes again before the end
		return
	}
	if r.making != nil || asking {
		return // a request may begin another generation, else the loss is found again
	}
	d := r.feeder.ownData(now)
	if !d.open {
		return
	}
	if !d.isOf(rec.Origin) { // it was opened anew since the run began, and what was fed cannot be fed again from it
		r.feeder.halt()
		r.feeder.resumes = true
		return
	}
	r.making = &making{lost: r.ledger.lane()}
	r.out.emit(Ready{Anew: true})
}

// readied goes on when a generation can be made now, or says why it cannot.
func (r *recovery) readied(now time.Time, reason string) {
	switch m := r.making; {
	case m.stage != readying:
	case reason != "":
		r.unmake(now, reason)
	case r.cfg.Candidates > 1:
		m.stage, m.chosen = choosing, true
		gens := make([]string, r.cfg.Candidates)
		for i := range gens {
			gens[i] = r.cfg.NewGen()
		}
		r.out.emit(Make{Gens: gens, Patient: r.unmade >= 3})
	default:
		m.stage, m.gen = recording, r.cfg.NewGen()
	}
}

// made goes on when a generation has its store.
func (r *recovery) made(now time.Time, e Made) {
	switch m := r.making; m.stage {
	case choosing:
		if e.Reason != "" {
			r.unmade++
			r.unmake(now, e.Reason)
			return
		}
		r.unmade = 0
		m.stage, m.gen = recording, e.Gen
	case storing:
		if e.Reason != "" {
			r.unmake(now, e.Reason)
			return
		}
		r.start(now)
	}
}

// record puts a generation in the place of a lost one into the record, once nothing else is being recorded.
func (r *recovery) record(now time.Time) {
	m := r.making
	if m == nil || m.stage != recording || r.ledger.writing != nil {
		return
	}
	// After a takeover only the floor's state is known: positions up to the trainer's are iterated, and not made again.
	rec := &r.ledger.rec
	state, taken, holes := rec.FloorState, rec.Taken-rec.Floor, rec.Holes
	m.after = rec.Taken
	if g := r.feeder.gen; g != nil && g.Taken() <= g.Fed() {
		m.after, taken = g.Taken(), g.holes()
		state, holes = g.StateAfter(m.after-taken), taken
	}
	r.ledger.record(toBeginNew, func(next *wire.Record) {
		takenIn(next, r.feeder.gen)
		beginIn(now, next, m.gen, state, taken, holes)
	})
}

// beginIn turns a record into that of a new generation. The first taken positions after state are the trainer's
// already, holes at last.
func beginIn(now time.Time, r *wire.Record, gen string, state []byte, taken, holes uint64) {
	r.Gen, r.Phase, r.Since = gen, schema.PhaseRunning, now
	r.Floor, r.FloorState, r.Taken, r.Holes, r.Position = 0, state, taken, holes, taken+1
	r.Verdict, r.Error = nil, nil
}

// recorded goes on when the new generation is in the record.
func (r *recovery) recorded(now time.Time) {
	m := r.making
	r.ranks.renumber(m.after, r.ledger.rec.Taken) // now: without a store, resume takes the generation up
	r.feeder.discard(m.lost)
	r.count.Generations++
	if m.chosen {
		r.start(now)
		return
	}
	m.stage = storing
	r.out.emit(Make{Gens: []string{m.gen}})
}

// notRecorded gives the new generation up for now. The record may name it after silence: then it is not discarded, and
// the collector finds out.
func (r *recovery) notRecorded(now time.Time, outcome Outcome, reason string) {
	if outcome == Silent {
		r.making.chosen = false
	}
	r.unmake(now, reason)
}

func (r *recovery) start(now time.Time) {
	rec, lost := &r.ledger.rec, r.making.lost
	r.making, r.hindered = nil, ""
	r.restarts++
	r.out.warn("results were lost; generation begun again", "lost", lost.gen, "gen", rec.Gen)
	w := window.New(0, rec.FloorState, rec.Taken)
	w.FedBefore(r.ranks.furthest()) // or a rank that is ahead would find no place in a small window
	r.feeder.start(now, w)
	r.feeder.gen.settled = r.ranks.furthest() == 0
	r.feeder.notify()
}

// unmake gives a new generation up for now; it is tried again.
func (r *recovery) unmake(now time.Time, reason string) {
	m := r.making
	r.making = nil
	r.feeder.resumes = r.feeder.gen == nil
	if m.chosen && m.gen != "" && m.gen != r.ledger.rec.Gen {
		r.out.emit(Discard{m.gen})
	}
	r.later(now)
	if r.hindered != reason {
		r.hindered = reason
		r.out.retry("lost generation not begun again yet", "gen", r.ledger.rec.Gen, "error", reason)
	}
}

// later has the record's generation taken up after a pause.
func (r *recovery) later(now time.Time) { r.retryAt = now.Add(retryPause) }

// waits says why the record's generation is not in memory yet.
func (r *recovery) waits() *schema.Fault {
	if trouble := r.feeder.blocked(); trouble != "" {
		return unavailable("%s", trouble)
	}
	return unavailable("the run was taken over and is not resumed yet: %s",
		cmp.Or(r.hindered, r.store.hindered, "its store is being looked at"))
}
