package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds of the pause between two looks at a late head.
const (
	repairMin = 500 * time.Millisecond
	repairMax = 10 * time.Second
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
func (b *batcher) begin(state []byte, change func(*schema.Record)) *schema.Fault {
	if fault := b.open(); fault != nil {
		return fault
	}
	before := b.rec.Gen
	b.halt()
	err := b.update(func(r *schema.Record) {
		r.Gen, r.Phase, r.Since = ulid.Make().String(), schema.PhaseRunning, time.Now()
		r.Floor, r.FloorState, r.Taken, r.Position = 0, state, 0, 1
		r.Verdict, r.Error = nil, nil
		if change != nil {
			change(r)
		}
	})
	if err != nil {
		return unavailable("record of batcher %s: %v", b.name, err)
	}
	b.discard(before)
	ctx, cancel := context.WithTimeout(b.c.ctx, callTimeout)
	defer cancel()
	if err := topology.CreateGeneration(ctx, b.c.js, b.kindToken(), b.name, b.rec.Gen); err != nil {
		return unavailable("generation of batcher %s: %v", b.name, err)
	}
	b.log.Info("generation begun", "gen", b.rec.Gen, "seat", b.rec.Seat)
	if fault := b.start(window.New(0, state, 0)); fault != nil {
		return fault
	}
	b.gen.settled = true
	return nil
}

// start feeds the record's generation from the window on.
func (b *batcher) start(w *window.Window) *schema.Fault {
	f, err := newFeed(b.c.ctx, b.c.nc, b.log.With("gen", b.rec.Gen), b.inst, b.kindToken(), b.name, b.rec.Gen)
	if err != nil {
		return unavailable("feed batcher %s: %v", b.name, err)
	}
	b.gen = &generation{Window: w, feed: f, saved: b.rec.Taken, since: time.Now()}
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
	ctx, cancel := context.WithTimeout(b.c.ctx, callTimeout)
	defer cancel()
	lost, err := b.lost(ctx)
	if err != nil {
		b.log.Warn("generation not resumed yet", "error", err)
		return // beat tries again
	}
	if lost {
		b.restart(b.rec.FloorState) // of a store that is gone, only the states matter: the reader finds its own
		return
	}
	commits, err := b.commits(ctx)
	if err != nil {
		b.log.Warn("generation not resumed yet", "error", err)
		return
	}
	w := window.New(b.rec.Floor, b.rec.FloorState, b.rec.Taken)
	if fault := b.start(w); fault != nil {
		b.log.Warn("generation not resumed yet", "error", fault.Message)
		return
	}
	b.gen.done = commits
	b.log.Info("generation resumed", "gen", b.rec.Gen, "taken", b.rec.Taken, "floor", b.rec.Floor, "results", len(commits))
}

// restart begins a new generation for the same reader because the store of the last one is lost.
func (b *batcher) restart(state []byte) {
	lost := b.rec.Gen
	b.restarts++
	if fault := b.begin(state, nil); fault != nil {
		b.log.Warn("lost generation not begun again yet", "gen", lost, "error", fault.Message)
		return
	}
	b.log.Warn("results were lost; generation begun again", "lost", lost, "gen", b.rec.Gen)
	b.notify()
}

// lost reports whether the generation's store is gone or another than the one that was made.
func (b *batcher) lost(ctx context.Context) (bool, error) {
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	genesis, err := s.GetLastMsgForSubject(ctx, schema.GenesisSubject(b.name, b.rec.Gen))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return string(genesis.Data) != string(schema.Genesis(b.rec.Gen)), nil
}

// commits lists the sequence numbers that have a commit record.
func (b *batcher) commits(ctx context.Context) (map[uint64]bool, error) {
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if err != nil {
		return nil, err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(schema.CommitFilter(b.name, b.rec.Gen)))
	if err != nil {
		return nil, err
	}
	done := make(map[uint64]bool, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if seq, err := schema.ParseResultSeq(subject); err == nil {
			done[seq] = true
		}
	}
	return done, nil
}

// take publishes what the iterator made.
func (b *batcher) take(p produced) {
	g := b.gen
	g.feed.met(p)
	g.settled = g.settled || p.last
	for _, it := range p.items {
		seq := g.Fed() + 1
		job, err := schema.AppendJob(nil, &schema.Job{Seq: seq, Prev: g.StateAfter(seq - 1), Next: it.next, Body: it.job, Iterate: it.took})
		if err == nil && int64(len(job)) > b.c.nc.MaxPayload() {
			err = fmt.Errorf("%d bytes encoded; the server takes messages of at most %d", len(job), b.c.nc.MaxPayload())
		}
		if err != nil {
			b.verdict(&schema.Fault{Code: schema.CodeJobTooLarge, Message: "job: " + err.Error()})
			return
		}
		g.Feed(window.Entry{Next: it.next, Job: job})
		if seq > g.Taken() && !g.done[seq] {
			g.feed.publish(seq, job)
		}
	}
	if p.err != nil {
		b.verdict(iteratorFault(p.err))
		return
	}
	b.demand()
}

// verdict ends the sequence behind what is fed: with a fault, or nil for the end of the data. The record says so first,
// then a result at its place; readers believe only what both say.
func (b *batcher) verdict(fault *schema.Fault) {
	g := b.gen
	g.End()
	seq := g.Fed() + 1
	if v := b.rec.Verdict; v == nil || v.Seq != seq {
		if fault != nil {
			fault.Seq, fault.Gen, fault.Worker, fault.Attempts = seq, b.rec.Gen, b.c.cfg.Name, 1
		}
		if err := b.update(func(r *schema.Record) { r.Verdict = &schema.Verdict{Seq: seq, Fault: fault} }); err != nil {
			b.log.Warn("end of the sequence not recorded yet", "seq", seq, "error", err)
			return // a late head brings it back
		}
		b.log.Info("sequence ends", "gen", b.rec.Gen, "seq", seq, "error", fault)
	}
	b.publishVerdict()
}

// publishVerdict stores the verdict as a result, first write wins.
func (b *batcher) publishVerdict() {
	v := b.rec.Verdict
	res := &schema.Result{Seq: v.Seq, Kind: schema.KindEnd, Prev: b.gen.StateAfter(v.Seq - 1), Worker: b.c.cfg.Name, Fault: v.Fault, Deliveries: 1}
	if v.Fault != nil {
		res.Kind = schema.KindError
	}
	data, err := schema.AppendResult(nil, res, nil)
	if err != nil {
		b.log.Error("verdict not encoded", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(b.c.ctx, callTimeout)
	defer cancel()
	_, err = b.c.js.Publish(ctx, schema.ResultSubject(b.name, b.rec.Gen, v.Seq), data)
	var api *jetstream.APIError
	if err != nil && !(errors.As(err, &api) && schema.IsDuplicate(int(api.ErrorCode), api.Description)) {
		b.log.Warn("end of the sequence not published yet", "seq", v.Seq, "error", err)
	}
}

// save writes how far the trainer has come and drops the results below the new floor. The record first: a
// successor must find everything above the floor that it reads.
func (b *batcher) save() {
	g := b.gen
	floor := max(g.Floor(), g.Droppable(retained(b.rec.Settings, g.Limit())))
	if int64(schema.BlockSize)*b.rec.BatchBytes <= b.windowBytes()/8 {
		// Small batches are dropped by whole blocks, one purge for many.
		if whole := (floor + 1) / schema.BlockSize * schema.BlockSize; whole > 0 {
			floor = max(g.Floor(), whole-1)
		} else {
			floor = g.Floor()
		}
	}
	before := g.Floor()
	err := b.update(func(r *schema.Record) {
		r.Taken, r.Floor, r.FloorState, r.BatchBytes = g.Taken(), floor, g.StateAfter(floor), max(r.BatchBytes, b.last.BatchBytes)
	})
	if err != nil {
		b.log.Warn("progress not recorded yet", "error", err)
		return
	}
	g.saved, g.since = g.Taken(), time.Now()
	g.Drop(floor)
	for seq := range g.done {
		if seq <= floor {
			delete(g.done, seq)
		}
	}
	if err := b.purge(before, floor); err != nil {
		b.log.Warn("taken results not dropped yet", "error", err)
	}
}

func (b *batcher) windowBytes() int64 {
	if n := b.rec.Settings.WindowBytes; n > 0 {
		return n
	}
	return DefaultWindowBytes
}

// purge drops the results in (from, to]: by blocks where a block ends there, else one by one.
func (b *batcher) purge(from, to uint64) error {
	if from == to {
		return nil
	}
	ctx, cancel := context.WithTimeout(b.c.ctx, callTimeout)
	defer cancel()
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if err != nil {
		return err
	}
	for seq := from + 1; seq <= to; {
		block := seq / schema.BlockSize
		if end := (block+1)*schema.BlockSize - 1; end <= to {
			if err := s.Purge(ctx, jetstream.WithPurgeSubject(schema.BlockFilter(b.name, b.rec.Gen, block))); err != nil {
				return err
			}
			seq = end + 1
			continue
		}
		if err := purgeOne(ctx, s, schema.ResultSubject(b.name, b.rec.Gen, seq)); err != nil {
			return err
		}
		seq++
	}
	return nil
}

// purgeOne drops a commit record and all chunks and markers of its sequence number.
func purgeOne(ctx context.Context, s jetstream.Stream, subject string) error {
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
		return err
	}
	return s.Purge(ctx, jetstream.WithPurgeSubject(subject+".>"))
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
	ctx, cancel := context.WithTimeout(b.c.ctx, callTimeout)
	defer cancel()
	if err := b.reissue(ctx); err != nil {
		b.log.Warn("late head not looked after yet", "seq", g.Taken()+1, "error", err)
	}
}

func (b *batcher) reissue(ctx context.Context) error {
	g := b.gen
	lost, err := b.lost(ctx)
	if err != nil {
		return err
	}
	if lost {
		b.restart(g.StateAfter(g.Taken()))
		return nil
	}
	if err := topology.Ensure(ctx, b.c.js, topology.Config{Replicas: b.c.cfg.Replicas}); err != nil {
		return err
	}
	if err := topology.EnsureConsumer(ctx, b.c.js, b.kindToken(), b.name, b.rec.Gen); err != nil {
		return err
	}
	done, err := b.commits(ctx)
	if err != nil {
		return err
	}
	for _, seq := range g.Missing(func(seq uint64) bool { return done[seq] }) {
		if seq > g.Taken()+uint64(g.Limit()) {
			break // dropped to make room; its turn comes
		}
		e, _ := g.Entry(seq)
		g.feed.publish(seq, e.Job)
		b.reissued++
	}
	if v := b.rec.Verdict; v != nil && g.Want() == 0 && v.Seq == g.Fed()+1 && !done[v.Seq] {
		b.publishVerdict()
	}
	b.announce()
	return nil
}

// makeRoom drops the highest results when the store refuses the head for lack of room, and halves the window: no bound may be held
// by later sequence numbers alone. What is dropped is published again when the window opens.
func (b *batcher) makeRoom() {
	g := b.gen
	ctx, cancel := context.WithTimeout(b.c.ctx, callTimeout)
	defer cancel()
	done, err := b.commits(ctx)
	if err != nil || done[g.Taken()+1] {
		return // the trainer makes room by taking
	}
	s, err := b.c.js.Stream(ctx, topology.ResultsStream(b.name, b.rec.Gen))
	if err != nil {
		return
	}
	g.shrunk = max(1, g.Limit()/2)
	g.SetLimit(g.shrunk)
	dropped := 0
	for seq := g.Fed(); seq > g.Taken()+uint64(g.shrunk); seq-- {
		if done[seq] && purgeOne(ctx, s, schema.ResultSubject(b.name, b.rec.Gen, seq)) == nil {
			dropped++
		}
	}
	b.log.Warn("the server's store is full; window halved", "window", g.shrunk, "dropped", dropped)
}
