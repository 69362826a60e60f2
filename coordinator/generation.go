package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds of the pause between two looks at a late head.
const (
	repairMin = 500 * time.Millisecond
	repairMax = 10 * time.Second

	// regrow is after how long a window that a full store has halved is doubled again.
	regrow = 10 * time.Second
)

// open opens the data set, unless it is open.
func (b *batcher) open() *schema.Fault {
	if b.inst != nil {
		return nil
	}
	inst, release, err := b.kind.Acquire(b.c.ctx, b.rec.Spec.Params)
	if err != nil {
		return openFault(err)
	}
	b.inst, b.release = inst, release
	return nil
}

// begin makes a new generation at state, on top of whatever change says of the record. The record comes
// first: what is in it and has no store is found out and begun again, a store that is in no record is collected.
//
// Where a server may just have died there are several to choose from; those come before the record.
func (b *batcher) begin(state []byte, choose bool, change func(*wire.Record)) *schema.Fault {
	if fault := b.open(); fault != nil {
		return fault
	}
	if err := b.ready(); err != nil {
		return unavailable("generation of batcher %s: %v", b.name, err)
	}
	gen, before := ulid.Make().String(), b.rec.Gen
	choose = choose && b.c.cfg.Replicas > 1
	if choose {
		var err error
		if gen, err = b.choose(); err != nil {
			return unavailable("generation of batcher %s: %v", b.name, err)
		}
	}
	err := b.update(func(r *wire.Record) {
		r.Gen, r.Phase, r.Since = gen, schema.PhaseRunning, time.Now()
		r.Floor, r.FloorState, r.Taken, r.Position = 0, state, 0, 1
		r.Verdict, r.Error = nil, nil
		if change != nil {
			change(r)
		}
	})
	if err != nil {
		return unavailable("record of batcher %s: %v", b.name, err)
	}
	b.halt()
	b.silent, b.count.generations = time.Time{}, b.count.generations+1
	b.discard(before)
	if !choose {
		ctx, cancel := b.c.call(createTimeout)
		defer cancel()
		if err := topology.CreateGeneration(ctx, b.c.js, b.kindToken(), b.name, b.rec.Gen); err != nil {
			return unavailable("generation of batcher %s: %v", b.name, err)
		}
	}
	b.log.Info("generation begun", "gen", b.rec.Gen, "seat", b.rec.Seat)
	if fault := b.start(window.New(0, state, b.rec.Taken)); fault != nil {
		return fault
	}
	b.gen.settled = b.rec.Taken == 0
	return nil
}

// candidates is how many generations are made at once where a dead server may be given a part in one.
const candidates = 3

// choose names a generation that is made already. A cluster that lost a server a moment ago goes on giving that one
// streams, and new consumers to lead, of which it elects another leader after 4 to 9 s. Of several generations one is
// whole at once; the others are in no record, so they go. Where none is, the next may be: a server that has said nothing
// for 3 s gets no more streams. So none is waited for for long until several in a row came to nothing.
func (b *batcher) choose() (string, error) {
	ctx, cancel := b.c.call(min(lookTimeout<<min(b.unchosen/3, 2), createTimeout))
	defer cancel()
	type made struct {
		gen string
		err error
	}
	all := make(chan made, candidates)
	for range candidates {
		gen := ulid.Make().String()
		b.c.running.Go(func() {
			all <- made{gen, topology.CreateGeneration(ctx, b.c.js, b.kindToken(), b.name, gen)}
		})
	}
	var chosen string
	var err error
	for range candidates {
		m := <-all
		switch {
		case m.err == nil && chosen == "":
			chosen = m.gen
			cancel()
		default:
			err = m.err
			b.discard(m.gen)
		}
	}
	if chosen == "" {
		b.unchosen++
		return "", err
	}
	b.unchosen = 0
	return chosen, nil
}

// ready reports why no generation can be made now: JetStream has no leader to make streams, or the job stream none to
// take jobs. A server that was restarted has lost the job stream together with the results, so it is made again.
func (b *batcher) ready() error {
	ctx, cancel := b.c.call(lookTimeout / 2)
	defer cancel()
	if err := b.c.answering(ctx); err != nil {
		return err
	}
	return b.c.ensure(ctx)
}

