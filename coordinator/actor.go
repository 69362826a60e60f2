package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// beat is how often leases are renewed and looked at, and lanes announced.
const beat = owner.Beat

// batcher is the actor of one batcher: messages become events, the owner decides, and its effects are carried out. What
// takes time is done in goroutines that post an event when they end, so the actor never waits. Everything below the
// inbox belongs to the actor goroutine, run, alone.
type batcher struct {
	site   *site
	actors *actors // it is one of them
	store  *store
	name   string
	log    *slog.Logger
	inbox  chan func()
	gone   chan struct{} // closed when the actor ended

	owner    *owner.Owner
	feed     *feed // of the generation that runs; nil for none
	opened   map[uint64]*opened
	answers  map[owner.Token]func(any)
	token    owner.Token
	told     wire.Record // as it was when its last change was told
	managing bool        // an operator asked for the end of the run, or of the record, and is told as who did it
	checking bool        // a worker's word that two batches differ is held against the store
	serving  string      // the kind that workers were last counted for
	workers  owner.Fleet
	reissued uint64 // jobs that were missing, in the generations before this one
	unstored unstored
	viewed   atomic.Pointer[view]
	asked    atomic.Pointer[keyed] // what the last request for the seat asked for; not the actor's own
}

// keyed is a spec and its key.
type keyed struct {
	spec wire.Spec
	key  wire.Digest
}

// opened is a data set that the owner had opened.
type opened struct {
	spec    wire.Spec
	inst    *kind.Opened
	release func()
	users   atomic.Int32 // the owner, and feeds whose Next may outlast it
}

func (d *opened) acquire() { d.users.Add(1) }

// leave ends a use; the last releases the instance.
func (d *opened) leave() {
	if d.users.Add(-1) == 0 {
		d.release()
	}
}

func newBatcher(a *actors, rec wire.Record, rev uint64) *batcher {
	key := a.specKey(rec.Spec)
	if k := a.kinds[rec.Spec.Dataset]; k != nil && k.Version != rec.Spec.Version {
		key = rec.Spec.Digest() // another version is another spec
	}
	log := a.log.With("batcher", rec.Batcher)
	return &batcher{
		site: a.site, actors: a, store: &store{a.site, rec.Batcher, log}, name: rec.Batcher, log: log,
		inbox: make(chan func(), 64), gone: make(chan struct{}),
		owner: owner.New(time.Now(), owner.Config{
			Name: a.cfg.Name, Kinds: a.versions(), ReaderLease: a.cfg.ReaderLease, Stall: a.cfg.Stall,
			Candidates: candidates(a.cfg.Replicas), NewGen: newGen, MaxPayload: a.nc.MaxPayload,
		}, rec, rev, key),
		opened: make(map[uint64]*opened), answers: make(map[owner.Token]func(any)), told: rec,
	}
}

// candidates is how many generations are made at once in the place of a lost one: several where a dead server may be
// given a part in one.
func candidates(replicas int) int {
	if replicas > 1 {
		return 3
	}
	return 1
}

// post hands f to the actor; it is dropped when the actor has ended.
func (b *batcher) post(f func()) {
	select {
	case b.inbox <- f:
	case <-b.gone:
	}
}

// hint is post for messages that will be repeated: while the inbox is full they are dropped, so that one flooded
// batcher holds up no other.
func (b *batcher) hint(f func()) {
	select {
	case b.inbox <- f:
	default:
	}
}

// errGone says that the actor ended before it could answer.
var errGone = &schema.Fault{Code: schema.CodeUnavailable, Message: "the batcher is changing hands"}

// await lets the actor begin f and returns what f answers, then or later.
func await[R any](b *batcher, f func(answer func(R))) (R, *schema.Fault) {
	done := make(chan R, 1)
	b.post(func() { f(func(r R) { done <- r }) })
	select {
	case r := <-done:
		return r, nil
	case <-b.gone:
	}
	select {
	case r := <-done: // answered with its last breath
		return r, nil
	default:
		var none R
		return none, errGone
	}
}

// run is the actor.
func (b *batcher) run() {
	defer b.actors.disown(b)
	defer close(b.gone)
	defer b.end()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	b.countFleet()
	for !b.owner.Over() {
		var ready <-chan struct{}
		if b.feed != nil {
			ready = b.feed.ready
		}
		select {
		case <-b.site.ctx.Done():
			return
		case f := <-b.inbox:
			f()
		case <-ready:
			b.collect()
		case <-due.C:
			b.collect() // before the owner asks how long the iterator has owed something
			b.step(owner.Tick{})
		case <-tick.C:
			b.beat()
		}
		due.Reset(time.Until(b.owner.Due()))
	}
}

