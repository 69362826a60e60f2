package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on the text of a fault, so that its record stays far below a message's limit.
const (
	maxMessage = 8 << 10
	maxStack   = 32 << 10
)

// committer stores results, payload first, and ends jobs when the answer to their record has come. It has no state of
// its own: a commit is with the publisher or in a task.
type committer struct {
	*life
	pub     *publisher
	gate    *gate
	held    *held
	shelf   *keeper
	uploads *uploads
	store   *store
	lanes   *lanes
	puller  *puller
	marks   *marks
	tally   *tally
	tasks   *tasks
}

// commit is a record on its way into the store.
type commit struct {
	job    *job
	result *wire.Result
	record *buffer
	size   int
	began  time.Time // of storing it
}

// commit stores a result and consumes its payload. A large one is kept for the reader, or stored as chunks, before the
// record that says so. It returns when the record is published; the answer to it decides what becomes of the job.
func (c *committer) commit(j *job, r *wire.Result, payload *product) {
	began := time.Now()
	payload.blocks = payload.pieces.Blocks(payload.blocks)
	r.Digest = payload.blocks.Sum()
	r.Size = uint64(payload.pieces.Size())
	kept := c.keep(j.lane, r, payload)
	if kept || r.Size > wire.InlineLimit {
		r.Chunks = uint32((r.Size + wire.ChunkSize - 1) / wire.ChunkSize)
	}
	if r.Chunks > 0 && !kept {
		v := c.uploads.upload(j.lane, r.Seq, r.Attempt, payload.pieces)
		payload.free()
		if v != stored {
			c.notStored(j, r, v)
			return
		}
	}
	record := newBuffer()
	var err error
	if r.Chunks > 0 {
		record.data, err = wire.AppendResult(record.data, r)
	} else {
		record.data, err = wire.AppendResult(record.data, r, payload.pieces...)
		payload.free()
	}
	if err != nil {
		record.free()
		c.discard(j, r)
		c.log.Error("result not encoded", j.at("error", err)...)
		c.held.giveBack(j, passingDelay)
		return
	}
	if !c.gate.enter(len(record.data)) {
		record.free()
		c.shelf.drop(r)
		return // the worker stops, and hands back everything it holds
	}
	c.publish(&commit{job: j, result: r, record: record, size: len(record.data), began: began})
}

// keep puts a payload on the shelf unless its lane was closed meanwhile: nothing would take it off any more.
func (c *committer) keep(l *lane, r *wire.Result, payload *product) bool {
	if !c.shelf.keep(l, r, payload) {
		return false
	}
	if l.ctx.Err() != nil && context.Cause(l.ctx) != errDone {
		c.shelf.drop(r)
	}
	return true
}

func (c *committer) publish(x *commit) {
	c.pub.send(&publication{
		stream: x.job.lane.store, subject: wire.ResultSubject(x.job.lane.batcher, x.job.lane.gen, x.result.Seq),
		header: x.job.header(), data: x.record.data,
		done: func(a *pubAck) { c.answered(x, a) },
	})
}

// answered takes the answer to a record. It must not block.
func (c *committer) answered(x *commit, a *pubAck) {
	if v := a.verdict(x.job.lane.store); v == stored {
		c.stored(x)
	} else {
		c.tasks.run(func() { c.refused(x, v) })
	}
}

// stored ends a commit that is known to be stored: only now the job may be acked.
func (c *committer) stored(x *commit) {
	c.tally.stored(x.job.lane, x.result, time.Since(x.began))
	if c.held.ack(x.job) {
		c.puller.more() // in one write with the ack
	}
	c.leave(x)
}

// leave makes room for other records.
func (c *committer) leave(x *commit) {
	c.gate.leave(x.size)
	x.record.free()
}

// refused decides what becomes of a job whose record was not stored.
func (c *committer) refused(x *commit, v verdict) {
	switch {
	case v == exists:
		c.compare(x)
		return
	case v == tooLarge && x.result.Kind != wire.KindError:
		c.leave(x) // another record takes its place
		c.tooLarge(x.job, x.result)
		return
	}
	c.notStored(x.job, x.result, v)
	c.leave(x)
}

// notStored lets go of a job whose result the store did not take.
func (c *committer) notStored(j *job, r *wire.Result, v verdict) {
	if c.hard.Err() != nil {
		return // the worker stops, and hands back everything it holds
	}
	switch v {
	case gone:
		c.storeGone(j, r)
		return
	case tooLarge:
		if r.Kind != wire.KindError {
			c.tooLarge(j, r)
			return
		}
	case full:
		c.tally.count(j.lane).full.Add(1)
		c.store.reportFull(c.worker(), j.lane, r.Seq, int(r.Size))
	default:
		c.log.Warn("result not stored; the job is handed back", j.at()...)
	}
	c.discard(j, r)
	c.marks.unmark(j)
	c.held.giveBack(j, passingDelay)
}