// start feeds the record's generation from the window on.
func (b *batcher) start(w *window.Window) *schema.Fault {
	// A use of its own: the batcher may close the data set while Next of the generation before still runs.
	inst, release, err := b.kind.Acquire(b.c.ctx, b.rec.Spec.Params)
	if err != nil {
		return openFault(err)
	}
	f, err := newFeed(b.c.ctx, b.c.nc, b.log.With("gen", b.rec.Gen), inst, release, b.kindToken(), b.name, b.rec.Gen)
	if err != nil {
		return unavailable("feed batcher %s: %v", b.name, err)
	}
	f.trace = b.trace
	b.gen = &generation{Window: w, feed: f, saved: b.rec.Taken, purged: b.rec.Floor, moved: time.Now()}
	b.announce()
	b.resize()
	return nil
}

// resume goes on from the record: after a takeover, or after a generation that could not be set up. It feeds
// again from the floor; publishing a job that is there changes nothing.
func (b *batcher) resume() {
	if b.rec.Phase != schema.PhaseRunning && b.rec.Phase != schema.PhaseDone {
		return
	}
	if b.rec.Spec.Version != b.kind.Version {
		b.fail(&schema.Fault{Code: schema.CodeWrongState, Message: fmt.Sprintf(
			"data set %s is at version %d now, the run was at %d; start again", b.kind.Name, b.kind.Version, b.rec.Spec.Version)})
		return
	}
	if fault := b.open(); fault != nil {
		b.fail(fault)
		return
	}
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	lost, err := b.lost(ctx)
	if err != nil && !lost {
		b.log.Warn("generation not resumed yet", "error", err)
		return // it is tried again
	}
	if lost {
		if b.rec.Phase == schema.PhaseRunning { // of a run that is done, nothing is missed
			b.restart(b.rec.FloorState, b.rec.Taken-b.rec.Floor) // only the floor's state is recorded
		}
		return
	}
	// The owner before may have died between the store and the consumer.
	if err := b.ensure(ctx); err != nil {
		b.log.Warn("generation not resumed yet", "error", err)
		return
	}
	commits, err := b.commits(ctx)
	if err != nil {
		b.log.Warn("generation not resumed yet", "error", err)
		return
	}
	w := window.New(b.rec.Floor, b.rec.FloorState, b.rec.Taken)
	w.FedBefore(fedBefore(b.rec.Taken, commits))
	if fault := b.start(w); fault != nil {
		b.log.Warn("generation not resumed yet", "error", fault.Message)
		return
	}
	b.gen.done = commits
	for seq := range commits {
		if seq <= b.rec.Floor { // dropped by the record, and not by the store
			b.gen.purged = min(b.gen.purged, seq-1)
		}
	}
	b.log.Info("generation resumed", "gen", b.rec.Gen, "taken", b.rec.Taken, "floor", b.rec.Floor, "results", len(commits))
	b.notify() // whoever waits for an owner need not wait longer
}

// fedBefore is how far jobs were out before a takeover, as results show: the trainer may be anywhere up to there, since
// its progress is recorded now and then. A result far beyond the others shows nothing; workers can store what they like.
func fedBefore(taken uint64, commits map[uint64]bool) uint64 {
	furthest := taken
	for seq := range commits {
		if seq <= taken+uint64(2*len(commits))+wire.BlockSize {
			furthest = max(furthest, seq)
		}
	}
	return furthest
}

// restart begins a new generation for the same reader because the store of the last one is lost. The first taken
// positions after state are iterated only, so that the reader finds its own state, and are not made again.
func (b *batcher) restart(state []byte, taken uint64) {
	lost := b.rec.Gen
	if fault := b.begin(state, true, func(r *wire.Record) { r.Taken, r.Position = taken, taken+1 }); fault != nil {
		if b.hindered != fault.Message {
			b.log.Warn("lost generation not begun again yet", "gen", lost, "error", fault.Message)
			b.hindered = fault.Message
		}
		return
	}
	b.hindered = ""
	b.restarts++
	b.log.Warn("results were lost; generation begun again", "lost", lost, "gen", b.rec.Gen)
	b.notify()
}

// jobOverhead is more than a job's message has besides its byte slices.
const jobOverhead = 48

