package client

import (
	"bytes"
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// span is how far ahead of the head a result may be; the owner's window is far below it.
const span = 1 << 16

// line is the line of batches before the trainer: where it begins, what is here of it, and what was taken. Its parts
// are plain values. mu guards them, and is never held over a callback of the user's or over what may wait.
type line struct {
	cfg     *Config
	id      string // of this reader, by secret
	secret  string
	run     *run
	owner   *standing
	link    *link
	changed *news // something that Take may wait for

	mu       sync.Mutex
	seat     seat
	window   int
	buf      reorder.Buffer[arrival]
	sess     *session // reads the seat's generation; nil when none is read
	lost     losses
	doubted  *wire.Result // that Take did not believe last; nil for none
	late     straggler
	holes    []byte // the state that the trainer is at, where nothing but holes lies from there to the head; nil for none
	past     uint64 // how many there are
	ended    bool   // it is past the end of the data, which is no hole, and leaves no state either
	taken    uint64 // positions that the trainer is past, the end of the data among them
	tally    tally
	waiting  string    // what Take waits for
	stranded bool      // the seat's generation was begun again, and the owner does not know where this reader is
	asking   string    // the request for a move that a rank waits for; empty for none
	overdue  bool      // for so long that the owner should look
	met      met       // what became of the head's job so far
	trace    string    // of the Take or Start that is under way, or was last
	sought   uint64    // the position that the last Peek did not find; 0 for none
	dropped  []payload // that left buf without being taken; unlock hands them back
}

// unlock lets go of mu, and hands back the payloads that were dropped meanwhile, which may wait.
func (l *line) unlock() {
	dropped := l.dropped
	l.dropped = nil
	l.mu.Unlock()
	for _, p := range dropped {
		p.release()
	}
}

// drop is told of what leaves buf without being taken. Called with mu held, which unlock then lets go of.
func (l *line) drop(a arrival) {
	if a.payload.lent != nil {
		l.dropped = append(l.dropped, a.payload)
	}
}

// clear drops all that is here, of which nothing will be taken.
func (l *line) clear() {
	l.mu.Lock()
	defer l.unlock()
	l.buf.Clear()
}

// met says what became of the executions of a job that has no result yet.
type met struct {
	gen  string
	seq  uint64
	text string // empty when nothing is known
}

// seat is the right to take as this reader knows it.
type seat struct {
	gen     string
	number  uint64
	version uint32       // of the data set
	origin  string       // of its parameters and data; empty for unknown
	spec    wire.Digest  // of what the generation is of
	zero    schema.State // what the zero state means; itself zero while not known
	sat     time.Time    // when it was ours
}

// arrival is what the line keeps with a record.
type arrival struct {
	payload payload
	direct  bool      // it came from its worker
	stored  time.Time // by the server's clock
	came    time.Time // the record, by ours
	arrived time.Time // complete, by ours
	sat     time.Time // when the seat was ours that it was read for
	trace   string    // of the Take that let the job out
}

// place is where a state is, as seen from the line.
type place uint8

const (
	unstarted place = iota // no run is read
	atHead                 // the head follows from it
	elsewhere
)

// find says where a state is, or what ended the run. trace is of the call that asks.
func (l *line) find(state schema.State, trace string) (place, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trace = trace
	_, begun, err := l.run.status()
	switch {
	case err != nil && !isEnd(err):
		return unstarted, err
	case !begun:
		return unstarted, nil
	case l.isHead(state):
		return atHead, nil
	}
	return elsewhere, nil
}

// isHead reports whether the head of the line follows from a state. Called with mu held.
func (l *line) isHead(s schema.State) bool {
	if s.IsZero() {
		if l.seat.zero.IsZero() {
			return false
		}
		s = l.seat.zero
	}
	if s.Dataset != "" && (s.Dataset != l.cfg.Dataset || s.Version != l.seat.version) ||
		s.Origin != "" && s.Origin != l.seat.origin {
		return false
	}
	return bytes.Equal(s.Data, l.buf.State()) || l.holes != nil && bytes.Equal(s.Data, l.holes)
}

// head returns the state before the head, and where it is.
func (l *line) head() (state schema.State, gen string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	state = schema.State{
		Dataset: l.cfg.Dataset, Version: l.seat.version, Origin: l.seat.origin, Data: bytes.Clone(l.buf.State()),
	}
	return state, l.seat.gen, l.buf.Head()
}

// sight is what Take finds at the head of the line.
type sight struct {
	err    error        // what ended the run
	doubt  bool         // the seat has to be asked for
	failed *wire.Result // an error that FailFast brings forward

	outcome reorder.Outcome
	entry   reorder.Entry[arrival]

	// While nothing can be taken:
	straggle time.Time // when the head is a straggler; zero for never
	sess     *session
}

// look says what Take can do: at most one of err, doubt and failed is set, else the outcome counts. waited is for how
// long Take has been at it.
func (l *line) look(now time.Time, waited time.Duration) (s sight) {
	l.mu.Lock()
	defer l.unlock()
	s.entry, s.outcome = l.buf.Look()
	switch {
	case s.outcome == reorder.Broken:
		l.run.suspect(fmt.Sprintf("batch %d does not follow from the state before it", s.entry.Result.Seq), life.Stored)
		l.buf.Forget(s.entry.Result)
		l.doubted = s.entry.Result
	case s.outcome < reorder.Batch && waited > lookAgain && l.owner.silentFor(now) > silence:
		// No owner feeds this batcher, as far as is known here; a coordinator that can will answer a request for a
		// seat.
		l.run.suspect("the owner does not answer", life.Silent)
	}
	if s.doubt, s.err = l.run.doubting(); s.err != nil || s.doubt {
		return s
	}
	if l.cfg.OnError == FailFast {
		if s.failed, _ = l.buf.FirstError(); s.failed != nil {
			return s
		}
	}
	if s.outcome < reorder.Batch {
		s.straggle, s.sess = l.late.at(&l.buf), l.sess
	}
	return s
}

// ahead looks for the batch that follows a state without taking it, and returns what names the states of the seat. The
// error says that only Take finds out what comes next.
func (l *line) ahead(asked schema.State) (entry reorder.Entry[arrival], named schema.State, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	doubt, err := l.run.doubting()
	if err != nil {
		return entry, named, false, err
	}
	_, failed := l.buf.FirstError()
	named = schema.State{Dataset: l.cfg.Dataset, Version: l.seat.version, Origin: l.seat.origin}
	foreign := asked.Dataset != named.Dataset || asked.Version != named.Version || asked.Origin != named.Origin
	if doubt || l.sess == nil || failed && l.cfg.OnError == FailFast || foreign && !l.isHead(asked) {
		return entry, named, false, l.cfg.errUnforeseen()
	}
	if asked.IsZero() {
		asked.Data = l.buf.State()
	}
	entry, l.sought = l.buf.Ahead(asked.Data)
	return entry, named, entry.Result != nil, nil
}

// moot reports whether the head has arrived, and returns what is closed when that may have changed.
func (l *line) moot() (bool, <-chan struct{}) {
	changed := l.changed.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	_, outcome := l.buf.Look()
	return outcome >= reorder.Batch, changed
}

// lacks names what the head lacks.
func (l *line) lacks(now time.Time) string {
	down := l.link.down() // may wait for the client library, which is writing
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, outcome := l.buf.Look(); outcome == reorder.Fetching {
		return fmt.Sprintf("the payload of batch %d of generation %s is being fetched", l.buf.Head(), l.seat.gen)
	}
	text := fmt.Sprintf("batch %d of generation %s is not committed", l.buf.Head(), l.seat.gen)
	if l.met.text != "" && l.met.seq == l.buf.Head() && l.met.gen == l.seat.gen {
		text += "; " + l.met.text
	}
	if n := l.tally.holesInARow; n > 0 {
		holes := fmt.Sprintf("the data set makes only holes since batch %d, %d of them", l.buf.Head()-n, n)
		if l.tally.lastHole != "" {
			holes += " (the last: " + l.tally.lastHole + ")"
		}
		text = holes + "; " + text
	}
	if why := cmp.Or(down, l.owner.text(now), l.owner.others()); why != "" {
		text += "; " + why
	}
	return text
}

// note says what Take waits for, for the owner to hear.
func (l *line) note(what string, overdue bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting, l.overdue = what, overdue
}

// tracing returns the trace context of the Take or Start that is under way.
func (l *line) tracing() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.trace
}

