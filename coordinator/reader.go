package coordinator

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// hearReader takes a credit; as a request it is answered with how things stand.
func (b *batcher) hearReader(m *nats.Msg) {
	credit := new(wire.Credit)
	if len(m.Data) > maxCredit || json.Unmarshal(m.Data, credit) != nil {
		return // not a credit of this wire version
	}
	b.hint(func() {
		b.credit(credit)
		if !topology.Answerable(m.Reply) {
			return
		}
		if credit.Reader != b.rec.Reader && b.confirm() != nil {
			return // that somebody else has the seat is for the owner to say
		}
		b.c.respond(m, b.creditReply())
	})
}

// credit moves the window on. One of another reader, seat or generation moves nothing: P5.
func (b *batcher) credit(credit *wire.Credit) {
	if credit.Reader != b.rec.Reader || b.rec.Reader == "" {
		return
	}
	credit.Waiting = credit.Waiting[:min(len(credit.Waiting), maxWaiting)]
	credit.Lost = credit.Lost[:min(len(credit.Lost), wire.MaxLost)]
	b.heard = time.Now()
	b.measure(credit)
	g := b.gen
	if credit.Gen != b.rec.Gen || credit.Seat != b.rec.Seat || g == nil {
		return
	}
	b.rate.observe(b.heard, credit.Taken, credit.Bytes)
	if credit.Timing != nil {
		b.runs.observe(credit.Taken, credit.Timing.Materialize)
	}
	if credit.Failed != nil && b.rec.Phase != schema.PhaseFailed {
		b.fail(credit.Failed)
		return
	}
	if b.advance(credit.Taken) {
		credit.BatchBytes = max(credit.BatchBytes, 1) // batches without a payload have a size, too
	}
	if credit.Timing == nil && b.last.Reader == credit.Reader {
		credit.Timing = b.last.Timing // it is not in every credit
	}
	b.last = *credit
	if credit.BatchBytes > b.rec.BatchBytes {
		b.save()
		b.resize()
	}
	b.finish(credit.Taken)
	b.settle()
	b.demand()
	if g.Taken() >= g.saved+max(1, b.unrecorded()/4) { // while the iterator and the workers are at it already
		b.save()
	}
	b.backUp(credit)
	if len(credit.Lost) > 0 {
		b.remake(credit.Lost)
	}
	if credit.Late {
		b.repair()
	}
}

// advance notes how far the trainer has come, and reports whether that is news.
func (b *batcher) advance(taken uint64) bool {
	g := b.gen
	before := g.Taken()
	if !g.Credit(taken) {
		return false
	}
	b.count.taken += g.Taken() - before
	g.moved = time.Now()
	g.pause = 0
	return true
}

// finish notes that the trainer has everything up to the end of the data.
func (b *batcher) finish(taken uint64) {
	v := b.rec.Verdict
	if v == nil || v.Fault != nil || taken < v.Seq || b.rec.Phase != schema.PhaseRunning {
		return
	}
	if err := b.update(func(r *wire.Record) { r.Phase, r.Since = schema.PhaseDone, time.Now() }); err != nil {
		b.log.Warn("end of the run not recorded yet", "error", err)
		return
	}
	b.log.Info("run is done", "gen", b.rec.Gen, "seq", v.Seq-1)
}

// fail ends the run with an error that its reader met or will be told of.
func (b *batcher) fail(fault *schema.Fault) {
	err := b.update(func(r *wire.Record) { r.Phase, r.Error, r.Since = schema.PhaseFailed, fault, time.Now() })
	if err != nil {
		b.log.Warn("failure not recorded yet", "error", err)
		return
	}
	b.halt()
	b.discard(b.rec.Gen) // only Start goes on from here, with a new generation: its jobs would only be in the way
	b.log.Warn("run failed", "gen", b.rec.Gen, "seq", fault.Seq, "error", fault.Message)
	b.notify()
}

