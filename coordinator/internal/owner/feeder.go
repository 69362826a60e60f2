package owner

import (
	"cmp"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// feeder has the record's generation in memory, or knows that it is to be taken up.
type feeder struct {
	cfg    *Config
	out    *effects
	ledger *ledger
	ending *ending
	data   *datasets
	reader *reader
	ranks  *ranks
	store  *watch
	fleet  *Fleet
	count  *Counters

	gen     *generation // nil unless the phase is running or done and the generation is set up
	resumes bool        // the record's generation is not in memory yet, and is to be
	trouble string      // why it cannot be taken up on this machine; empty when it can
}

// start feeds the record's generation from the window on. Its data set is open.
func (f *feeder) start(now time.Time, w *window.Window) {
	rec := &f.ledger.rec
	f.store.reset()
	f.resumes, f.ending.finished = false, false
	f.gen = &generation{
		jobs: jobs{
			Window: w, out: f.out, reader: f.reader, gen: rec.Gen, spec: rec.SpecDigest(), lost: make(map[uint64]bool),
			skipped: w.Taken(),
		},
		cfg: f.cfg, ledger: f.ledger, ending: f.ending, ranks: f.ranks, fleet: f.fleet, count: f.count,
		late: lateness{moved: now}, saved: rec.Taken, purged: rec.Floor,
	}
	f.out.emit(Feed{rec.Gen, f.ownData(now).serial})
	f.announce(false)
	f.gen.resize(now)
}

// of returns the generation in memory if it has this name; nil if not.
func (f *feeder) of(gen string) *generation {
	if f.gen == nil || f.gen.gen != gen {
		return nil
	}
	return f.gen
}

// ownData is the data set of the record.
func (f *feeder) ownData(now time.Time) *data {
	return f.data.of(now, f.ledger.rec.Spec, f.ledger.key)
}

// halt stops feeding.
func (f *feeder) halt() {
	if f.gen != nil {
		f.gen = nil
		f.out.emit(Halt{})
	}
}

// discard ends a generation that the record does not name any more, or that failed. Workers are told, so that its jobs
// end and keep no slot.
func (f *feeder) discard(l lane) {
	f.halt()
	f.resumes = false
	f.store.reset()
	if l.gen != "" {
		f.out.emit(Announce{wire.Lane{Batcher: f.ledger.rec.Batcher, Gen: l.gen, Kind: l.kind, Over: true}})
		f.out.emit(Discard{l.gen})
	}
}

// announce tells workers that there are jobs to pull; unasked, that requests for them were lost.
func (f *feeder) announce(unasked bool) {
	if f.gen == nil {
		return
	}
	l := wire.Lane{
		Batcher: f.ledger.rec.Batcher, Gen: f.gen.gen, Kind: f.ledger.kindToken(), Floor: f.ledger.rec.Floor, Unasked: unasked,
	}
	if f.ledger.rec.Size > 0 { // a reader of its own has what it fetched
		l.Readers, l.Taken = f.ranks.present(), f.gen.Taken()
	}
	f.out.emit(Announce{l})
}

// resize sets the window to what workers and batch size allow.
func (f *feeder) resize(now time.Time) {
	if f.gen != nil {
		f.gen.resize(now)
	}
}

// unready is why nobody can be seated at a held state now; nil when one can.
func (f *feeder) unready() *schema.Fault {
	switch g := f.gen; {
	case g == nil:
		return unavailable("the run is not resumed yet")
	case f.store.isSilent():
		return unavailable("the store of results does not answer")
	case !g.settled:
		return unavailable("the run was taken over and is being iterated again from %d", g.Floor())
	}
	return nil
}

// repair looks after a late head: a job without a result is published again, which changes nothing while it is queued.
func (f *feeder) repair(now time.Time) {
	if f.gen != nil && f.gen.late.due(now) {
		f.lookForMissing()
	}
}

// lookForMissing looks for jobs without a result. What a look lists that is under way may be of before the reason for
// this one, so there is another one behind it.
func (f *feeder) lookForMissing() {
	began := f.store.look(ForRepair)
	switch {
	case f.gen == nil:
	case began:
		f.gen.listed, f.gen.relook = f.gen.Fed(), false
	default:
		f.gen.relook = true
	}
}

// blocked is why the record's run is not fed; empty when nothing is known to be in its way.
func (f *feeder) blocked() string {
	if f.trouble != "" {
		return f.trouble
	}
	return f.ledger.trouble
}

// suspended is why the workers that have the data set make no batches of it; empty when some do, or none has it.
func (f *feeder) suspended() string {
	if f.fleet.Suspended == "" {
		return ""
	}
	return "no worker can make batches of data set " + f.ledger.rec.Spec.Dataset + ": " + f.fleet.Suspended
}

// advance moves the window on when the slowest rank has come further, or none is in its way.
func (f *feeder) advance(now time.Time) {
	if g := f.gen; g != nil && g.advance(now) {
		g.pay()
		g.demand(now)
	}
}

// standing says how things stand for a reader, or a rank.
func (f *feeder) standing(now time.Time, at wire.Rank) wire.CreditReply {
	rec := &f.ledger.rec
	r := wire.CreditReply{
		Gen: rec.Gen, Seat: rec.Seat, Reader: rec.Reader, Phase: rec.Phase, Workers: f.fleet.Workers, Error: rec.Error,
		Trouble: cmp.Or(f.blocked(), f.suspended()),
	}
	if f.gen != nil {
		r.Window = f.gen.Limit()
	}
	if rec.Size > 0 {
		r.World = rec.Reader
		if slot, ok := rec.Slot(at); ok && at.Holder("") == rec.Reader {
			r.Rank, r.Seat, r.Reader = at, rec.Members[slot].Seat, rec.Members[slot].Reader
			r.World = rec.Reader
			r.Behind = f.ranks.awaited(now, slot)
		} else if rec.Shared() {
			r.Reader = "" // that of none of them
		}
	}
	return r
}

// notify tells the reader, or all ranks, how things stand.
func (f *feeder) notify() {
	r := f.standing(time.Time{}, wire.Rank{})
	if f.ledger.rec.Size > 0 {
		r.Reader = ""
	}
	f.out.emit(Notify{r})
}

// notifyRank tells all ranks which process has the slot of one of them, or the reader without a world that it has the
// seat.
func (f *feeder) notifyRank(now time.Time, at wire.Rank) { f.out.emit(Notify{f.standing(now, at)}) }

// taken is the sequence number that the trainer has come to.
func (f *feeder) taken() uint64 {
	if f.gen == nil {
		return f.ledger.rec.Taken
	}
	return f.gen.Taken()
}

// failRun ends the record's run with an error.
func (f *feeder) failRun(fault *schema.Fault) { f.ending.fail(f.ledger.rec.Gen, fault) }