// hold notes that the batcher is held, and not started by this handle.
func (l *line) hold(reply *wire.SeatReply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seat.gen, l.seat.number, l.window = reply.Gen, reply.Seat, min(max(reply.Window, 0), span)
	l.owner.set(reply.Phase)
	l.run.revive()
}

// reading returns the session that reads a generation, nil if none does.
func (l *line) reading(gen string) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sess != nil && l.seat.gen == gen && l.sess.ctx.Err() == nil {
		return l.sess
	}
	return nil
}

// sit makes the seat of a reply this reader's; sess reads its generation. first says that the data set's first state
// was asked for. What ended the run meanwhile is the error.
func (l *line) sit(reply *wire.SeatReply, first bool, sess *session) error {
	l.mu.Lock()
	defer l.unlock()
	if err := l.run.sit(); err != nil {
		return err
	}
	now := time.Now()
	zero := l.seat.zero
	if first {
		zero = reply.State.Clone()
	}
	l.seat = seat{
		gen: reply.Gen, number: reply.Seat, version: reply.State.Version, origin: reply.State.Origin, spec: reply.Spec,
		zero: zero, sat: now,
	}
	l.window = min(max(reply.Window, 1), span)
	l.owner.set(schema.PhaseRunning)
	l.owner.answered()
	l.taken, l.tally.sinceCredit, l.tally.holesInARow = reply.Position-1, 0, 0
	l.late.reset()
	l.stranded, l.ended = false, false
	if !bytes.Equal(reply.State.Data, l.buf.State()) { // else it is a repair: the trainer is where it was
		l.holes, l.past = nil, 0
	}
	if l.sess == sess {
		l.buf.Seek(reply.Position, reply.State.Data)
		l.late.uncover(&l.buf, l.window, now)
		sess.sweepNow.give()
		sess.payloads.claimNow.give()
		return nil
	}
	if l.sess != nil {
		l.sess.cancel()
	}
	l.buf.Reset(reply.Position, reply.State.Data, max(span, 2*l.window))
	l.sess, l.lost = sess, make(losses)
	sess.start()
	return nil
}