// take publishes what the iterator made.
func (b *batcher) take(p produced) {
	g := b.gen
	if g.ended {
		return // of a Next that came back too late, or of what followed a job that is too large
	}
	g.settled = g.settled || p.last
	var together run
	length := b.runs.length(g.Limit(), g.slots)
	if b.c.nc.MaxPayload() < 2*runBytes {
		length = 1
	}
	for _, it := range p.items {
		b.c.meters.iterate.WithLabelValues(b.rec.Spec.Dataset).Observe(it.took.Seconds())
		seq := g.Fed() + 1
		if v := b.rec.Verdict; v != nil && v.Seq == seq {
			g.feed.send(&together, false)
			b.verdict(v.Fault) // given by the owner before, and final
			return
		}
		prev := g.StateAfter(seq - 1)
		job := wire.AppendJob(make([]byte, 0, len(prev)+len(it.next)+len(it.job)+jobOverhead), &wire.Job{
			Seq: seq, Prev: prev, Next: it.next, Body: it.job, Iterate: it.took,
		})
		if int64(len(job)) > b.c.nc.MaxPayload() {
			g.feed.send(&together, false)
			b.verdict(&schema.Fault{Code: schema.CodeJobTooLarge, Message: fmt.Sprintf(
				"job: %d bytes encoded; the server takes messages of at most %d", len(job), b.c.nc.MaxPayload())})
			return
		}
		g.Feed(window.Entry{Next: it.next, Job: job})
		if seq > g.Taken() && !g.done[seq] {
			if !together.add(seq, job, length) {
				g.feed.send(&together, false)
				together.add(seq, job, length)
			}
			b.count.fed++
		}
	}
	g.feed.send(&together, false)
	if p.err != nil {
		b.verdict(iteratorFault(p.err))
		return
	}
	if b.last.Gen == b.rec.Gen && b.last.Seat == b.rec.Seat { // who took over may have heard it before it came here
		b.advance(b.last.Taken)
	}
	b.demand()
}

// verdict ends the sequence behind what is fed: with a fault, or nil for the end of the data. The record says so first,
// then a result at its place; readers believe only what both say.
func (b *batcher) verdict(fault *schema.Fault) {
	g := b.gen
	g.End()
	g.ended, g.settled = true, true
	seq := g.Fed() + 1
	if fault != nil {
		said := *fault
		said.Seq, said.Gen, said.Worker, said.Attempts = seq, b.rec.Gen, b.c.cfg.Name, 1
		fault = &said
	}
	given := b.rec.Verdict != nil && b.rec.Verdict.Seq == seq // so the result at its place is its own
	if seq <= g.Taken() || g.done[seq] && !given {
		// The owner before came further from the same state, so there is no place for the verdict in the sequence.
		if fault == nil {
			fault = &schema.Fault{Code: schema.CodeIterator, Seq: seq, Gen: b.rec.Gen, Worker: b.c.cfg.Name, Attempts: 1, Message: fmt.Sprintf(
				"the data ended before batch %d, which was there when the same states were iterated before: Next must be a pure function", seq)}
		}
		b.fail(fault)
		return
	}
	g.unsaid = &wire.Verdict{Seq: seq, Fault: fault}
	b.conclude()
}

// conclude records and publishes the verdict; what fails is tried again every beat.
func (b *batcher) conclude() {
	g, said := b.gen, b.gen.unsaid
	if v := b.rec.Verdict; v == nil || v.Seq != said.Seq {
		if err := b.update(func(r *wire.Record) { r.Verdict = said }); err != nil {
			b.log.Warn("end of the sequence not recorded yet", "seq", said.Seq, "error", err)
			return
		}
		b.log.Info("sequence ends", "gen", b.rec.Gen, "seq", said.Seq, "error", said.Fault)
	}
	if err := b.publishVerdict(); err != nil {
		b.log.Warn("end of the sequence not published yet", "seq", said.Seq, "error", err)
		return
	}
	g.unsaid = nil
}

// publishVerdict stores the verdict as a result, first write wins.
func (b *batcher) publishVerdict() error {
	v := b.rec.Verdict
	res := &wire.Result{Seq: v.Seq, Kind: wire.KindEnd, Prev: b.gen.StateAfter(v.Seq - 1), Worker: b.c.cfg.Name, Fault: v.Fault, Deliveries: 1}
	if v.Fault != nil {
		res.Kind = wire.KindError
	}
	data, err := wire.AppendResult(nil, res, nil)
	if err != nil {
		return err
	}
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	_, err = b.c.js.Publish(ctx, wire.ResultSubject(b.name, b.rec.Gen, v.Seq), data)
	var api *jetstream.APIError
	if errors.As(err, &api) && topology.IsDuplicate(int(api.ErrorCode), api.Description) {
		return nil
	}
	return err
}

