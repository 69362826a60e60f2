package owner

import (
	"slices"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// jobOverhead is more than a job's message has besides its byte slices.
const jobOverhead = 72

// jobs are those of one generation: which are out, which are to be published again, which are being deleted.
type jobs struct {
	*window.Window
	out    *effects
	reader *reader // whose trace they carry
	gen    string
	spec   wire.Digest // of what the generation is of

	done    map[uint64]bool // results that were there at the takeover
	listed  uint64          // fed when the last Look for repair began: its lists say nothing of later jobs
	owed    []uint64        // beyond the window and without a job, ascending: to be published when it opens
	lost    map[uint64]bool // sequence numbers that a Remove is under way for
	skipped uint64          // up to here results may never have been made: skipped over, or of before this owner
	backup  uint64          // the sequence number whose job a second worker may have; 0 for none
	cancels int             // under way: until they end, a job that is published again could be deleted at once
	relook  bool            // what may be missing since a Cancel or a Look began is looked for behind it
}

// feed takes a job of the iterator and puts it into a run of n at most, which it publishes when the job does not fit.
// It reports the size of a job that is larger than limit, and does not take it; and whether the job is published.
func (j *jobs) feed(it Item, r *run, n int, limit int64) (tooLarge int, published bool) {
	seq := j.Fed() + 1
	prev := j.StateAfter(seq - 1)
	job := wire.AppendJob(make([]byte, 0, len(prev)+len(it.Next)+len(it.Job)+jobOverhead), &wire.Job{
		Seq: seq, Prev: prev, Next: it.Next, Body: it.Job, Iterate: it.Took, Spec: j.spec,
	})
	if int64(len(job)) > limit {
		return len(job), false
	}
	j.Feed(window.Entry{Next: it.Next, Job: job})
	if seq <= j.Taken() || j.done[seq] {
		return 0, false
	}
	if !r.add(seq, job, n) {
		j.send(r)
		r.add(seq, job, n)
	}
	return 0, true
}

// send publishes a run and begins the next.
func (j *jobs) send(r *run) {
	if r.n > 0 {
		j.out.emit(Publish{First: r.first, N: r.n, Data: r.data, Trace: j.reader.trace})
	}
	*r = run{}
}

// pay publishes the jobs that are owed and that the window has room for by now.
func (j *jobs) pay() {
	for j.cancels == 0 && len(j.owed) > 0 && j.owed[0] <= j.Head()+uint64(j.Limit()) {
		seq := j.owed[0]
		j.owed = j.owed[1:]
		if e, ok := j.Entry(seq); ok && seq > j.Taken() {
			j.out.emit(Publish{First: seq, N: 1, Data: e.Job, Again: true, Trace: j.reader.trace})
		}
	}
}

// owe has a job published again that the trainer still needs.
func (j *jobs) owe(seq uint64) {
	if at, found := slices.BinarySearch(j.owed, seq); !found {
		j.owed = slices.Insert(j.owed, at, seq)
	}
	j.pay()
}

// reissue publishes again what is neither taken nor has a result nor is queued, as far as the window goes. It reports
// false when that is to wait for a Cancel. Jobs that were fed after the look began are in neither list, and quick
// workers may have made them since: those stay owed that were.
func (j *jobs) reissue(done, queued map[uint64]bool) bool {
	if j.cancels > 0 {
		j.relook = true
		return false
	}
	j.owed = j.Missing(func(seq uint64) bool {
		if seq > j.listed {
			return !slices.Contains(j.owed, seq)
		}
		return done[seq] || queued[seq]
	})
	j.pay()
	return true
}

// apart returns the jobs of seqs that the trainer still needs, each by itself. It reports false when a job was not fed,
// or when jobs are being cancelled, these perhaps.
func (j *jobs) apart(seqs []uint64) (single []Publish, ok bool) {
	if j.cancels > 0 {
		return nil, false
	}
	for _, seq := range seqs {
		e, held := j.Entry(seq)
		switch {
		case seq > j.Fed():
			return nil, false
		case held && seq > j.Taken() && !j.done[seq]:
			single = append(single, Publish{First: seq, N: 1, Data: e.Job, Trace: j.reader.trace})
		}
	}
	return single, true
}

// cancel deletes the queued jobs in [from, to).
func (j *jobs) cancel(from, to uint64) {
	if from < to {
		j.cancels++
		j.out.emit(Cancel{j.gen, from, to})
	}
}

// cancelled ends a Cancel, and reports whether jobs are to be looked for that were missing before.
func (j *jobs) cancelled() bool {
	j.cancels--
	if j.cancels > 0 || !j.relook && len(j.owed) == 0 {
		return false
	}
	return true
}

// backUp gives the job of a head that straggles to a second worker, once: the first result that is stored counts, and
// the other is refused. The second job waits its turn behind all that are out, so that it takes no slot from them.
func (j *jobs) backUp(seq uint64) bool {
	e, fed := j.Entry(seq)
	if !fed || seq <= j.backup {
		return false
	}
	j.out.emit(Backup{seq, e.Job, j.reader.trace})
	j.backup = seq
	return true
}

// cancelBackup deletes the second job of a head that is taken.
func (j *jobs) cancelBackup() {
	if j.backup > 0 && j.Head() >= j.backup {
		j.cancel(j.backup, j.backup+1)
		j.backup = 0
	}
}

// redo has the batches made again whose payloads were lost with their workers. The commit record goes first, and only
// that of the lost attempt: another attempt's may have taken its place since.
func (j *jobs) redo(lost []wire.Lost) {
	var remove []wire.Lost
	for _, l := range lost {
		if _, ok := j.Entry(l.Seq); ok && l.Seq > j.Taken() && !j.lost[l.Seq] {
			j.lost[l.Seq] = true
			remove = append(remove, l)
		}
	}
	if len(remove) > 0 {
		j.out.emit(Remove{j.gen, remove})
	}
}

// removed goes on when the records of lost attempts are gone.
func (j *jobs) removed(lost []wire.Lost) {
	for _, l := range lost {
		j.out.warn("payload was lost with its worker; batch is made again", "gen", j.gen, "seq", l.Seq, "attempt", l.Attempt)
		delete(j.done, l.Seq)
		j.owe(l.Seq)
	}
	clear(j.lost) // what was not removed is named again
}

// shrink drops the highest results and their jobs beyond a new limit of the window, and returns how many results that
// were. All of it is published again when the window opens.
func (j *jobs) shrink(limit int, done map[uint64]bool) (dropped int) {
	j.SetLimit(limit)
	keep := j.Head() + uint64(limit)
	j.out.emit(Forget{Keep: keep})
	j.cancel(keep+1, j.Fed()+1)
	for seq := j.Fed(); seq > keep; seq-- {
		if done[seq] {
			j.out.emit(Purge{j.gen, seq - 1, seq})
			delete(done, seq)
			dropped++
		}
	}
	j.owed = slices.DeleteFunc(j.Missing(func(seq uint64) bool { return done[seq] }), func(seq uint64) bool { return seq <= keep })
	return dropped
}

// drop forgets what is at or below a new floor.
func (j *jobs) drop(floor uint64) {
	j.Drop(floor)
	for seq := range j.done {
		if seq <= floor {
			delete(j.done, seq)
		}
	}
}

// sweep purges results that came after they were dropped.
func (j *jobs) sweep(done map[uint64]bool) {
	var late []uint64
	for seq := range done {
		if seq <= j.Floor() {
			late = append(late, seq)
		}
	}
	slices.Sort(late)
	for _, seq := range late {
		j.out.emit(Purge{j.gen, seq - 1, seq})
	}
}