// end lets go of everything in memory. Nothing stored is touched.
func (b *batcher) end() {
	b.halt()
	for serial := range b.opened {
		b.release(serial)
	}
}

// step lets the owner decide and carries out its effects.
func (b *batcher) step(e owner.Event) {
	for _, effect := range b.owner.Step(time.Now(), e) {
		b.carryOut(effect)
	}
	if token := b.owner.KindToken(); token != b.serving {
		b.countFleet()
	}
}

// postStep is step for goroutines.
func (b *batcher) postStep(e owner.Event) { b.post(func() { b.step(e) }) }

// beat looks every second at what the shell alone knows: jobs that the stream does not have yet, and workers.
func (b *batcher) beat() {
	if f := b.feed; f != nil {
		f.republish(b.owner.Taken(), b.owner.Job)
		if f.crowded() {
			b.step(owner.Crowded{})
		}
	}
	if b.feed != nil {
		b.unstored.observe(b.feed)
		b.locate()
	}
	if b.fleet() != b.workers {
		b.countFleet()
	}
}

// locate asks how far in its data the trainer is.
func (b *batcher) locate() {
	if state := b.owner.State(); state != nil {
		b.feed.locate(passed{b.owner.Taken(), state})
	}
}

func (b *batcher) fleet() owner.Fleet {
	token := b.owner.KindToken()
	workers, slots := b.actors.fleet.serving(token, b.name)
	fleet := owner.Fleet{Workers: workers, Slots: slots}
	if begins, _ := b.owner.Begins(); begins {
		fleet.Share = b.actors.follows.share(token, b.name, slots)
	}
	if workers == 0 {
		fleet.Suspended = b.actors.fleet.suspended(token, b.name)
	}
	return fleet
}

// countFleet tells the owner how many workers serve its data set.
func (b *batcher) countFleet() {
	b.serving, b.workers = b.owner.KindToken(), b.fleet()
	b.step(b.workers)
}

// collect hands over what the iterator made.
func (b *batcher) collect() {
	f := b.feed
	if f == nil {
		return
	}
	p := f.collect()
	if len(p.items) == 0 && p.err == nil {
		return // an earlier call collected this, and the end of the demand with it
	}
	e := owner.Produced{Gen: f.gen, Items: p.items, Last: p.last}
	for _, it := range p.items {
		b.actors.iterate.WithLabelValues(f.dataset).Observe(it.Took.Seconds())
	}
	if p.err != nil {
		e.Ended, e.Fault = true, iteratorFault(p.err)
	}
	b.step(e)
}

// expect names the answer to a message.
func (b *batcher) expect(answer func(any)) owner.Token {
	b.token++
	b.answers[b.token] = answer
	return b.token
}

func (b *batcher) answer(token owner.Token, reply any) {
	if answer := b.answers[token]; answer != nil {
		delete(b.answers, token)
		answer(reply)
	}
}

// specKey is the key of what a request asks for. Most ask for what the last one did, by the same text.
func (b *batcher) specKey(spec wire.Spec) wire.Digest {
	last := b.asked.Load()
	if last == nil || last.spec.Dataset != spec.Dataset || last.spec.Version != spec.Version ||
		!bytes.Equal(last.spec.Params, spec.Params) {
		last = &keyed{spec, b.actors.specKey(spec)}
		b.asked.Store(last)
	}
	return last.key
}

// seat asks for the seat; answer is called once, by the actor, unless it ends before.
func (b *batcher) seat(req *wire.SeatRequest, key wire.Digest, answer func(wire.SeatReply)) {
	b.step(owner.SeatAsked{Token: b.expect(func(r any) {
		reply := r.(wire.SeatReply)
		reply.Wire, reply.Domain = wire.Version, b.site.domain
		answer(reply)
	}), Request: req, Key: key})
}

// stop asks for the end of the run, or of a reader's part in it.
func (b *batcher) stop(req *wire.StopRequest, answer func(wire.StopReply)) {
	b.step(owner.StopAsked{Token: b.expect(func(r any) { answer(r.(wire.StopReply)) }), Request: req})
}

// depose says that the record names another owner.
func (b *batcher) depose(name string) { b.step(owner.Deposed{Owner: name}) }

// mend says that the record cannot be decoded any more.
func (b *batcher) mend() { b.step(owner.Damaged{}) }

// reconnected says that the connection was lost and is back.
func (b *batcher) reconnected() { b.step(owner.Reconnected{}) }

