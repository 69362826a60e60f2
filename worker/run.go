package worker

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// foreignDelay is how long a foreign job stays away from a worker.
const foreignDelay = 5 * time.Second

// executor runs the data sets' code. It has no state of its own and holds no lock while that code runs.
type executor struct {
	*life
	timeout time.Duration // of a job, retries included
	tries   int           // of a job that fails
	slots   *slots
	held    *held
	puller  *puller
	lanes   *lanes
	commits *committer
	suspend *suspended
	marks   *marks
	tally   *tally
	sleep   func(ctx context.Context, d time.Duration) error // between attempts; replaced by tests

	running sync.WaitGroup // the goroutines of the slots
}

// slot runs one job after another until the worker stops, beginning with what follows the job that ended, if any. The
// data set's code may end the goroutine, whose job has been seen to then: another goroutine goes on.
func (x *executor) slot(ended *job, took int64) {
	var j *job
	var began int64
	defer func() {
		if j != nil {
			took := x.now() - began
			x.running.Go(func() { x.slot(j, took) })
		}
	}()
	for j = x.slots.next(ended, took, x.puller.ask); j != nil; {
		began = x.now()
		if !x.run(j) {
			j = nil // it waits until it can run alone
		}
		j = x.slots.next(j, x.now()-began, x.puller.ask)
	}
}

// run executes one job and sees to it that it is committed, handed back or dropped. It reports false when the job does
// not run now, and its slot is free.
func (x *executor) run(j *job) bool {
	err := j.fault
	if errors.Is(err, errForged) {
		x.forged(j, err)
		return true
	}
	if err == nil && j.deliveries > 1 {
		var history []wire.TimeoutMark
		history, err = x.lookBack(j)
		if err == nil && x.passOn(j, history) {
			return true
		}
		if err == nil && x.setAside(j, history) {
			return false
		}
	}
	began, now := time.Now(), x.now()
	inner, cancel := context.WithCancelCause(j.lane.ctx)
	defer cancel(nil)
	ctx := jobContext{kind.WithTrace(inner, j.trace), x.epoch.Add(time.Duration(now) + x.timeout)}
	j.attempt = rand.Text()
	x.held.begin(j, now, x.timeout, cancel)

	r := x.result(j)
	r.Queue, r.Queued = max(began.Sub(j.stored), 0), j.stored.UnixNano()
	x.tally.observe(j.lane, stageQueue, r.Queue)
	payload := newPayload()
	e := execution{job: j, ctx: ctx, result: r, payload: payload, began: began, attempts: 1, err: err}
	defer func() { // also when the data set's code ends the goroutine
		if v := recover(); v != nil {
			panic(v) // it is not the data set's
		}
		x.conclude(&e)
	}()
	if e.err == nil && j.suspect() {
		e.err = x.marks.start(ctx, j)
	}
	if e.err == nil {
		x.materialize(&e)
	}
	return true
}

// execution is one execution of a job.
type execution struct {
	*job
	ctx      context.Context
	result   *wire.Result
	payload  *product
	began    time.Time
	attempts int
	err      error
}

