package worker

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/schedule"
)

// Requests for jobs are raw: one message asks for many jobs, which come to a long-lived inbox of the lane.
// What is outstanding is counted in the scheduler; the server says when a request ends unfulfilled.
const (
	pullExpires   = 30 * time.Second // how long a request stays open
	pullHeartbeat = 5 * time.Second  // the server's sign of life while it has nothing for us
	pullSilence   = 5 * pullHeartbeat / 2
	pullBytes     = 8 << 20 // of jobs per request; raised where the server allows larger messages
)

// suspectAfter is how many deliveries of a job are taken for accidents.
const suspectAfter = 3

// delivery is a message of one or more jobs, until all of them have ended.
type delivery struct {
	lane       *lane
	subject    string
	reply      string // where acks go
	trace      string // traceparent header
	deliveries uint64
	stored     time.Time // by the broker's clock
	jobs       []*job

	// Under Worker.mu.
	open   int   // jobs that have not ended
	let    bool  // one of them was let go: no ack
	late   bool  // one of them is past its deadline: no heartbeat
	beaten int64 // when it was last heartbeat, or came
	missed bool  // there was an AckWait without a heartbeat, so that it may be another's since
}

// job is a job until it is acked or handed back. It may be one of several in a delivery, which is acked when all have
// ended.
type job struct {
	*delivery
	seq    uint64
	work   *wire.Job // nil when the message is at fault
	data   []byte    // work, encoded
	fault  error     // why there is no work
	marker string    // subject of the start marker of a suspect
	index  int       // in Worker.held; -1 when no longer held

	// Set when execution starts, under Worker.mu.
	deadline int64 // instant on the worker's clock; 0 before
	overdue  bool
	lost     bool // its code ignores the deadline and its slot is given up
	cancel   func(cause error)
}

func (d *delivery) suspect() bool { return d.deliveries > suspectAfter }

// unpack reads the jobs of a delivery. Where one of them cannot be read, the first stands for all.
func (w *Worker) unpack(d *delivery, data []byte) {
	token, _, _, seq, try, err := wire.ParseJobSubject(d.subject)
	switch {
	case err != nil:
		err = dataset.Permanent(err)
	case w.kinds[token] != d.lane.data.kind:
		err = fmt.Errorf("%w: it is of %s", errForeign, token)
	default:
		if err = d.decode(seq, wire.RunLength(try), data); err == nil {
			return
		}
	}
	d.jobs = []*job{{delivery: d, seq: seq, fault: err, index: -1}}
}

func (d *delivery) decode(seq uint64, n int, data []byte) error {
	jobs := make([]job, n)
	d.jobs = make([]*job, n)
	for i := range jobs {
		work, rest, err := wire.DecodeJob(data)
		if err != nil {
			return dataset.Permanent(err)
		}
		if work.Seq != seq+uint64(i) {
			return dataset.Permanent(fmt.Errorf("job %d: %w: its body says %d", seq+uint64(i), schema.ErrMalformed, work.Seq))
		}
		jobs[i] = job{delivery: d, seq: work.Seq, work: work, data: data[:len(data)-len(rest)], index: -1}
		d.jobs[i] = &jobs[i]
		data = rest
	}
	if len(data) > 0 {
		return dataset.Permanent(fmt.Errorf("job %d: %w: %d bytes follow it", seq, schema.ErrMalformed, len(data)))
	}
	return nil
}

// ask sends requests that the scheduler has counted already.
func (w *Worker) ask(asks []schedule.Ask[*lane]) {
	for _, a := range asks {
		sub := a.Lane.subscription()
		body := append(make([]byte, 0, 96), `{"batch":`...)
		body = strconv.AppendInt(body, int64(a.N), 10)
		body = append(body, `,"expires":`...)
		body = strconv.AppendInt(body, int64(pullExpires), 10)
		body = append(body, `,"idle_heartbeat":`...)
		body = strconv.AppendInt(body, int64(pullHeartbeat), 10)
		body = append(body, `,"max_bytes":`...)
		body = strconv.AppendInt(body, max(pullBytes, 2*w.nc.MaxPayload()), 10)
		body = append(body, '}')
		if err := w.nc.PublishRequest(a.Lane.next, sub.Subject, body); err != nil {
			a.Lane.broken.Store(true) // asked again at the next tick
		}
	}
}

