// Package owner decides everything about one batcher: who holds the seat, which generation runs, what is fed, what may
// be dropped, and what the record says. It is a state machine: Step takes the time and an event and returns the effects
// that the shell is to carry out. Same input, same output: it starts no goroutine, reads no clock and knows no NATS.
//
// Step never waits. An effect that takes time ends in an event, and at most one change of the record is under way;
// requests wait for it here, in order. What was promised in an answer is in the record before the answer goes out.
//
// Files: owner.go the events and their order; write.go the record; seat.go requests; data.go opened data sets;
// generation.go generations and what is fed; credit.go progress; store.go a store that is late, silent, full or gone.
package owner

import (
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Times of the owner. Those of the store are in store.go.
const (
	// Beat is how often the owner says that there are jobs, and looks after what is late.
	Beat = time.Second
	// retryPause is between two tries to begin or to resume a generation.
	retryPause = 100 * time.Millisecond
	// savePause is how long progress is not recorded after a server did not answer.
	savePause = 4 * time.Second
	// openPatience is how long a request waits for a data set that is being opened, until it is told so.
	openPatience = 2 * time.Second
)

// maxQueued is how many requests may wait; one more is told to ask again.
const maxQueued = 64

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
	cfg Config
	out []Effect // of the Step under way

	rec  wire.Record // as stored last
	key  wire.Digest // of its Spec
	rev  uint64
	over bool // deposed or collected: nothing more is done

	unwanted bool // no reader was ever seated, and the first request was refused: the record is to be deleted

	// The record: the change under way, and those that wait.
	writing  *change
	failing  *failure // to be recorded
	damaged  bool     // it is to be written anew as it was
	finished bool     // the trainer has everything up to the end of the data
	told     []Token  // credits that are answered when the end of the run is recorded
	save     bool     // progress is to be recorded
	saveTo   uint64   // the floor that it is to have at least; 0 for none
	unsaved  time.Time
	trouble  string    // why the record could not be changed last; empty when it could
	writeAt  time.Time // until then nothing is recorded in the background

	// Requests: the one being carried out and those that wait; answers that must not go out unless this coordinator
	// owns the batcher still.
	asked      []*asking
	asking     *asking
	doubtful   []Effect // answers to be confirmed by the Confirm after the one under way
	confirming []Effect // answers to be confirmed by the one under way; nil for none under way

	data   []*data // opened data sets, or under way
	serial uint64  // of the last one

	gen       *generation // nil unless the phase is running or done and the generation is set up
	resumes   bool        // the record's generation is not in memory yet, and is to be
	making    *making     // a generation that is being set up without a request
	retryAt   time.Time   // of what could not be begun or resumed
	restarts  int         // generations begun because a store was lost
	unmade    int         // tries in a row to make one that came to nothing
	hindered  string      // why a lost generation could not be begun again
	openPause time.Duration

	// The reader, as last heard.
	heard     time.Time
	last      wire.Credit
	lateSince time.Time
	trace     string
	rate      rate
	need      need
	runs      runs

	// The store of results.
	looking  [purposes]bool // Looks under way, at the record's generation
	probing  bool
	silent   time.Time // since when it has not answered; zero when it has
	forsaken string    // the generation whose store was silent for too long

	workers, slots int // that serve the data set
	beatAt         time.Time
	backups        uint64
	count          Counters
}

// Counters counts what an owner did, for metrics.
type Counters struct {
	Taken       uint64 // positions that the trainer moved past
	Fed         uint64 // jobs published for the first time
	Generations uint64 // begun
	Held        uint64 // seats at a state that was held
	Timing      schema.Timing
	Bytes       int64

	reader    string // whose sums these are, as last heard
	total     schema.Timing
	totalSize int64
}

// New returns the owner of the batcher whose record, at a revision, names this coordinator; key is that of its Spec.
// Its first Tick resumes the run, if there is one.
func New(now time.Time, cfg Config, rec wire.Record, revision uint64, key wire.Digest) *Owner {
	resumes := rec.Phase == schema.PhaseRunning || rec.Phase == schema.PhaseDone
	return &Owner{cfg: cfg, rec: rec, rev: revision, key: key, heard: now, retryAt: now, beatAt: now.Add(Beat), resumes: resumes}
}

// Step takes an event and returns what is to be done; the slice is good until the next Step.
func (o *Owner) Step(now time.Time, e Event) []Effect {
	o.out = o.out[:0]
	if o.over {
		o.refuseLate(e)
		return o.out
	}
	switch e := e.(type) {
	case Tick:
	case Fleet:
		o.workers, o.slots = e.Workers, e.Slots
		o.announce()
		o.resize(now)
	case SeatAsked:
		o.ask(&asking{token: e.Token, seat: e.Request, key: e.Key, asked: now})
	case StopAsked:
		o.ask(&asking{token: e.Token, stop: e.Request, asked: now})
	case EndAsked:
		o.ask(&asking{token: e.Token, end: &e, asked: now})
	case Credited:
		o.credited(now, e)
	case Reported:
		o.reported(now, e.Report)
	case Produced:
		o.produced(now, e)
	case Crowded:
		o.crowded(now)
	case Reconnected:
		o.beatAt = now
		o.repairNow(now)
	case Deposed:
		o.depose(e.Owner)
	case Damaged:
		o.damaged = true
	case Recorded:
		o.recorded(now, e)
	case Retired:
		o.retired(now, e)
	case Confirmed:
		o.confirmed(e)
	case Opened:
		o.openedData(now, e)
	case Compared:
		o.compared(now, e)
	case Begun:
		o.begun(e)
	case Readied:
		o.readied(now, e.Reason)
	case Made:
		o.made(now, e)
	case Looked:
		o.looked(now, e)
	case Probed:
		o.probed(now, e)
	case Removed:
		o.removed(e)
	case Cancelled:
		o.cancelled(now, e)
	case VerdictStored:
		o.verdictStored(e)
	default:
		panic(fmt.Sprintf("owner: unknown event %T", e))
	}
	o.goOn(now)
	return o.out
}