// repair looks after a late head: whatever has neither result nor job is published again. Looks at the same
// head grow rarer.
func (b *batcher) repair() {
	g := b.gen
	if g == nil || time.Since(g.looked) < g.pause {
		return
	}
	g.pause = min(max(2*g.pause, repairMin), repairMax)
	g.looked = time.Now()
	b.look()
}

// look finds out whether the store is there still, and whether something of what is out is missing.
func (b *batcher) look() {
	ctx, cancel := b.c.call(2 * lookTimeout)
	defer cancel()
	if err := b.reissue(ctx); err != nil {
		b.log.Warn("late head not looked after yet", "seq", b.rec.Taken+1, "error", err)
	}
}

func (b *batcher) reissue(ctx context.Context) error {
	g := b.gen
	lost, err := b.lost(ctx)
	if lost {
		b.restart(g.StateAfter(g.Taken()), 0)
		return nil
	}
	if err != nil {
		return err
	}
	if err := b.ensure(ctx); err != nil {
		return err
	}
	done, err := b.commits(ctx)
	if err != nil {
		return err
	}
	g.owed = g.Missing(func(seq uint64) bool { return done[seq] })
	b.settle()
	if v := b.rec.Verdict; v != nil && g.Want() == 0 && v.Seq == g.Fed()+1 && !done[v.Seq] {
		err = b.publishVerdict()
	}
	b.announce()
	return err
}

// remake has results made again whose payloads were lost with the workers that kept them. The record goes first, and only
// that of the attempt which was lost: another may have taken its place since.
func (b *batcher) remake(lost []wire.Lost) {
	g := b.gen
	if !b.silent.IsZero() {
		return // the reader says it again
	}
	ctx, cancel := b.c.call(2 * lookTimeout)
	defer cancel()
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if err != nil {
		return // the reader says it again
	}
	for _, l := range lost {
		e, ok := g.Entry(l.Seq)
		if !ok || l.Seq <= g.Taken() {
			continue
		}
		switch removed, err := removeAttempt(ctx, s, wire.ResultSubject(b.name, b.rec.Gen, l.Seq), l.Attempt); {
		case err != nil:
			b.log.Warn("lost result not removed yet", "seq", l.Seq, "attempt", l.Attempt, "error", err)
		case removed:
			b.log.Warn("payload was lost with its worker; batch is made again", "gen", b.rec.Gen, "seq", l.Seq, "attempt", l.Attempt)
			delete(g.done, l.Seq)
			g.feed.publish(l.Seq, e.Job, true)
		}
	}
}

// makeRoom drops what is taken, then the highest results, when the server refuses a job or a result for lack of room, and
// halves the window: no bound may be held by other sequence numbers alone. What is dropped, and the jobs that would fill the
// room again, are published again when the window opens. Of many reports at once one counts.
func (b *batcher) makeRoom() {
	g := b.gen
	if time.Since(g.roomed) < repairMin {
		return
	}
	g.roomed = time.Now()
	if floor := min(g.Taken(), g.Fed()); floor > g.Floor() {
		b.saveTo(floor)
	}
	ctx, cancel := b.c.call(callTimeout)
	defer cancel()
	done, err := b.commits(ctx)
	if err != nil || done[g.Taken()+1] {
		return // the trainer makes room by taking
	}
	g.shrunk = max(1, g.Limit()/2)
	g.SetLimit(g.shrunk)
	dropped, keep := 0, g.Taken()+uint64(g.shrunk)
	g.feed.forget(keep)
	b.cancelJobs(keep+1, g.Fed()+1)
	for seq := g.Fed(); seq > keep; seq-- {
		if done[seq] && b.purgeOne(seq) == nil {
			delete(done, seq)
			dropped++
		}
	}
	g.owed = slices.DeleteFunc(g.Missing(func(seq uint64) bool { return done[seq] }), func(seq uint64) bool { return seq <= keep })
	b.log.Warn("the server's store is full; window halved", "window", g.shrunk, "dropped", dropped)
}
