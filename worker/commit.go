package worker

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// Bounds on commits that are published and not answered. The slot is free once its record is published, so
// something must hold a worker back that is faster than the store.
const (
	maxUnsettled      = 256
	maxUnsettledBytes = 64 << 20
)

// passingDelay is how long a job that met a passing trouble is left alone before it is handed out again.
const passingDelay = time.Second

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
func (w *Worker) commit(j *job, r *wire.Result, payload *product) {
	began := time.Now()
	r.Digest = payload.pieces.Sum()
	r.Size = uint64(payload.pieces.Size())
	kept := w.keep(j, r, payload)
	if kept || r.Size > wire.InlineLimit {
		r.Chunks = uint32((r.Size + wire.ChunkSize - 1) / wire.ChunkSize)
	}
	if r.Chunks > 0 && !kept {
		v := w.upload(j.lane, r.Seq, r.Attempt, payload.pieces)
		payload.free()
		if v != stored {
			w.unstored(j, r, v)
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
		w.discard(j, r)
		w.log.Error("result not encoded", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", r.Seq, "error", err)
		w.handBack(j, passingDelay)
		return
	}
	c := &commit{job: j, result: r, record: record, size: len(record.data), began: began}
	if !w.admit(c.size) {
		record.free()
		w.forget(r)
		return // the worker stops, and hands back everything it holds
	}
	w.publish(c)
}

func (w *Worker) publish(c *commit) {
	w.pub.send(&publication{
		stream: c.job.lane.store, subject: wire.ResultSubject(c.job.lane.batcher, c.job.lane.gen, c.result.Seq),
		header: c.job.header(), data: c.record.data,
		done: func(a *pubAck) { w.settle(c, a) },
	})
}

// admit waits until another commit of so many bytes may be outstanding; false when the worker stops.
func (w *Worker) admit(size int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.unsettled > 0 && (w.unsettled >= maxUnsettled || w.unsettledBytes+size > maxUnsettledBytes) {
		if w.hard.Err() != nil {
			return false
		}
		w.room.Wait()
	}
	w.unsettled++
	w.unsettledBytes += size
	return true
}

// settle is called with the answer to a record. It must not block.
func (w *Worker) settle(c *commit, a *pubAck) {
	v := a.verdict(c.job.lane.store)
	if v == stored {
		w.settled(c)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.tasks.Go(func() { w.refused(c, v) })
	}
}

// settled ends a commit that is known to be stored: only now the job may be acked.
func (w *Worker) settled(c *commit) {
	w.countStored(c)
	w.mu.Lock()
	done := w.dropLocked(c.job) && c.job.endLocked()
	w.releaseLocked(c)
	w.done++
	if c.result.Kind == wire.KindError {
		w.failed++
		w.lastError = clip(c.result.Fault.Message, 256)
	}
	w.mu.Unlock()
	c.record.free()
	if done {
		w.answer(c.job.delivery, nil)
	}
}

// release makes room for other commits.
func (w *Worker) release(c *commit) {
	w.mu.Lock()
	w.releaseLocked(c)
	w.mu.Unlock()
	c.record.free()
}

func (w *Worker) releaseLocked(c *commit) {
	w.unsettled--
	w.unsettledBytes -= c.size
	w.room.Broadcast()
}