// conclude sees to it that an executed job is committed, handed back or dropped.
func (x *executor) conclude(e *execution) {
	j, r, err := e.job, e.result, e.err
	r.Materialize = time.Since(e.began)
	x.tally.observe(j.lane, stageMaterialize, r.Materialize)
	x.tally.retried(j.lane, e.attempts-1)
	late := x.held.executed(j)

	found := judge.Execution{Lost: x.slots.isLost(j), Cut: cutBy(e.ctx), Failure: failureOf(err)}
	if late && err != nil && found.Cut == judge.NotCut {
		found.Cut = judge.Deadline // the code knows its deadline, and returned by the clock
		x.markTimeout(j)
	}
	if found.Cut == judge.NotCut && !found.Lost && found.Failure == judge.OfJob && !final(err) {
		found.Failure, err = x.weigh(e.ctx, j, err)
	}
	var ofMachine *machineError
	if found.Cut == judge.NotCut && errors.As(err, &ofMachine) {
		x.suspend.suspend(j.lane, ofMachine) // before the job is back in the queue
		x.marks.unmark(j)
	}
	action := judge.Decide(found)
	if action == judge.Commit {
		if j.deliveries > 1 {
			j.lane.failures.forget(j.seq)
		}
		if j.lane.faults.Load() > 0 {
			j.lane.faults.Store(0)
		}
		x.commits.commit(j, r, e.payload)
		return
	}
	e.payload.free()
	if found.Cut != judge.NotCut && !found.Lost {
		x.cutShort(j, found.Cut, context.Cause(e.ctx))
	}
	switch action {
	case judge.Release:
		x.held.release(j)
	case judge.Ack:
		x.held.ack(j)
	case judge.Return:
		x.held.giveBack(j, 0)
	case judge.ReturnLater:
		x.held.giveBack(j, passingDelay)
	case judge.PassOn:
		x.marks.unmark(j)
		x.held.giveBack(j, 0) // declined where it comes here again
	case judge.ReturnFar:
		x.log.Error("job handed back", j.at("subject", j.subject, "error", err)...)
		x.tally.trouble(err.Error())
		x.held.giveBack(j, foreignDelay)
	case judge.NotStored:
		var unmarked *unmarkedError
		errors.As(err, &unmarked)
		x.commits.notStored(j, r, unmarked.verdict)
	case judge.CommitFault:
		x.commits.fail(j, r, e.attempts, err)
	}
}

// forged gets a job out of the way that the owner did not queue; the owner finds its own missing, and queues it. Where
// the record has changed since the lane was opened, it may be the lane that is wrong.
func (x *executor) forged(j *job, err error) {
	if !x.lanes.confirm(j.lane) {
		x.held.giveBack(j, 0)
		return
	}
	x.log.Error("job dropped", j.at("subject", j.subject, "error", err)...)
	x.tally.trouble(err.Error())
	x.held.ack(j)
}

// lookBack reads which earlier executions of a job that was delivered before ran into their deadline. The error
// convicts the job.
func (x *executor) lookBack(j *job) (history []wire.TimeoutMark, err error) {
	history, err = x.marks.timeouts(j.lane.ctx, j)
	if err != nil {
		return nil, nil // a store that is gone, or silent, shows when the result is stored
	}
	return history, convict(history)
}

// passOn hands a job back whose last execution ran into its deadline here, for another worker to try.
func (x *executor) passOn(j *job, history []wire.TimeoutMark) bool {
	if len(history) == 0 || history[len(history)-1].Worker != x.worker() {
		return false
	}
	delay, passes := j.lane.failures.passes(j, x.now())
	if passes {
		x.held.giveBack(j, delay)
	}
	return passes
}

// setAside sees to it that a job that ran into its deadline before runs alone: it is set aside unless it does now.
func (x *executor) setAside(j *job, history []wire.TimeoutMark) bool {
	if len(history) == 0 || j.suspect() || j.aside {
		return false
	}
	j.aside = true
	return x.slots.setAside(j)
}

// cutShort notes why an execution was cut off. An end that is not the job's fault must not speak against it.
func (x *executor) cutShort(j *job, cut judge.Cut, cause error) {
	x.tally.count(j.lane).abandoned.Add(1)
	x.log.Warn("job cut off", j.at("deliveries", j.deliveries, "cause", cause)...)
	if marked := x.held.timedOut(j); marked != nil {
		select {
		case <-marked: // so that the next worker knows
		case <-x.hard.Done():
		}
	}
	if cut == judge.Leaving || cut == judge.Deadline {
		x.marks.unmark(j)
	}
}

