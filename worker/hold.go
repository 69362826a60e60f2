package worker

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// handBackAfter is how long a job may wait for a slot before another worker gets the chance.
const handBackAfter = time.Second

var (
	ackProgress = []byte("+WPI")
	ackNak      = []byte("-NAK")
)

// hold adds a job to those that are heartbeat. w.mu is held, as in every method that says Locked.
func (w *Worker) hold(j *job) {
	j.index = len(w.held)
	w.held = append(w.held, j)
}

// drop removes a job from those that are heartbeat and reports whether it was held: whoever drops a job
// decides what becomes of it.
func (w *Worker) drop(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropLocked(j)
}

func (w *Worker) dropLocked(j *job) bool {
	if j.index < 0 {
		return false
	}
	last := len(w.held) - 1
	w.held[j.index] = w.held[last]
	w.held[j.index].index = j.index
	w.held[last] = nil
	w.held = w.held[:last]
	j.index = -1
	if w.draining {
		w.announce() // the loop looks whether this was the last
	}
	return true
}

// ack ends a job. The last one of its delivery to end deletes it from the queue.
func (w *Worker) ack(j *job) {
	w.mu.Lock()
	done := w.dropLocked(j) && j.endLocked()
	w.mu.Unlock()
	if done {
		w.answer(j.delivery, nil)
	}
}

// endLocked counts a job that has ended and reports whether the delivery is to be acked.
func (d *delivery) endLocked() bool {
	d.open--
	return d.open == 0 && !d.let
}

// letGo drops a job without a word: its delivery comes again when AckWait is over.
func (w *Worker) letGo(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropLocked(j)
	j.let = true
}

// handBack gives the job to another worker, after delay.
func (w *Worker) handBack(j *job, delay time.Duration) {
	if !w.drop(j) {
		return
	}
	w.count(j.lane).returned.Add(1)
	if len(j.jobs) > 1 {
		w.separate(j)
	} else {
		w.answer(j.delivery, nak(delay))
	}
}

// separate takes a job out of its run: it is queued by itself, and then the run is done with it. What is not answered
// costs a redelivery of the run, nothing else: a job that is queued twice is refused, or its result is.
func (w *Worker) separate(j *job) {
	w.mu.Lock()
	w.separating++
	w.mu.Unlock()
	w.pub.send(&publication{
		stream: topology.JobsStream, subject: j.single(), header: j.header(), data: j.data,
		done: func(a *pubAck) {
			v := a.verdict(topology.JobsStream)
			w.mu.Lock()
			w.separating--
			j.let = j.let || v != stored && v != exists
			done := j.endLocked()
			if w.draining {
				w.announce() // the loop looks whether this was the last
			}
			w.mu.Unlock()
			if done {
				w.answer(j.delivery, nil)
			}
		},
	})
}

// single is the subject of the job by itself.
func (j *job) single() string {
	run := j.subject[:strings.LastIndexByte(j.subject, '.')]
	return run[:strings.LastIndexByte(run, '.')+1] + strconv.FormatUint(j.seq, 10) + "." + strconv.Itoa(wire.TryFirst)
}

// nak is the answer that gives a job back, to be handed out again after delay.
func nak(delay time.Duration) []byte {
	if delay == 0 {
		return ackNak
	}
	options, _ := json.Marshal(struct { // integers cannot fail to marshal
		Delay time.Duration `json:"delay"`
	}{delay})
	return append(append(append([]byte(nil), ackNak...), ' '), options...)
}

// answer publishes an ack of any kind. One that is lost costs a redelivery, nothing else.
func (w *Worker) answer(d *delivery, body []byte) {
	if err := w.nc.Publish(d.reply, body); err != nil {
		w.log.Debug("ack not sent", "subject", d.subject, "error", err)
	}
}

// ours reports whether a job is within its deadline and was heartbeat all the time. If not, this process may have been
// stopped, or cut off, and the job be another's.
func (w *Worker) ours(j *job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	return now <= j.deadline && j.oursLocked(now)
}

// oursLocked reports whether a delivery was heartbeat all the time.
func (d *delivery) oursLocked(now int64) bool {
	return !d.missed && now-d.beaten <= int64(topology.AckWait)
}

// confirm heartbeats a job and reports whether the server answered in time for the job to be still ours.
func (w *Worker) confirm(ctx context.Context, j *job) bool {
	ctx, cancel := context.WithTimeout(ctx, topology.AckWait)
	defer cancel()
	_, err := w.nc.RequestWithContext(ctx, j.reply, ackProgress)
	return err == nil
}

// heartbeat is the work of one tick: deadlines, heartbeats for every held job, jobs that waited too long,
// publications that were not answered, lanes that went silent.
func (w *Worker) heartbeat() {
	now := w.now()
	w.refreshLanes(now)
	// Jobs whose results cannot be stored are let go; so are, without a word, all when the server is out of reach.
	reachable := w.nc.IsConnected() && w.pub.reachable(now, int64(topology.AckWait))
	w.mu.Lock()
	var replies []string
	for _, j := range w.held {
		if j.deadline > 0 && now > j.deadline {
			j.late = true
			w.expire(j, now)
		}
	}
	for _, j := range w.held {
		if j.late || j.beaten == now {
			continue
		}
		j.missed = !j.oursLocked(now)
		if reachable {
			j.beaten = now
			replies = append(replies, j.reply)
		}
	}
	stale := w.sched.Stale(now - int64(handBackAfter))
	asks := w.sched.Asks(now)
	w.mu.Unlock()

	for _, reply := range replies {
		if err := w.nc.Publish(reply, ackProgress); err != nil {
			break // disconnected in between
		}
	}
	for _, j := range stale {
		w.handBack(j, 0)
	}
	w.ask(asks)
	w.pub.resend(false)
}

// expire ends a job that is past its deadline. Its heartbeats have ended with it. w.mu is held.
func (w *Worker) expire(j *job, now int64) {
	if !j.overdue {
		j.overdue = true
		if j.cancel != nil {
			j.cancel(context.DeadlineExceeded)
		}
	}
	if j.lost || j.cancel == nil || now < j.deadline+int64(w.lostAfter) {
		return
	}
	j.lost = true
	w.lost++
	w.sched.Lose(j.lane)
	w.lastError = "a job ignores its deadline; its slot is lost: " + j.subject
	w.log.Error("job ignores its deadline and its slot is lost until it returns", "subject", j.subject, "slots", w.sched.Slots())
	w.ready.Broadcast()
	w.announce()
}

// header returns the headers of what its jobs publish.
func (d *delivery) header() nats.Header {
	if d.trace == "" {
		return nil
	}
	return nats.Header{wire.TraceHeader: []string{d.trace}}
}
