package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// maxStarts is how many lone starts of a suspect may end without an outcome before it is convicted.
const maxStarts = 3

// errPoison is matched by the *poisonError of a job that was alone on a worker each time and never ended.
var errPoison = errors.New("poison job")

// poisonError is committed as such a job's result; its code there says already what it is.
type poisonError struct{ deliveries uint64 }

func (e *poisonError) Error() string {
	return fmt.Sprintf("it was handed out %d times, and %d workers that ran nothing else did not get to its end", e.deliveries, maxStarts)
}

func (e *poisonError) Is(target error) bool { return target == errPoison }

// unmarkedError says that a suspect must not start, since its start could not be marked.
type unmarkedError struct{ verdict verdict }

func (e *unmarkedError) Error() string { return "start not marked" }

// mark stores that a suspect starts now, so that a start which takes the worker down leaves a trace. It
// returns a *poisonError when there were maxStarts such starts already, or an *unmarkedError. The scheduler runs nothing beside it.
func (w *Worker) mark(ctx context.Context, j *job, r *wire.Result) error {
	for k := 1; k <= maxStarts; k++ {
		subject := wire.StartSubject(j.lane.batcher, j.lane.gen, r.Seq, k)
		answer := make(chan verdict, 1)
		w.pub.send(&publication{
			stream: j.lane.store, subject: subject, data: []byte(w.cfg.Name + " " + r.Attempt),
			done: func(a *pubAck) { answer <- a.verdict(j.lane.store) },
		})
		var v verdict
		select {
		case v = <-answer:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		switch v {
		case stored:
			j.marker = subject
			w.log.Warn("suspect job starts alone", "batcher", j.lane.batcher, "gen", j.lane.gen, "seq", r.Seq, "deliveries", j.deliveries, "start", k)
			return nil
		case exists:
		default:
			return &unmarkedError{v}
		}
	}
	return &poisonError{j.deliveries}
}

// unmark takes back the trace of a start that ended.
func (w *Worker) unmark(j *job) {
	if j.marker != "" {
		w.purge(j.lane, j.marker)
	}
}
