package worker

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// held are the jobs that were delivered and are neither acked nor handed back. Its lock guards the list, and the fields
// of jobs and deliveries that are marked so. The method that takes a job out of the list decides what becomes of it.
type held struct {
	*life
	nc    *nats.Conn
	tasks *tasks
	tally *tally
	bell  *bell

	mu         sync.Mutex
	list       []*job
	separating int // jobs being taken out of runs
}

// hold adds the jobs of a delivery: from now on it is heartbeat.
func (h *held) hold(d *delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, j := range d.jobs {
		j.index = len(h.list)
		h.list = append(h.list, j)
	}
}

// remove takes a job out of the list; false when that was done before. h.mu is held.
func (h *held) remove(j *job) bool {
	if j.index < 0 {
		return false
	}
	last := len(h.list) - 1
	h.list[j.index] = h.list[last]
	h.list[j.index].index = j.index
	h.list[last] = nil
	h.list = h.list[:last]
	j.index = -1
	h.bell.ended()
	return true
}

// end counts a job that has ended and reports whether its delivery is to be acked. h.mu is held.
func (h *held) end(j *job) bool {
	j.open--
	return j.open == 0 && !j.released
}

// ack ends a job. The last one of its delivery to end deletes it from the queue, which is reported.
func (h *held) ack(j *job) (done bool) {
	h.mu.Lock()
	done = h.remove(j) && h.end(j)
	h.mu.Unlock()
	if done {
		h.answer(j.delivery, nil)
	}
	return done
}

// release removes a job without a word: its delivery comes again when AckWait is over.
func (h *held) release(j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(j)
	j.released = true
}

// giveBack hands a job to another worker, after delay.
func (h *held) giveBack(j *job, delay time.Duration) {
	h.mu.Lock()
	taken, run := h.remove(j), len(j.jobs) > 1
	if taken && run {
		h.separating++
	}
	h.mu.Unlock()
	if !taken {
		return
	}
	h.tally.count(j.lane).returned.Add(1)
	if run {
		h.leave([]*job{j})
	} else {
		h.answer(j.delivery, nak(delay))
	}
}

// refuse gives back a delivery that there is no place for.
func (h *held) refuse(d *delivery) {
	h.mu.Lock()
	for _, j := range d.jobs {
		h.remove(j)
	}
	h.mu.Unlock()
	h.answer(d, ackNak)
}

// separate takes jobs out of their run: the owner queues them by themselves, and then the run is done with them. A
// worker has no right to queue jobs. Without an answer the run is delivered again, which costs work and nothing else: a
// job that is queued twice is refused, or its result is.
func (h *held) separate(jobs ...*job) {
	h.mu.Lock()
	h.separating += len(jobs)
	h.mu.Unlock()
	h.leave(jobs)
}

// leave asks the owner to queue jobs of one run by themselves.
func (h *held) leave(jobs []*job) {
	if !h.tasks.run(func() { h.left(jobs, h.askApart(jobs)) }) {
		h.left(jobs, false)
	}
}

// askApart reports whether the owner has queued jobs by themselves. Of all coordinators only the owner answers.
func (h *held) askApart(jobs []*job) bool {
	l := jobs[0].lane
	report := wire.Report{Gen: l.gen}
	for _, j := range jobs {
		report.Apart = append(report.Apart, j.seq)
	}
	data, err := json.Marshal(report)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(h.hard, topology.AckWait)
	defer cancel()
	msg, err := h.nc.RequestWithContext(ctx, wire.ReportPrefix+"."+l.batcher, data)
	if err != nil {
		h.log.Debug("run not taken apart", l.at("seq", jobs[0].seq, "error", err)...)
		return false
	}
	var reply wire.ApartReply
	return json.Unmarshal(msg.Data, &reply) == nil && reply.Queued
}

// left ends jobs that have left their run, or releases the run where that is not known.
func (h *held) left(jobs []*job, queued bool) {
	done := false
	h.mu.Lock()
	h.separating -= len(jobs)
	for _, j := range jobs {
		j.released = j.released || !queued
		done = h.end(j) || done
	}
	h.mu.Unlock()
	h.bell.ended()
	if done {
		h.answer(jobs[0].delivery, nil)
	}
}

