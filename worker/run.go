package worker

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Backoff between the attempts of one execution.
const (
	firstBackoff  = 50 * time.Millisecond
	backoffFactor = 5
	longestWait   = 10 * time.Second
)

// Bounds on the text of a fault, so that its record stays far below a message's limit.
const (
	maxMessage = 8 << 10
	maxStack   = 32 << 10
)

// slot runs one job after another until the worker stops.
func (w *Worker) slot() {
	for j := w.next(nil, 0); j != nil; {
		began := w.now()
		w.run(j)
		j = w.next(j, w.now()-began)
	}
}

// next ends the job that the slot ran, if any, and waits for the one to run now; nil when the worker stops.
func (w *Worker) next(ended *job, took int64) *job {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ended != nil {
		if ended.lost {
			w.lost--
			w.sched.Regain()
			w.announce()
		} else {
			w.sched.Done(ended.lane, took)
		}
		if w.draining {
			w.announce() // the loop looks whether this was the last
		}
	}
	asks := w.sched.Asks(w.now())
	for {
		if w.stopped {
			return nil
		}
		_, j, ok := w.sched.Next()
		if ok && w.sched.Waiting() > 0 {
			w.ready.Signal() // a delivery wakes one slot; this one wakes the next
		}
		if len(asks) > 0 {
			w.unlocked(func() { w.ask(asks) })
			asks = nil
			if !ok {
				continue
			}
		}
		if ok {
			return j
		}
		w.ready.Wait()
	}
}

// unlocked calls f without w.mu, which is held before and after.
func (w *Worker) unlocked(f func()) {
	w.mu.Unlock()
	defer w.mu.Lock()
	f()
}

// jobContext is a job's context. It has a deadline without a timer of its own: Worker.heartbeat looks.
type jobContext struct {
	context.Context
	deadline time.Time
}

func (c jobContext) Deadline() (time.Time, bool) { return c.deadline, true }

// Err says DeadlineExceeded where the deadline was the cause.
func (c jobContext) Err() error {
	if err := c.Context.Err(); err == nil || !errors.Is(context.Cause(c.Context), context.DeadlineExceeded) {
		return err
	}
	return context.DeadlineExceeded
}

// run executes one job and sees to it that it is committed, handed back or dropped.
func (w *Worker) run(j *job) {
	began := time.Now()
	inner, cancel := context.WithCancelCause(j.lane.ctx)
	defer cancel(nil)
	ctx := jobContext{kind.WithTrace(inner, j.trace), began.Add(w.cfg.JobTimeout)}
	w.mu.Lock()
	j.deadline, j.cancel = w.now()+int64(w.cfg.JobTimeout), cancel
	w.mu.Unlock()

	r, err := w.result(j), j.fault
	r.Queue, r.Queued = max(began.Sub(j.stored), 0), j.stored.UnixNano()
	w.observe(j.lane, stageQueue, r.Queue)
	payload := newPayload()
	attempts := 1
	if err == nil && j.suspect() {
		err = w.mark(ctx, j, r)
	}
	if err == nil {
		attempts, err = w.materialize(ctx, j, j.work.Body, payload)
	}
	r.Materialize = time.Since(began)
	w.observe(j.lane, stageMaterialize, r.Materialize)
	w.count(j.lane).retries.Add(uint64(attempts - 1))
	w.mu.Lock()
	lost := j.lost
	j.cancel = nil
	w.retried += uint64(attempts - 1)
	w.mu.Unlock()

	var unmarked *unmarkedError
	ended := ctx.Err() != nil
	if err == nil && !lost && !ended {
		w.commit(j, r, payload)
		return
	}
	payload.free()
	switch {
	case lost:
		w.letGo(j) // another worker has had it for long
	case ended:
		w.abandon(j, r, context.Cause(ctx))
	case errors.Is(err, errForeign):
		w.foreign(j, r.Seq, err)
	case errors.As(err, &unmarked):
		w.unstored(j, r, unmarked.verdict)
	default:
		w.fail(j, r, attempts, err)
	}
}

// result begins the result of a job. Of one that cannot be read only the place is known.
func (w *Worker) result(j *job) *wire.Result {
	r := &wire.Result{Seq: j.seq, Attempt: rand.Text(), Worker: w.cfg.Name, Deliveries: j.deliveries}
	if j.work != nil {
		r.Prev, r.Next, r.Iterate = j.work.Prev, j.work.Next, j.work.Iterate
	}
	return r
}

// errForeign is of a job of a data set, or of a version of it or of the wire, that the worker does not have. Consumers
// hand none of them to it, unless somebody else made the consumer.
var errForeign = errors.New("job is for another worker")

// foreignDelay is how long a foreign job stays away from a worker.
const foreignDelay = 5 * time.Second