// onDelivery takes a job, or a status message about a request, from a lane's consumer.
func (w *Worker) onDelivery(l *lane, msg *nats.Msg) {
	now := w.now()
	l.heard.Store(now)
	if len(msg.Data) == 0 && msg.Header != nil {
		if status := msg.Header.Get("Status"); status != "" {
			w.onStatus(l, status, msg)
			return
		}
	}
	meta, err := msg.Metadata()
	if err != nil {
		return // not from a consumer
	}
	d := &delivery{
		lane: l, subject: msg.Subject, reply: msg.Reply, deliveries: meta.NumDelivered, stored: meta.Timestamp,
		beaten: now,
	}
	if msg.Header != nil {
		d.trace = wire.Traceparent(msg.Header.Get(wire.TraceHeader))
	}
	w.unpack(d, msg.Data)
	d.open = len(d.jobs)
	w.mu.Lock()
	if j := d.jobs[0]; j.backup() && w.declines(j) {
		w.sched.Expired(l, 1) // asked for again at the next tick: until then the backup finds others that ask
		w.mu.Unlock()
		w.decline(j)
		return
	}
	if d.deliveries > 1 && d.open > 1 && !w.draining {
		// Whoever had it did not end all of it. What is in it may be at fault, or slow: from here on, each job is on its own.
		w.sched.Expired(l, 1)
		w.mu.Unlock()
		for _, j := range d.jobs {
			w.separate(j)
		}
		return
	}
	kept := w.sched.Arrive(l, d.suspect(), meta.NumPending > 0, now, d.jobs...)
	if kept {
		for _, j := range d.jobs {
			w.hold(j)
		}
		if d.deliveries > 1 {
			w.count(d.lane).redelivered.Add(1)
		}
	}
	w.mu.Unlock()
	if !kept {
		w.answer(d, ackNak)
		return
	}
	w.ready.Signal()
}

// onStatus handles a request that ended before all its jobs came.
func (w *Worker) onStatus(l *lane, status string, msg *nats.Msg) {
	description := msg.Header.Get("Description")
	switch {
	case status == "100":
		return // idle heartbeat
	case status == "409" && description == "Batch Completed":
		return // all jobs of the request came, and bytes were left of what it allowed
	case status == "408", status == "404", status == "409" && description == "Message Size Exceeds MaxBytes":
		n := -1
		if left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages")); err == nil {
			n = left
		}
		w.mu.Lock()
		w.sched.Expired(l, n)
		asks := w.sched.Asks(w.now())
		w.mu.Unlock()
		w.ask(asks)
	default:
		// Consumer deleted, no responders, server shutdown: ask again with the next tick and not in a loop. Whether
		// the lane still exists is for the record to say.
		if !l.broken.Swap(true) {
			w.log.Debug("request for jobs refused", "batcher", l.batcher, "gen", l.gen, "status", status, "description", description)
			w.check(l.batcher, "")
		}
	}
}

// refreshLanes asks again where requests were refused or the server went silent, and checks lanes that
// nobody announces any more.
func (w *Worker) refreshLanes(now int64) {
	w.mu.Lock()
	if w.draining {
		w.mu.Unlock()
		return
	}
	lanes := make([]*lane, 0, len(w.lanes))
	for _, l := range w.lanes {
		lanes = append(lanes, l)
	}
	w.mu.Unlock()
	for _, l := range lanes {
		if l.broken.Swap(false) || now-l.heard.Load() > int64(pullSilence) {
			w.renew(l, now)
		}
		if now-l.announced.Load() > int64(silence) {
			l.announced.Store(now)
			w.check(l.batcher, "")
		}
	}
}

// renew makes the requests of a lane anew, from a new inbox so that old ones cannot be answered too.
func (w *Worker) renew(l *lane, now int64) {
	if err := l.subscribe(w.nc, func(msg *nats.Msg) { w.onDelivery(l, msg) }); err != nil {
		l.broken.Store(true)
		return
	}
	l.heard.Store(now)
	w.mu.Lock()
	w.sched.Expired(l, -1)
	w.mu.Unlock()
}

// reconnected makes all requests anew: the server may have forgotten them.
func (w *Worker) reconnected() {
	w.mu.Lock()
	for _, l := range w.lanes {
		l.broken.Store(true)
	}
	w.mu.Unlock()
	w.refreshLanes(w.now())
	w.mu.Lock()
	asks := w.sched.Asks(w.now())
	w.mu.Unlock()
	w.ask(asks)
}
