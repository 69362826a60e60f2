package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// maxFailures is how many jobs of a lane are known to have failed here; the window is not much wider.
const maxFailures = 1024

// failures are the jobs of a lane that failed here and have not been judged. An error may be of this machine, so a job
// is judged when it has failed on two workers, or when this one has been the only one for a while. The lock guards all.
type failures struct {
	mu    sync.Mutex
	since map[uint64]int64 // by sequence number, when a job failed here first
	stuck map[uint64]int64 // when one was first passed on since it had run into its deadline here
	alone int64            // since when the owner knows of no other worker; 0 while it does, or is not heard
	heard int64            // when the owner last said
}

// company notes how many workers the owner knows of.
func (f *failures) company(now int64, workers int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	f.heard = now
	switch {
	case workers > 1:
		f.alone = 0
	case f.alone == 0:
		f.alone = now
	}
}

// expire forgets what a silent owner said. f.mu is held.
func (f *failures) expire(now int64) {
	if now-f.heard > judge.OwnerSilence {
		f.alone = 0
	}
}

// failed notes when a job failed here, and reports whether this worker may judge it by itself.
func (f *failures) failed(seq uint64, at, now int64) (sole bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	if first, ok := f.since[seq]; ok {
		at = first
	} else if f.since == nil || len(f.since) >= maxFailures {
		f.since = make(map[uint64]int64) // those forgotten are run once more here, which is work and no harm
	}
	f.since[seq] = at
	return judge.Sole(now, at, f.alone)
}

// forget ends a job.
func (f *failures) forget(seq uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.since, seq)
	delete(f.stuck, seq)
}

// passes reports whether a job whose last execution ran into its deadline here is to be tried by another worker next,
// and for how long it should stay away: it may be this machine that is stuck. A worker that has been the only one for a
// while, or whose job no other tries, runs it again.
func (f *failures) passes(j *job, now int64) (delay time.Duration, passes bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire(now)
	first, known := f.stuck[j.seq]
	if !known {
		if f.stuck == nil || len(f.stuck) >= maxFailures {
			f.stuck = make(map[uint64]int64)
		}
		first = now
		f.stuck[j.seq] = first
	}
	if judge.Sole(now, first, f.alone) || f.alone > 0 && judge.Sole(now, f.alone, f.alone) {
		delete(f.stuck, j.seq)
		return 0, false
	}
	return time.Duration(judge.PassFor(now, first, f.alone, j.deliveries)), true
}

// avoids reports whether a delivery is of a job that failed here and that another worker is to try, and for how long it
// should stay away.
func (f *failures) avoids(d *delivery, now int64) (delay time.Duration, avoids bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first, known := f.since[d.jobs[0].seq]
	if !known || len(d.jobs) > 1 {
		return 0, false
	}
	f.expire(now)
	if judge.Sole(now, first, f.alone) {
		return 0, false
	}
	return time.Duration(judge.PassFor(now, first, f.alone, d.deliveries)), true
}

// weigh says whether a failure is the job's, by what other workers saw, and returns the error to be committed if so.
func (x *executor) weigh(ctx context.Context, j *job, err error) (judge.Failure, error) {
	now := x.now()
	sole := j.lane.failures.failed(j.seq, cmp.Or(j.failed, now), now) // code that does not return has failed now
	ctx, cancel := context.WithTimeout(ctx, topology.AckWait)
	defer cancel()
	other, v, unmarked := x.marks.failure(ctx, j, err.Error())
	switch {
	case other != nil:
		if other.Text != clip(err.Error(), maxMarked) {
			err = fmt.Errorf("%w (on worker %s: %s)", err, other.Worker, other.Text)
		}
		return judge.OfJob, err
	case sole:
		return judge.OfJob, err
	case unmarked != nil:
		return judge.Unmarked, &unmarkedError{passing}
	case v != stored && v != exists:
		return judge.Unmarked, &unmarkedError{v}
	}
	x.tally.trouble(fmt.Sprintf("job %d of %s failed here, and is tried on another worker: %v", j.seq, j.lane.batcher, err))
	x.log.Warn("job failed here; another worker is to confirm it", j.at("error", err)...)
	return judge.Unconfirmed, err
}

// final reports whether an error is a verdict by itself: what the service found out about the job, or the author's word
// that nothing can mend it.
func final(err error) bool {
	var convicted *convictedError
	_, skip := dataset.SkipReason(err)
	return skip || dataset.IsPermanent(err) || errors.As(err, &convicted)
}