// within runs f with mu held if s is what reads the line's generation, and reports whether it did.
func (l *line) within(s *session, f func()) bool {
	l.mu.Lock()
	defer l.unlock()
	if l.sess != s || s.ctx.Err() != nil {
		return false
	}
	f()
	return true
}

// close ends the handle: it reports whether that is news, and whether another reader has the seat. After it no session
// begins.
func (l *line) close() (news, superseded bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.run.close()
}

// nudge has the session, if there is one, read all that is missing.
func (l *line) nudge() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sess != nil {
		l.sess.sweepNow.give()
	}
}

// disbelieve drops a record that Take does not believe, and raises a doubt.
func (l *line) disbelieve(res *wire.Result, why string) {
	l.mu.Lock()
	defer l.unlock()
	l.buf.Forget(res)
	l.doubted = res
	l.run.suspect(why, life.Stored)
}

// giveUp has the batch at the head made again, whose record goes on being doubted.
func (l *line) giveUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doubted != nil && l.doubted.Seq == l.buf.Head() && l.doubted.Attempt != "" && l.lost != nil {
		l.lost.add(l.doubted)
	}
	l.doubted = nil
}

// amend adds to the owner's word what Take has returned and the owner has not heard of.
func (l *line) amend(s *schema.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.Gen != l.seat.gen || s.Phase != schema.PhaseRunning {
		return
	}
	switch fault, _, err := l.run.status(); {
	case isEnd(err):
		s.Phase = schema.PhaseDone
	case fault != nil:
		f := *fault
		s.Phase, s.Error = schema.PhaseFailed, &f
	}
}

// deliver counts a batch and moves past it. It returns what names the states of the seat, and whether a credit is due.
func (l *line) deliver(
	entry *reorder.Entry[arrival], timing *schema.Timing, began, now time.Time,
) (named schema.State, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.batch(entry, timing, began, now)
	res, got := entry.Result, &entry.Value
	// A payload took about as long on its way into the store as out of it.
	l.late.pace.Observe(res.Worker, int64(stage(stage(res.Materialize)+got.arrived.Sub(got.came))))
	l.run.progress()
	l.holes, l.past = nil, 0
	named = schema.State{Dataset: l.cfg.Dataset, Version: l.seat.version, Origin: l.seat.origin}
	return named, l.advance(entry, now)
}

// pass counts a hole and moves past it. It reports whether a credit is due.
func (l *line) pass(entry *reorder.Entry[arrival], now time.Time) (due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.hole(entry.Result)
	from := l.holes
	if from == nil {
		from = bytes.Clone(l.buf.State())
	}
	due = l.advance(entry, now)
	if l.buf.Head() == entry.Result.Seq+1 {
		l.holes = from
		l.past++
	}
	return due
}

// advance moves past the head, and reports whether a credit is due. Called with mu held.
func (l *line) advance(entry *reorder.Entry[arrival], now time.Time) (due bool) {
	if head, _ := l.buf.Look(); head.Result != entry.Result || !l.buf.Advance() {
		return false // the run was stopped or seated elsewhere meanwhile
	}
	l.taken = entry.Result.Seq
	l.late.uncover(&l.buf, l.window, now)
	if l.sess != nil {
		l.sess.payloads.claimNow.give() // there is room now
	}
	return l.tally.step(l.window)
}

// finish moves past the end of the data, and returns what ended the run: io.EOF, or an earlier error.
func (l *line) finish(res *wire.Result) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.run.finish()
	if isEnd(err) && l.taken < res.Seq {
		l.taken, l.ended = res.Seq, true
	}
	return err
}

// stateless is how many of the positions that the trainer is past, the last ones, left no state. Called with mu held.
func (l *line) stateless() uint64 {
	if l.ended {
		return l.past + 1
	}
	return l.past
}

// shared reports whether a wait that began then may have been for other ranks: there are some, and an owner was there
// to move the window all the while.
func (l *line) shared(began time.Time) bool {
	return (l.cfg.World.size() > 1 || l.cfg.OnLag == LagWait) && !l.owner.wasSilent(began)
}

// moved counts a move to another state than the head's.
func (l *line) moved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.moves++
}

// repaired counts a request for a seat because of a doubt.
func (l *line) repaired() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.repairs++
}

// snapshot is the line at one moment, for Prometheus.
func (l *line) snapshot(now time.Time) snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return snapshot{
		tally: l.tally, failures: l.run.failed(), window: l.window,
		held: l.buf.Len(), heldBytes: l.buf.Bytes(), silent: l.owner.silentFor(now),
	}
}