// foreign hands back a job that this worker cannot understand, and so cannot judge either.
func (w *Worker) foreign(j *job, seq uint64, err error) {
	w.log.Error("job handed back", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", seq, "subject", j.subject, "error", err)
	w.mu.Lock()
	w.lastError = err.Error()
	w.mu.Unlock()
	w.handBack(j, foreignDelay)
}

// abandon gives up a job whose context has ended.
func (w *Worker) abandon(j *job, r *wire.Result, cause error) {
	w.count(j.lane).abandoned.Add(1)
	w.log.Warn("job abandoned", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", r.Seq, "deliveries", j.deliveries, "cause", cause)
	switch {
	case errors.Is(cause, errSuperseded):
		w.ack(j)
		return
	case errors.Is(cause, errNoStream):
		w.handBack(j, passingDelay)
		return
	case errors.Is(cause, errDraining):
		w.unmark(j) // this start ended for a reason of ours and must not speak against the job
	}
	w.handBack(j, 0)
}

// fail commits an error, or a hole.
func (w *Worker) fail(j *job, r *wire.Result, attempts int, err error) {
	r.Kind = wire.KindError
	r.Fault = w.fault(j, r.Seq, attempts, err)
	if reason, ok := dataset.SkipReason(err); ok {
		// A hole is as good as a batch: everybody finds it, and the state after it goes on.
		r.Kind, r.Fault = wire.KindHole, &schema.Fault{Code: schema.CodeSkipped, Message: clip(reason, maxMessage)}
	}
	if r.Kind == wire.KindError {
		r.Next = nil
	}
	if r.Kind == wire.KindError && (!w.ours(j) || !w.confirm(j.lane.ctx, j)) {
		// Nobody knows whether the job is still ours, and an error of this machine's network, or sleep, is not the data's.
		w.log.Warn("error not committed: the job was not heartbeat for a while", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", r.Seq, "error", err)
		w.letGo(j)
		return
	}
	w.commit(j, r, newPayload())
}

func (w *Worker) fault(j *job, seq uint64, attempts int, err error) *schema.Fault {
	f := &schema.Fault{
		Code: schema.CodeMaterialize, Message: clip(err.Error(), maxMessage),
		Worker: w.cfg.Name, Gen: j.lane.gen, Seq: seq, Attempts: attempts,
	}
	var panicked *kind.PanicError
	if errors.As(err, &panicked) {
		f.Stack = clip(string(panicked.Stack), maxStack)
	}
	switch {
	case errors.Is(err, errPoison):
		f.Code = schema.CodePoison
	case errors.Is(err, kind.ErrBadParams):
		f.Code = schema.CodeBadParams
	}
	return f
}

// clip bounds a text and makes it fit for the wire, whatever the data set put into it.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "")
}

// materialize runs the data set's code, with retries, and fills payload.
func (w *Worker) materialize(ctx context.Context, j *job, body []byte, payload *product) (attempts int, err error) {
	for attempts = 1; ; attempts++ {
		err = w.attempt(ctx, j, body, payload)
		if err == nil || ctx.Err() != nil || attempts >= w.cfg.Attempts || !retryable(err) {
			return attempts, err
		}
		wait := backoff(attempts)
		w.log.Warn("attempt failed", "batcher", j.lane.batcher, "gen", j.lane.gen, "subject", j.subject, "attempt", attempts, "retry_in", wait, "error", err)
		if err := w.sleep(ctx, wait); err != nil {
			return attempts, err
		}
	}
}

func (w *Worker) attempt(ctx context.Context, j *job, body []byte, payload *product) error {
	inst, err := j.lane.data.acquire(ctx)
	if err != nil {
		return err
	}
	defer j.lane.data.done()
	payload.pieces, payload.scratch, err = inst.Materialize(ctx, body, payload.scratch)
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
	if errors.Is(err, kind.ErrBadParams) {
		return false // the same parameters come again
	}
	return true // files that are not there yet, networks, panics of races
}

// backoff is how long to wait after the n-th failed attempt, n from 1.
func backoff(n int) time.Duration {
	d := firstBackoff
	for ; n > 1 && d < longestWait; n-- {
		d *= backoffFactor
	}
	d = min(d, longestWait)
	return d + time.Duration((mathrand.Float64()*0.2-0.1)*float64(d))
}

// buffer is a reusable byte slice.
type buffer struct{ data []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func newBuffer() *buffer {
	b := buffers.Get().(*buffer)
	b.data = b.data[:0]
	return b
}

func (b *buffer) free() { buffers.Put(b) }

// product is a batch on its way: what is large of it lies where its author left it, the rest in memory that is reused.
type product struct {
	pieces  wire.Pieces
	scratch []byte
}

var payloads = sync.Pool{New: func() any { return new(product) }}

func newPayload() *product { return payloads.Get().(*product) }

func (p *product) free() {
	p.pieces = nil
	payloads.Put(p)
}