// answer publishes an ack of any kind. One that is lost costs a redelivery, nothing else.
func (h *held) answer(d *delivery, body []byte) {
	if err := h.nc.Publish(d.reply, body); err != nil {
		h.log.Debug("ack not sent", "subject", d.subject, "error", err)
	}
}

// begin notes that a job's execution begins, and how to cut it off.
func (h *held) begin(j *job, now int64, timeout time.Duration, cancel func(cause error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j.began = now
	j.deadline, j.cancel = now+int64(timeout), cancel
}

// executed notes that the data set's code has returned. It reports whether that was after the deadline, which no tick
// has seen.
func (h *held) executed(j *job) (late bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j.cancel = nil
	return !j.cut && h.now() >= j.deadline
}

// timedOut is closed when the store knows that the job ran into its deadline; nil when no tick has cut it off.
func (h *held) timedOut(j *job) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return j.marked
}

// mine reports whether a job is within its deadline and was heartbeat all the time. If not, this process may have been
// stopped, or cut off, and the job be another's.
func (h *held) mine(j *job) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	return now <= j.deadline && judge.Mine(now, j.beaten, int64(topology.AckWait), j.missed)
}

// confirm heartbeats a job and reports whether the server answered in time for the job to be still this worker's.
func (h *held) confirm(ctx context.Context, j *job) bool {
	ctx, cancel := context.WithTimeout(ctx, topology.AckWait)
	defer cancel()
	_, err := h.nc.RequestWithContext(ctx, j.reply, ackProgress)
	return err == nil
}

// beatenLately is for how long a job that was heartbeat, or came, is not heartbeat again: most jobs end before.
const beatenLately = topology.AckWait / 8

// tick cuts off the jobs that are past their deadline and heartbeats the others, unless their results cannot be stored
// for now. It returns the jobs that were cut off, whose channels marked the caller closes, and the jobs whose code
// still runs grace later.
func (h *held) tick(reachable bool, grace time.Duration) (cut, lost []*job) {
	var replies []string
	var cancels []func(error)
	h.mu.Lock()
	now := h.now()
	for _, j := range h.list {
		if j.deadline == 0 || now <= j.deadline {
			continue
		}
		j.late = true
		if j.cancel == nil {
			continue
		}
		if !j.cut {
			j.cut, j.marked = true, make(chan struct{})
			cut = append(cut, j)
			cancels = append(cancels, j.cancel)
		}
		if now >= j.deadline+int64(grace) {
			lost = append(lost, j)
		}
	}
	for _, j := range h.list {
		if j.late || now-j.beaten < int64(beatenLately) {
			continue
		}
		j.missed = !judge.Mine(now, j.beaten, int64(topology.AckWait), j.missed)
		if reachable {
			j.beaten = now
			replies = append(replies, j.reply)
		}
	}
	h.mu.Unlock()
	for _, cancel := range cancels {
		cancel(context.DeadlineExceeded)
	}
	for _, reply := range replies {
		if err := h.nc.Publish(reply, ackProgress); err != nil {
			break // disconnected in between
		}
	}
	return cut, lost
}

// cutOff brings the deadlines of a closed lane's jobs forward to now: code that ignores the end of its context loses
// its slot soon, and not after JobTimeout.
func (h *held) cutOff(l *lane) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, j := range h.list {
		if j.lane == l && j.cancel != nil && !j.cut {
			j.cut, j.deadline = true, h.now()
		}
	}
}

// has reports whether a job of a lane's sequence number is held.
func (h *held) has(l *lane, seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, j := range h.list {
		if j.lane == l && j.seq == seq {
			return true
		}
	}
	return false
}

// any reports whether a job of a lane is held.
func (h *held) any(l *lane) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.list, func(j *job) bool { return j.lane == l })
}

// counts are the numbers of jobs that are held and that are being taken out of runs.
func (h *held) counts() (held, separating int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.list), h.separating
}

// all returns the jobs that are held.
func (h *held) all() []*job {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*job(nil), h.list...)
}

// oldest is the job that was begun first, and for how long it has been at work; nil when there is none.
func (h *held) oldest() (*job, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var first *job
	for _, j := range h.list {
		if j.began > 0 && (first == nil || j.began < first.began) {
			first = j
		}
	}
	if first == nil {
		return nil, 0
	}
	return first, time.Duration(h.now() - first.began)
}
