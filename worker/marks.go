package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// convictedError is committed as the result of a job that has shown often enough what it does.
type convictedError struct{ code, text string }

func (e *convictedError) Error() string { return e.text }

// unmarkedError says that a suspect must not start, since its start could not be marked.
type unmarkedError struct{ verdict verdict }

func (e *unmarkedError) Error() string { return "start not marked" }

// place is the subject of the k-th marker of a kind.
type place func(batcher, gen string, seq uint64, k int) string

// marks leaves traces of executions in a generation's store, beside the results, for the workers that run a job next.
// It has no state.
type marks struct {
	*life
	pub   *publisher
	store *store
	tally *tally
}

// start stores that a suspect starts now, so that a start which takes the worker down leaves a trace. It returns a
// *convictedError when there were judge.MaxStarts such starts already, or an *unmarkedError. Nothing runs beside the
// job.
func (m *marks) start(ctx context.Context, j *job) error {
	k, v, err := m.put(ctx, j, wire.StartSubject, judge.MaxStarts, []byte(m.worker()+" "+j.attempt))
	switch {
	case err != nil:
		return err
	case v == exists:
		return &convictedError{schema.CodePoison, fmt.Sprintf(
			"it was handed out %d times, and %d workers that ran nothing else did not get to its end",
			j.deliveries, judge.MaxStarts)}
	case v != stored:
		return &unmarkedError{v}
	}
	j.marker = wire.StartSubject(j.lane.batcher, j.lane.gen, j.seq, k)
	m.log.Warn("suspect job starts alone", j.at("deliveries", j.deliveries, "start", k)...)
	return nil
}

// unmark takes back the trace of a start that ended.
func (m *marks) unmark(j *job) {
	if j.marker != "" {
		m.store.purge(j.lane, j.marker)
	}
}

// timeout stores that an execution ran into its deadline, and has the worker's status say so.
func (m *marks) timeout(ctx context.Context, j *job, after time.Duration, alone bool) {
	ctx, cancel := context.WithTimeout(ctx, topology.AckWait)
	defer cancel()
	data, err := json.Marshal(wire.TimeoutMark{Worker: m.worker(), Attempt: j.attempt, After: after, Alone: alone})
	if err == nil {
		_, _, err = m.put(ctx, j, wire.TimeoutSubject, wire.MaxTimeoutMarks, data)
	}
	if err != nil {
		m.log.Warn("deadline not marked", j.at("error", err)...)
		return
	}
	if history, err := m.timeouts(ctx, j); err == nil && len(history) > 0 {
		m.tally.trouble(fmt.Sprintf("job %d of %s ran into its deadline of %s",
			j.seq, j.lane.batcher, wire.DeadlinesText(history)))
	}
}

// timeouts returns the executions of a job that ran into their deadline.
func (m *marks) timeouts(ctx context.Context, j *job) ([]wire.TimeoutMark, error) {
	var history []wire.TimeoutMark
	for k := 1; k <= wire.MaxTimeoutMarks; k++ {
		msg, err := m.store.message(ctx, j.lane.store, wire.TimeoutSubject(j.lane.batcher, j.lane.gen, j.seq, k))
		if err == errNotStored {
			break
		}
		if err != nil {
			return history, err
		}
		var mark wire.TimeoutMark
		if json.Unmarshal(msg.Data, &mark) == nil {
			history = append(history, mark)
		}
	}
	return history, nil
}

// convict returns a *convictedError when enough lone executions of a job ran into their deadline.
func convict(history []wire.TimeoutMark) error {
	lone := slices.DeleteFunc(slices.Clone(history), func(m wire.TimeoutMark) bool { return !m.Alone })
	if len(lone) < judge.MaxTimeouts {
		return nil
	}
	return &convictedError{
		schema.CodeJobTimeout, "took over " + wire.DeadlinesText(lone) + "; raise JobTimeout or make the job smaller",
	}
}

// put stores a marker at the first free place of n, and returns the place and the verdict: exists when none is free.
func (m *marks) put(ctx context.Context, j *job, at place, n int, data []byte) (k int, v verdict, err error) {
	v = exists
	for k = 1; k <= n && v == exists; k++ {
		subject := at(j.lane.batcher, j.lane.gen, j.seq, k)
		if v, err = m.publish(ctx, j.lane, subject, data); err != nil || v != exists {
			return k, v, err
		}
		// Its own marker is there when the answer to it was lost.
		if there, err := m.store.message(ctx, j.lane.store, subject); err == nil && bytes.Equal(there.Data, data) {
			return k, stored, nil
		}
	}
	return n, v, nil
}

// publish publishes a marker and waits for the answer.
func (m *marks) publish(ctx context.Context, l *lane, subject string, data []byte) (verdict, error) {
	answer := make(chan verdict, 1)
	m.pub.send(&publication{
		stream: l.store, subject: subject, data: data,
		done: func(a *pubAck) { answer <- a.verdict(l.store) },
	})
	select {
	case v := <-answer:
		return v, nil
	case <-ctx.Done():
		return passing, context.Cause(ctx)
	}
}

// maxFailureMarks is how many failures of one job are marked: the second by another worker is a verdict. Two may fail
// at once.
const maxFailureMarks = 2

// failure stores that a job failed here, unless it failed on another worker before, whose mark is returned.
func (m *marks) failure(ctx context.Context, j *job, text string) (other *wire.FailureMark, v verdict, err error) {
	mine := wire.FailureMark{Worker: m.worker(), Text: clip(text, maxMarked)}
	for k := 1; k <= maxFailureMarks; k++ {
		msg, err := m.store.message(ctx, j.lane.store, wire.FailureSubject(j.lane.batcher, j.lane.gen, j.seq, k))
		if err == errNotStored {
			break
		}
		if err != nil {
			return nil, passing, err
		}
		var mark wire.FailureMark
		if json.Unmarshal(msg.Data, &mark) == nil && mark.Worker != mine.Worker {
			return &mark, stored, nil
		}
	}
	data, err := json.Marshal(mine)
	if err != nil {
		return nil, passing, err
	}
	_, v, err = m.put(ctx, j, wire.FailureSubject, maxFailureMarks, data)
	return nil, v, err
}

// maxMarked bounds the text of a mark, in bytes.
const maxMarked = 1 << 10

// names lists workers, each once.
