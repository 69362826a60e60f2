// Package owner decides everything about one batcher: who holds the seat, which generation runs, what is fed, what may
// be dropped, and what the record says. It is a state machine: Step takes the time and an event and returns the effects
// that the shell is to carry out. Same input, same output: it starts no goroutine, reads no clock and knows no NATS.
//
// Step never waits. An effect that takes time ends in an event, and at most one change of the record is under way;
// requests wait for it here, in order. What was promised in an answer is in the record before the answer goes out.
//
// Owner is the conductor: it takes events to its parts and decides what is recorded next. The parts know only those
// below them:
//
//	Owner
//	  seats        what becomes of a request            recovery   a run that is resumed, or begun again
//	  requests     those that wait                      feeder     the record's generation, in memory or not
//	  answers      that are confirmed first             generation what is fed, taken, dropped; how it ends
//	                                                    jobs       which are out; iterator, lateness, room
//	  reader       as last heard                        watch      over the store of results
//	  roster       what becomes of a rank's request     ranks      of the world, and how far each is
//	  sharing      the same where several share a run   readers    which of them do
//	  stops        requests that end a run
//	  ledger       the record and its change            ending     of a run, until it is recorded
//	                                                    datasets   opened, or under way
package owner

import (
	"cmp"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Beat is how often the owner says that there are jobs, and looks after what is late.
const Beat = time.Second

// longestPause is between two tries of what goes on failing, or goes on being late.
const longestPause = 10 * time.Second

// Config is what an owner knows of its surroundings. It does not change.
type Config struct {
	Name        string            // of the coordinator
	Kinds       map[string]uint32 // its data sets and their versions
	ReaderLease time.Duration     // how long a reader may be silent before another may open the batcher
	Stall       time.Duration     // how long Next, or Start, may take
	Candidates  int               // generations made at once where a store was lost
	NewGen      func() string     // names a generation
	// MaxPayload is the largest message that the server takes.
	MaxPayload func() int64
}

// Owner is what the owner of a batcher has in memory. It is not safe for concurrent use.
type Owner struct {
	cfg *Config
	out *effects // of the Step under way

	ledger   *ledger
	ending   *ending
	data     *datasets
	reader   *reader
	ranks    *ranks
	store    *watch
	feeder   *feeder
	recovery *recovery
	requests *requests
	stops    *stops
	readers  *readers
	seats    *seats

	fleet   *Fleet    // that serves the data set
	beatAt  time.Time // of the next beat
	backups uint64
	count   *Counters
	over    bool // deposed or collected: nothing more is done
}

// New returns the owner of the batcher whose record, at a revision, names this coordinator; key is that of its Spec.
// Its first Tick resumes the run, if there is one.
func New(now time.Time, cfg Config, rec wire.Record, revision uint64, key wire.Digest) *Owner {
	o := &Owner{
		cfg: &cfg, out: new(effects), ending: new(ending), fleet: new(Fleet), count: new(Counters), beatAt: now.Add(Beat),
	}
	o.ledger = &ledger{out: o.out, rec: rec, rev: revision, key: key}
	o.data = &datasets{out: o.out}
	o.reader = &reader{ledger: o.ledger, heard: now}
	o.ranks = &ranks{ledger: o.ledger}
	o.ranks.reset(now, rec.Taken, rec.Holes)
	o.store = &watch{out: o.out, ledger: o.ledger}
	o.feeder = &feeder{
		cfg: o.cfg, out: o.out, ledger: o.ledger, ending: o.ending, data: o.data, reader: o.reader, ranks: o.ranks,
		store: o.store,
		fleet: o.fleet, count: o.count, resumes: rec.Phase == schema.PhaseRunning || rec.Phase == schema.PhaseDone,
	}
	o.recovery = &recovery{
		cfg: o.cfg, out: o.out, ledger: o.ledger, data: o.data, store: o.store, ranks: o.ranks, feeder: o.feeder, count: o.count,
		retryAt: now,
	}
	o.requests = &requests{out: o.out, answers: &answers{out: o.out}}
	o.readers = &readers{cfg: o.cfg, out: o.out, ledger: o.ledger, ranks: o.ranks, feeder: o.feeder, count: o.count}
	o.stops = &stops{
		out: o.out, ledger: o.ledger, ending: o.ending, ranks: o.ranks, feeder: o.feeder, readers: o.readers,
		requests: o.requests,
	}
	shared := &sharing{
		ledger: o.ledger, ending: o.ending, ranks: o.ranks, feeder: o.feeder, readers: o.readers, requests: o.requests,
	}
	o.seats = &seats{
		cfg: o.cfg, out: o.out, ledger: o.ledger, ending: o.ending, data: o.data, reader: o.reader, ranks: o.ranks, feeder: o.feeder,
		recovery: o.recovery, requests: o.requests, stops: o.stops, count: o.count,
		roster: &roster{cfg: o.cfg, ledger: o.ledger, ranks: o.ranks, feeder: o.feeder}, readers: o.readers,
		sharing: shared,
	}
	return o
}

// Step takes an event and returns what is to be done; the slice is good until the next Step.
func (o *Owner) Step(now time.Time, e Event) []Effect {
	*o.out = (*o.out)[:0]
	if o.over {
		o.refuseLate(e)
		return *o.out
	}
	switch e := e.(type) {
	case Tick:
	case Fleet:
		*o.fleet = e
		o.feeder.announce(false)
		o.feeder.resize(now)
	case SeatAsked:
		o.requests.add(&asking{token: e.Token, seat: e.Request, key: e.Key, asked: now}, o.ledger.rec.Batcher)
	case StopAsked:
		o.askedToStop(now, e)
	case EndAsked:
		o.requests.add(&asking{token: e.Token, end: &e, asked: now}, o.ledger.rec.Batcher)
	case Credited:
		o.credited(now, e)
	case Reported:
		o.reported(now, e.Report)
	case Produced:
		if g := o.feeder.of(e.Gen); g != nil {
			g.produced(now, e)
		}
	case Crowded:
		o.crowded(now)
	case Reconnected:
		o.reconnected(now)
	case Deposed:
		o.depose(e.Owner)
	case Damaged:
		o.ledger.damaged = true
	case Recorded:
		o.recorded(now, e)
	case Retired:
		o.retired(now, e)
	case Confirmed:
		if o.requests.answers.confirmed(o.cfg.Name, o.ledger.rec.Batcher, e) {
			o.depose(e.Owner)
		}
	case Opened:
		if o.data.opened(e) {
			o.recovery.retryAt = now
		}
	case Compared:
		if o.data.compared(e) {
			o.recovery.retryAt = now
		}
	case Rebased:
		if a := o.requests.asking; a != nil && a.rebasing == e.Serial {
			a.rebasing, a.rebased = 0, &e
		}
	case FirstKnown:
		o.data.firstKnown(e)
	case Readied:
		if o.recovery.making != nil {
			o.recovery.readied(now, e.Reason)
		} else {
			o.seats.readied(e.Reason)
		}
	case Made:
		if o.recovery.making != nil {
			o.recovery.made(now, e)
		} else {
			o.seats.made(now, e.Reason)
		}
	case Looked:
		o.looked(now, e)
	case Probed:
		if o.store.probed(e) && o.feeder.gen != nil {
			o.feeder.lookForMissing()
		}
	case Removed:
		if g := o.feeder.of(e.Gen); g != nil {
			g.removed(e.Removed)
		}
	case Cancelled:
		if g := o.feeder.of(e.Gen); g != nil && g.cancelled() {
			o.feeder.lookForMissing() // what was missing before may be there by now
		}
	case VerdictStored:
		if g := o.feeder.of(e.Gen); g != nil {
			g.verdictStored(e)
		}
	default:
		panic(fmt.Sprintf("owner: unknown event %T", e))
	}
	o.goOn(now)
	return *o.out
}

// goOn does what has become possible or due.
func (o *Owner) goOn(now time.Time) {
	if o.over {
		return
	}
	if !now.Before(o.beatAt) {
		o.beatAt = now.Add(Beat)
		o.beat(now)
	}
	o.recovery.retry(now, o.requests.asking != nil)
	o.recovery.record(now)
	o.seats.carryOn(now)
	o.write(now)
}

// Due is when the next Tick is wanted at the latest.
func (o *Owner) Due() time.Time {
	due := o.beatAt
	for _, t := range []time.Time{o.recovery.due(), o.seats.due()} {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	return due
}

// Over reports whether the batcher is another's or is collected.
func (o *Owner) Over() bool { return o.over }

// KindToken is the subject token of the batcher's data set.
func (o *Owner) KindToken() string { return o.ledger.kindToken() }

// Run is what workers need to serve the generation in the record.
func (o *Owner) Run() wire.Run { return o.ledger.rec.Run() }

// TookUp reports whether the generation in memory was begun before this owner was: workers may serve it for another.
func (o *Owner) TookUp() bool { return o.feeder.gen != nil && o.feeder.gen.tookUp }

// Gen names the generation in the record; empty for none.
func (o *Owner) Gen() string { return o.ledger.rec.Gen }

// beat does what is due every second.
func (o *Owner) beat(now time.Time) {
	if now.Sub(o.reader.heard) > IdleTimeout(o.ledger.rec.Settings) {
		o.retire()
		return
	}
	g := o.feeder.gen
	if g == nil {
		return
	}
	o.ranks.count(now)
	if fault := cmp.Or(o.ranks.overdue(), o.ranks.lost()); fault != nil && o.ledger.rec.Phase == schema.PhaseRunning {
		o.feeder.failRun(fault)
	}
	if g.waits(now) {
		o.store.feel()
	}
	if o.store.isSilent() {
		o.feeder.lookForMissing()
	}
	if g.late.wanted {
		o.feeder.repair(now)
	}
	o.feeder.announce(false)
	if g.Taken() != g.saved {
		g.save = true
	}
	if !o.store.isSilent() && g.sweepDue(now) {
		o.store.look(ForSweep)
	}
	g.watchIterator(now)
	g.conclude()
	g.resize(now)
}

// askedToStop takes a request to stop. A reader that stops or leaves says once more how far it came.
func (o *Owner) askedToStop(now time.Time, e StopAsked) {
	added := o.requests.add(&asking{token: e.Token, stop: e.Request, asked: now}, o.ledger.rec.Batcher)
	last := e.Request.Last
	if added && last != nil && last.Reader == e.Request.Reader && last.Rank == e.Request.Rank { // not another's word
		o.credit(now, e.Request.Last)
	}
}

// reconnected looks at once after what may have been lost with the connection.
func (o *Owner) reconnected(now time.Time) {
	o.beatAt = now
	if g := o.feeder.gen; g != nil {
		g.late.atOnce()
		o.feeder.repair(now)
	}
}

// depose ends the owner because the record names another.
func (o *Owner) depose(owner string) {
	if owner == o.cfg.Name || o.over {
		return
	}
	o.out.info("batcher is another's now", "owner", owner)
	o.letGo()
}

// letGo lets go of everything in memory. Nothing stored is touched.
func (o *Owner) letGo() {
	o.over = true
	o.feeder.halt()
	o.data.releaseAll()
	o.requests.redirect()
}

// refuseLate answers what still comes when the owner is over.
func (o *Owner) refuseLate(e Event) {
	switch e := e.(type) {
	case SeatAsked:
		o.out.emit(ReplySeat{e.Token, wire.SeatReply{Fault: changingHands}})
	case StopAsked:
		o.out.emit(ReplyStop{e.Token, wire.StopReply{Fault: changingHands}})
	case EndAsked:
		o.out.emit(ReplyStop{e.Token, wire.StopReply{Fault: changingHands}})
	case Opened:
		if e.Fault == nil {
			o.out.emit(Release{e.Serial})
		}
	}
}