// storeGone closes the lane of a job whose store is not there.
func (c *committer) storeGone(j *job, r *wire.Result) {
	over := c.lanes.storeGone(c.worker(), j.lane, r.Seq)
	c.shelf.drop(r)
	if over {
		c.held.ack(j)
	} else {
		c.held.giveBack(j, passingDelay)
	}
}

// tooLarge commits an error in the place of a result that no server setting here will ever take.
func (c *committer) tooLarge(j *job, r *wire.Result) {
	c.discard(j, r)
	failed := *r
	failed.Chunks, failed.Size, failed.Direct = 0, 0, nil
	err := fmt.Errorf("a record of %d bytes is more than the server's max_payload or the store takes", r.Size)
	c.fail(j, &failed, 1, err)
}

// fail commits an error, or a hole.
func (c *committer) fail(j *job, r *wire.Result, attempts int, err error) {
	r.Kind, r.Fault = wire.KindError, c.fault(j, attempts, err)
	if reason, ok := dataset.SkipReason(err); ok {
		// A hole is as good as a batch: every worker finds it, and the state after it goes on.
		r.Kind, r.Fault = wire.KindHole, &schema.Fault{Code: schema.CodeSkipped, Message: clip(reason, maxMessage)}
	}
	if r.Kind == wire.KindError {
		r.Next = nil
	}
	if r.Kind == wire.KindError && (!c.held.mine(j) || !c.held.confirm(j.lane.ctx, j)) {
		// The job may be another worker's, and an error of this machine's network, or sleep, is not the data's.
		c.log.Warn("error not committed: the job was not heartbeat for a while", j.at("error", err)...)
		c.held.release(j)
		return
	}
	if r.Kind == wire.KindError {
		c.log.Error("job failed", j.at("attempts", attempts, "error", err)...)
	}
	c.commit(j, r, newPayload())
}

func (c *committer) fault(j *job, attempts int, err error) *schema.Fault {
	f := &schema.Fault{
		Code: schema.CodeMaterialize, Message: clip(err.Error(), maxMessage),
		Worker: c.worker(), Gen: j.lane.gen, Seq: j.seq, Attempts: attempts,
	}
	var panicked *kind.PanicError
	if errors.As(err, &panicked) {
		f.Stack = clip(string(panicked.Stack), maxStack)
	}
	var convicted *convictedError
	if errors.As(err, &convicted) {
		f.Code = convicted.code
	}
	return f
}

// compare looks at the record that was there first, which stays in any case.
func (c *committer) compare(x *commit) {
	j, mine := x.job, x.result
	theirs, err := c.store.result(c.hard, j.lane, mine.Seq)
	var none *noResultError
	switch {
	case errors.As(err, &none):
		// Nobody believes it, so that nothing is lost with it; the first message that is a result wins, as ever.
		c.log.Error("removed what was stored in the place of a result", j.at("error", err)...)
		c.tally.trouble(err.Error())
		c.store.purgeBefore(j.lane, wire.ResultSubject(j.lane.batcher, j.lane.gen, mine.Seq), none.stored+1)
		c.publish(x)
		return
	case errors.Is(err, errNoStream):
		c.storeGone(j, mine)
		c.leave(x)
		return
	case errors.Is(err, errNotStored):
		// Purged between the refusal and now: the outcome is open, and another publication decides it.
		c.publish(x)
		return
	case err != nil:
		c.log.Warn("stored result not read; the job is handed back", j.at("error", err)...)
		c.notStored(j, mine, passing)
		c.leave(x)
		return
	case theirs.Attempt == mine.Attempt:
		c.stored(x)
		return
	}
	c.discard(j, mine)
	if contradict(mine, theirs) {
		c.log.Error("materialization is not deterministic", j.at("digest", mine.Digest,
			"stored_digest", theirs.Digest, "stored_worker", theirs.Worker)...)
		c.store.send(j.lane, wire.Report{
			Gen: j.lane.gen, Made: mine.Digest, Stored: theirs.Digest,
			Fault: &schema.Fault{Code: schema.CodeNondeterministic, Worker: c.worker(), Gen: j.lane.gen, Seq: mine.Seq},
		})
	}
	c.stored(x)
}

// contradict reports whether two results of one job cannot both be right. An error contradicts nothing:
// it may have been the machine's.
func contradict(a, b *wire.Result) bool {
	if a.Kind == wire.KindError || b.Kind == wire.KindError {
		return false
	}
	return a.Kind != b.Kind || a.Digest != b.Digest
}

// discard removes what this attempt, and no other, stored beside its record or keeps for readers.
func (c *committer) discard(j *job, r *wire.Result) {
	c.shelf.drop(r)
	if r.Chunks > 0 && r.Direct == nil {
		c.store.purge(j.lane, wire.ResultSubject(j.lane.batcher, j.lane.gen, r.Seq)+"."+r.Attempt+".>")
	}
}