// hearReader takes a credit; as a request it is answered with how things stand.
func (b *batcher) hearReader(m *nats.Msg) {
	credit := readCredit(m.Data)
	if credit == nil {
		return
	}
	b.hint(func() {
		var token owner.Token
		if topology.Answerable(m.Reply) && len(b.answers) < maxRequests {
			token = b.expect(func(r any) { b.site.respond(m, r) })
		}
		b.credited(owner.Credited{Token: token, Credit: credit})
	})
}

// credited takes a credit. With the first batch that a credit speaks of the owner widens the window, up to the batcher's
// share of the slots by then, which is why the fleet is counted before.
func (b *batcher) credited(e owner.Credited) {
	begins, before := b.owner.Begins()
	if begins && b.fleet() != b.workers {
		b.countFleet()
	}
	b.step(e)
	if _, unseen := b.owner.Begins(); before && !unseen {
		b.actors.follows.seen(b.name)
	}
}

// readCredit decodes a credit; nil for one that is not of this wire version, or not of the reader that it names.
func readCredit(data []byte) *wire.Credit {
	credit := new(wire.Credit)
	if len(data) > maxCredit || json.Unmarshal(data, credit) != nil || proven(credit.Reader, credit.Secret) != nil ||
		credit.CheckPlace() != nil {
		return nil
	}
	credit.Secret = "" // it has done its part
	return credit
}

// hearReport takes a worker's word about the store.
func (b *batcher) hearReport(m *nats.Msg) {
	report := new(wire.Report)
	if err := json.Unmarshal(m.Data, report); err != nil {
		return // not a report of this wire version
	}
	if n := len(report.Apart); n > 0 && n <= wire.MaxRun && topology.Answerable(m.Reply) {
		b.hint(func() { b.takeApart(m, report) })
		return
	}
	if report.Fault == nil {
		return
	}
	b.hint(func() {
		if report.Fault.Code != schema.CodeNondeterministic {
			b.step(owner.Reported{Report: report})
		} else if !b.checking && report.Gen == b.owner.Gen() {
			b.checking = true
			b.site.running.Go(func() { b.contradicted(report) })
		}
	})
}

// contradicted looks at the store before it believes a worker that its batch is another than the stored one: such a
// report ends the run. One is looked at at a time.
func (b *batcher) contradicted(report *wire.Report) {
	fault := report.Fault
	ctx, cancel := b.site.call(askTimeout)
	defer cancel()
	res, err := b.site.stored(ctx, b.name, report.Gen, fault.Seq)
	if err == nil {
		err = wire.CheckName("worker", fault.Worker)
	}
	holds := err == nil && res.Kind != wire.KindError && res.Digest == report.Stored && report.Made != report.Stored
	b.post(func() {
		b.checking = false
		if !holds {
			b.log.Warn("report not believed: the store does not bear it out", "seq", fault.Seq, "error", err)
			return
		}
		fault.Message = fmt.Sprintf("job %d: worker %s made %v, worker %s made %v",
			fault.Seq, fault.Worker, report.Made, res.Worker, res.Digest)
		b.step(owner.Reported{Report: report})
	})
}

// takeApart queues jobs of a run by themselves and then answers the worker that has the run. A worker may not write
// jobs: it would choose what others make.
func (b *batcher) takeApart(m *nats.Msg, report *wire.Report) {
	jobs, ok := b.owner.Apart(report.Gen, report.Apart)
	if !ok || b.feed == nil {
		return
	}
	b.feed.separate(jobs, func() { b.site.respond(m, wire.ApartReply{Queued: true}) })
}

// status is how the batcher stands.
func (b *batcher) status() schema.Status {
	s := b.owner.Status(time.Now())
	s.Reissued = b.reissued
	for _, d := range b.opened {
		if d.spec.Dataset == s.Dataset && d.inst.Origin.Summary != "" {
			s.Data = d.inst.Origin.Summary
		}
	}
	if b.feed == nil {
		return s
	}
	s.Reissued += b.feed.reissued()
	if p := b.feed.progressAt(s.Taken); p != nil {
		at := p.At(s.Rate)
		s.Progress = &at
	}
	if refused, unstored := b.feed.waiting(); refused != "" && s.Phase == schema.PhaseRunning {
		s.Waiting = unstoredText(len(unstored), refused)
	}
	return s
}

// view is the batcher now; the actor calls it.
func (b *batcher) view() *view {
	v := &view{Status: b.status(), Counters: b.owner.Counters(), late: b.owner.Late(time.Now())}
	if b.feed != nil {
		v.unstored = b.unstored.n
	}
	b.viewed.Store(v)
	return v
}