// goOn does what has become possible or due.
func (o *Owner) goOn(now time.Time) {
	if !o.over && !now.Before(o.beatAt) {
		o.beatAt = now.Add(Beat)
		o.beat(now)
	}
	if !o.over && !now.Before(o.retryAt) {
		o.retryAt = now.Add(retryPause)
		o.retry(now)
	}
	o.makeOn(now)
	o.carryOn(now)
	o.write(now)
}

// Due is when the next Tick is wanted at the latest.
func (o *Owner) Due() time.Time {
	due := o.beatAt
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	if o.resumes || o.forsaken != "" && o.forsaken == o.rec.Gen {
		sooner(o.retryAt)
	}
	if a := o.asking; a != nil && !a.patience.IsZero() {
		sooner(a.patience)
	} else if a == nil && len(o.asked) > 0 && o.resumes {
		sooner(o.asked[0].asked.Add(openPatience))
	}
	return due
}

// Over reports whether the batcher is another's or is collected.
func (o *Owner) Over() bool { return o.over }

// KindToken is the subject token of the batcher's data set.
func (o *Owner) KindToken() string { return wire.KindToken(o.rec.Spec.Dataset, o.rec.Spec.Version) }

// Batcher is the batcher's name.
func (o *Owner) Batcher() string { return o.rec.Batcher }

// Gen names the generation in the record; empty for none.
func (o *Owner) Gen() string { return o.rec.Gen }

func (o *Owner) emit(e Effect) { o.out = append(o.out, e) }

func (o *Owner) info(text string, args ...any) { o.emit(Log{Text: text, Args: args}) }
func (o *Owner) warn(text string, args ...any) { o.emit(Log{Warn: true, Text: text, Args: args}) }

// beat does what is due every second.
func (o *Owner) beat(now time.Time) {
	if now.Sub(o.heard) > IdleTimeout(o.rec.Settings) {
		o.retire()
		return
	}
	g := o.gen
	if g == nil {
		return
	}
	o.feel(now)
	if !o.silent.IsZero() {
		o.look(now, ForRepair)
	}
	o.announce()
	if g.Taken() != g.saved {
		o.save = true
	}
	o.sweep(now)
	o.watchIterator(now)
	o.conclude()
	o.resize(now)
}

// held reports whether a live reader holds the seat.
func (o *Owner) held(now time.Time) bool {
	return o.rec.Reader != "" && now.Sub(o.heard) < o.cfg.ReaderLease
}

// depose ends the owner because the record names another.
func (o *Owner) depose(owner string) {
	if owner == o.cfg.Name || o.over {
		return
	}
	o.info("batcher is another's now", "owner", owner)
	o.end()
}

// end lets go of everything in memory. Nothing stored is touched.
func (o *Owner) end() {
	o.over = true
	o.halt()
	o.forget(func(*data) bool { return false })
	waiting := o.asked
	if o.asking != nil {
		waiting = append(waiting, o.asking)
	}
	for _, a := range waiting {
		o.answer(a, changingHands)
	}
	for _, reply := range append(o.confirming, o.doubtful...) {
		switch r := reply.(type) {
		case ReplySeat:
			o.emit(ReplySeat{r.Token, wire.SeatReply{Fault: changingHands}})
		case ReplyStop:
			o.emit(ReplyStop{r.Token, wire.StopReply{Fault: changingHands}})
		}
	}
	o.asked, o.asking, o.doubtful, o.confirming = nil, nil, nil, nil
}

// changingHands is answered to requests that a coordinator cannot carry out any more.
var changingHands = &schema.Fault{Code: schema.CodeUnavailable, Message: "the batcher is changing hands"}

// refuseLate answers what still comes when the owner is over.
func (o *Owner) refuseLate(e Event) {
	switch e := e.(type) {
	case SeatAsked:
		o.emit(ReplySeat{e.Token, wire.SeatReply{Fault: changingHands}})
	case StopAsked:
		o.emit(ReplyStop{e.Token, wire.StopReply{Fault: changingHands}})
	case EndAsked:
		o.emit(ReplyStop{e.Token, wire.StopReply{Fault: changingHands}})
	case Opened:
		if e.Fault == nil {
			o.emit(Release{e.Serial})
		}
	}
}

func unavailable(format string, args ...any) *schema.Fault {
	return &schema.Fault{Code: schema.CodeUnavailable, Message: fmt.Sprintf(format, args...)}
}