// hearReport takes a worker's word about the store: that it is full, gone, or holds another result than its own.
func (b *batcher) hearReport(m *nats.Msg) {
	report := new(wire.Report)
	if err := json.Unmarshal(m.Data, report); err != nil || report.Fault == nil {
		return // not a report of this wire version
	}
	b.hint(func() {
		if report.Gen != b.rec.Gen || b.gen == nil {
			return
		}
		switch report.Fault.Code {
		case schema.CodeNondeterministic:
			b.fail(report.Fault)
		case schema.CodeStoreFull:
			b.makeRoom()
		case schema.CodeStoreGone:
			if b.silent.IsZero() { // else it is looked for anyway
				b.look()
			}
		}
	})
}

func (b *batcher) creditReply() wire.CreditReply {
	workers, _ := b.c.fleet.serving(b.kindToken())
	r := wire.CreditReply{Gen: b.rec.Gen, Seat: b.rec.Seat, Reader: b.rec.Reader, Phase: b.rec.Phase, Workers: workers, Error: b.rec.Error}
	if b.gen != nil {
		r.Window = b.gen.Limit()
		r.Trouble = b.trouble
		if refused, unstored := b.gen.feed.waiting(); r.Trouble == "" && refused != "" {
			r.Trouble = fmt.Sprintf("jobs not stored (%d): %s", len(unstored), refused)
		}
	}
	return r
}

// status is how the batcher stands.
func (b *batcher) status() schema.Status {
	s := schema.Status{
		Batcher: b.name, Phase: b.rec.Phase, Error: b.rec.Error, Dataset: b.rec.Spec.Dataset, Version: b.rec.Spec.Version,
		Gen: b.rec.Gen, Seat: b.rec.Seat, Reader: b.rec.Reader, Owner: b.c.cfg.Name, Taken: b.rec.Taken, Fed: b.rec.Taken,
		BatchBytes: b.rec.BatchBytes, Restarts: b.restarts, Reissued: b.reissued, Backups: b.backups,
	}
	s.Workers, s.Slots = b.c.fleet.serving(b.kindToken())
	if !b.held() {
		s.IdleFor = time.Since(b.heard)
	}
	if b.last.Timing != nil {
		s.Timing = *b.last.Timing
	}
	s.Desired = b.desired(&s)
	if g := b.gen; g != nil {
		s.Taken, s.Fed, s.Window = g.Taken(), g.Fed(), g.Limit()
		s.Reissued += g.feed.reissued()
		s.Rate, s.ByteRate = b.rate.value(time.Now())
		s.Waiting = b.waiting(s)
	}
	return s
}

// waiting names what holds the trainer up, nearest cause first; empty when nothing does.
func (b *batcher) waiting(s schema.Status) string {
	if b.rec.Phase != schema.PhaseRunning {
		return ""
	}
	if refused, unstored := b.gen.feed.waiting(); refused != "" {
		return fmt.Sprintf("jobs not stored (%d): %s", len(unstored), refused)
	}
	if s.Workers == 0 {
		return "no worker serves data set " + b.kindToken()
	}
	if b.last.Waiting == "" {
		return ""
	}
	if s.Fed == s.Taken {
		return fmt.Sprintf("the iterator has not returned job %d", s.Fed+1)
	}
	return b.last.Waiting
}

// rate is the trainer's pace over the last ten seconds or so.
type rate struct {
	at           time.Time
	taken        uint64
	bytes        int64
	batches, bps float64
}

// rateSpan is how long a pace is measured before it counts.
const rateSpan = 2 * time.Second

func (r *rate) observe(now time.Time, taken uint64, bytes int64) {
	if r.at.IsZero() || taken < r.taken || bytes < r.bytes {
		*r = rate{at: now, taken: taken, bytes: bytes}
		return
	}
	if d := now.Sub(r.at); d >= rateSpan {
		r.batches, r.bps = float64(taken-r.taken)/d.Seconds(), float64(bytes-r.bytes)/d.Seconds()
		r.at, r.taken, r.bytes = now, taken, bytes
	}
}

// value returns batches and bytes per second, zero when the trainer has fallen silent.
func (r *rate) value(now time.Time) (batches, bytes float64) {
	if now.Sub(r.at) > 5*rateSpan {
		return 0, 0
	}
	return r.batches, r.bps
}