// tick marks the jobs that a tick of held has cut off, in the background, and gives up the slots of those whose code
// does not return.
func (x *executor) tick(reachable bool, grace time.Duration, tasks *tasks) {
	cut, lost := x.held.tick(reachable, grace)
	for _, j := range cut {
		mark := func() {
			defer close(j.marked)
			if j.lane.ctx.Err() == nil {
				x.markTimeout(j)
			}
		}
		if !tasks.run(mark) {
			close(j.marked)
		}
	}
	for _, j := range lost {
		if x.slots.lose(j) {
			x.tally.trouble("a job ignores the end of its context; its slot is lost: " + j.subject)
			_, slots, _ := x.slots.load()
			x.log.Error("job ignores the end of its context and its slot is lost until it returns",
				"subject", j.subject, "slots", slots)
		}
	}
}

func (x *executor) markTimeout(j *job) {
	x.marks.timeout(x.hard, j, x.timeout, x.slots.ranAlone(j))
}

// result begins the result of a job. Of a job that cannot be read, only the sequence number is known.
func (x *executor) result(j *job) *wire.Result {
	r := &wire.Result{Seq: j.seq, Attempt: j.attempt, Worker: x.worker(), Deliveries: j.deliveries, Spec: j.lane.spec}
	if j.work != nil {
		r.Prev, r.Next, r.Iterate = j.work.Prev, j.work.Next, j.work.Iterate
	}
	return r
}

// materialize runs the data set's code, with retries, and fills the payload.
func (x *executor) materialize(e *execution) {
	for e.attempts = 1; ; e.attempts++ {
		e.err = kind.ErrNoReturn
		e.err = x.attempt(e.ctx, e.job, e.payload)
		if e.err != nil && e.attempts == 1 {
			e.failed = x.now()
		}
		if e.err == nil || e.ctx.Err() != nil || e.attempts >= x.tries || !retryable(e.err) {
			return
		}
		wait := time.Duration(judge.Backoff(e.attempts, mathrand.Float64()))
		x.log.Warn("attempt failed",
			e.at("subject", e.subject, "attempt", e.attempts, "retry_in", wait, "error", e.err)...)
		if err := x.sleep(e.ctx, wait); err != nil {
			e.err = err
			return
		}
	}
}

func (x *executor) attempt(ctx context.Context, j *job, payload *product) error {
	inst, err := j.lane.data.acquire(ctx)
	if err != nil {
		return err
	}
	defer j.lane.data.done()
	payload.pieces, payload.scratch, err = inst.Materialize(ctx, j.work.Body, payload.scratch)
	if err != nil && ctx.Err() == nil && ofMachine(err) {
		err = &machineError{j.lane.data.kind.Name, err}
	}
	return err
}

// retryable reports whether another attempt of the same execution may do better.
func retryable(err error) bool {
	if dataset.IsPermanent(err) {
		return false // the author says so
	}
	if _, skip := dataset.SkipReason(err); skip {
		return false // not a failure
	}
	var ofMachine *machineError
	if errors.As(err, &ofMachine) {
		return false // another machine may do better
	}
	return true // files that are not there yet, networks, panics of races
}

// cutBy says why the context of an execution ended.
func cutBy(ctx context.Context) judge.Cut {
	if ctx.Err() == nil {
		return judge.NotCut
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errOver):
		return judge.Over
	case errors.Is(cause, errNoStream):
		return judge.NoStore
	case errors.Is(cause, context.DeadlineExceeded):
		return judge.Deadline
	}
	return judge.Leaving
}

// failureOf sorts what an execution returned.
func failureOf(err error) judge.Failure {
	var unmarked *unmarkedError
	var ofMachine *machineError
	switch {
	case err == nil:
		return judge.NoFailure
	case errors.As(err, &ofMachine):
		return judge.OfMachine
	case errors.Is(err, errForeign):
		return judge.Foreign
	case errors.As(err, &unmarked):
		return judge.Unmarked
	}
	return judge.OfJob
}
