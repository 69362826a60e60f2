package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// refused decides what becomes of a job whose record was not stored.
func (w *Worker) refused(c *commit, v verdict) {
	if v == exists {
		w.compare(c)
		return
	}
	if v == tooLarge && c.result.Kind != wire.KindError {
		w.release(c)
		w.tooLarge(c.job, c.result)
		return
	}
	w.unstored(c.job, c.result, v)
	w.release(c)
}

// unstored lets go of a job whose result the store did not take.
func (w *Worker) unstored(j *job, r *wire.Result, v verdict) {
	if w.hard.Err() != nil {
		return // the worker stops, and hands back everything it holds
	}
	switch v {
	case gone:
		w.storeGone(j, r)
		return
	case tooLarge:
		if r.Kind != wire.KindError {
			w.tooLarge(j, r)
			return
		}
	case full:
		w.count(j.lane).full.Add(1)
		w.storeFull(j.lane, r.Seq, int(r.Size))
	default:
		w.log.Warn("result not stored; the job is handed back", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", r.Seq)
	}
	w.discard(j, r)
	w.unmark(j)
	w.handBack(j, passingDelay)
}

// storeFull asks the owner for room.
func (w *Worker) storeFull(l *lane, seq uint64, size int) {
	w.log.Warn("store is full", "batcher", l.batcher, "gen", l.gen, "seq", seq, "bytes", size)
	w.report(l, &schema.Fault{
		Code: schema.CodeStoreFull, Message: fmt.Sprintf("no room for %d bytes", size),
		Worker: w.cfg.Name, Gen: l.gen, Seq: seq,
	})
}

// tooLarge commits an error in the place of a result that no server setting here will ever take.
func (w *Worker) tooLarge(j *job, r *wire.Result) {
	w.discard(j, r)
	failed := *r
	failed.Chunks, failed.Size, failed.Direct = 0, 0, nil
	w.fail(j, &failed, 1, fmt.Errorf("a record of %d bytes is more than the server's max_payload or the store takes", r.Size))
}

// storeGone stops serving a generation until its store is there again, since what its jobs make would be lost, and tells
// the owner. The record says whether the generation is over.
func (w *Worker) storeGone(j *job, r *wire.Result) {
	w.mu.Lock()
	w.storeless[j.lane.batcher] = j.lane.gen
	w.mu.Unlock()
	w.closeLane(j.lane, errNoStream)
	w.report(j.lane, &schema.Fault{
		Code: schema.CodeStoreGone, Message: errNoStream.Error(), Worker: w.cfg.Name, Gen: j.lane.gen, Seq: r.Seq,
	})
	rec, err := w.record(w.hard, j.lane.batcher)
	over := err == nil && (rec == nil || rec.Gen != j.lane.gen)
	w.log.Warn("store of results is gone", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", r.Seq, "superseded", over, "error", err)
	w.forget(r)
	if over {
		w.ack(j)
	} else {
		w.handBack(j, passingDelay)
	}
	w.check(j.lane.batcher, "")
}

// hasStore reports whether a generation's store, once missed, is there.
func (w *Worker) hasStore(ctx context.Context, batcher, gen string) bool {
	w.mu.Lock()
	missed := w.storeless[batcher] == gen
	w.mu.Unlock()
	if !missed {
		return true
	}
	_, err := w.storedResult(ctx, &lane{batcher: batcher, gen: gen, store: topology.ResultsStream(batcher, gen)}, 0) // there is none
	return errors.Is(err, errNotStored)
}

// compare looks at the record that was there first. Whatever it is, it stays.
func (w *Worker) compare(c *commit) {
	j, mine := c.job, c.result
	theirs, err := w.storedResult(w.hard, j.lane, mine.Seq)
	switch {
	case errors.Is(err, errNoStream):
		w.storeGone(j, mine)
		w.release(c)
		return
	case errors.Is(err, errNotStored):
		// Purged between the refusal and now: the outcome is open, and another publication decides it.
		w.publish(c)
		return
	case err != nil:
		w.log.Warn("stored result not read; the job is handed back", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", mine.Seq, "error", err)
		w.unstored(j, mine, passing)
		w.release(c)
		return
	case theirs.Attempt == mine.Attempt:
		w.settled(c)
		return
	}
	w.discard(j, mine)
	if contradict(mine, theirs) {
		w.log.Error("materialization is not deterministic", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", mine.Seq,
			"digest", mine.Digest, "stored_digest", theirs.Digest, "stored_worker", theirs.Worker)
		w.report(j.lane, &schema.Fault{
			Code: schema.CodeNondeterministic, Worker: w.cfg.Name, Gen: j.lane.gen, Seq: mine.Seq,
			Message: fmt.Sprintf("job %d: worker %s made %v %v, worker %s made %v %v", mine.Seq,
				w.cfg.Name, mine.Kind, mine.Digest, theirs.Worker, theirs.Kind, theirs.Digest),
		})
	}
	w.settled(c)
}

// contradict reports whether two results of one job cannot both be right. An error contradicts nothing:
// it may have been the machine's.
func contradict(a, b *wire.Result) bool {
	if a.Kind == wire.KindError || b.Kind == wire.KindError {
		return false
	}
	return a.Kind != b.Kind || a.Digest != b.Digest
}

var (
	errNoStream  = errors.New("no such stream")
	errNotStored = errors.New("not stored")
)

// storedResult reads a commit record from the stream's leader.
func (w *Worker) storedResult(ctx context.Context, l *lane, seq uint64) (*wire.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]string{"last_by_subj": wire.ResultSubject(l.batcher, l.gen, seq)})
	if err != nil {
		return nil, err
	}
	msg, err := w.data.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+l.store, request)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, errNoStream
	}
	if err != nil {
		return nil, err
	}
	var reply struct {
		Error   *refusal `json:"error"`
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return nil, err
	}
	if e := reply.Error; e != nil {
		switch {
		case topology.IsNoMessage(e.ErrCode):
			return nil, errNotStored
		case topology.IsNoStream(e.ErrCode):
			return nil, errNoStream
		}
		return nil, fmt.Errorf("%s (%d)", e.Description, e.ErrCode)
	}
	r, _, err := wire.DecodeResult(reply.Message.Data)
	return r, err
}

// report tells the owner something about its store. It is a hint; the owner looks for itself.
func (w *Worker) report(l *lane, f *schema.Fault) {
	data, err := json.Marshal(wire.Report{Gen: l.gen, Fault: f})
	if err == nil {
		err = w.nc.Publish(wire.ReportPrefix+"."+l.batcher, data)
	}
	if err != nil {
		w.log.Warn("report not sent", "batcher", l.batcher, "gen", l.gen, "error", err)
	}
}

// discard removes what this attempt, and no other, stored beside its record or keeps for readers.
func (w *Worker) discard(j *job, r *wire.Result) {
	w.forget(r)
	if r.Chunks > 0 && r.Direct == nil {
		w.purge(j.lane, wire.ResultSubject(j.lane.batcher, j.lane.gen, r.Seq)+"."+r.Attempt+".>")
	}
}

// purge removes messages from a generation's store. What it misses goes with the generation.
func (w *Worker) purge(l *lane, filter string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.hard), topology.AckWait)
	defer cancel()
	request, err := json.Marshal(map[string]string{"filter": filter})
	if err == nil {
		_, err = w.data.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+l.store, request)
	}
	if err != nil {
		w.log.Debug("not purged", "batcher", l.batcher, "gen", l.gen, "filter", filter, "error", err)
	}
}
