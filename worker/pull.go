package worker

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

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

// job is a delivered job until it is acked or handed back.
type job struct {
	lane       *lane
	subject    string
	reply      string // where acks go
	data       []byte
	trace      string // traceparent header
	deliveries uint64
	marker     string    // subject of the start marker of a suspect
	stored     time.Time // by the broker's clock
	index      int       // in Worker.held; -1 when no longer held

	// Set when execution starts, under Worker.mu.
	deadline int64 // instant on the worker's clock; 0 before
	overdue  bool
	lost     bool // its code ignores the deadline and its slot is given up
	cancel   func(cause error)
}

func (j *job) suspect() bool { return j.deliveries > suspectAfter }

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
	j := &job{
		lane: l, subject: msg.Subject, reply: msg.Reply, data: msg.Data,
		deliveries: meta.NumDelivered, stored: meta.Timestamp, index: -1,
	}
	if msg.Header != nil {
		j.trace = schema.Traceparent(msg.Header.Get(schema.TraceHeader))
	}
	w.mu.Lock()
	if j.backup() && w.declines(j) {
		w.sched.Expired(l, 1) // asked for again at the next tick: until then the backup finds others that ask
		w.mu.Unlock()
		w.decline(j)
		return
	}
	kept := w.sched.Arrive(l, j, j.suspect(), meta.NumPending > 0, now)
	if kept {
		w.hold(j)
		if j.deliveries > 1 {
			w.count(j).redelivered.Add(1)
		}
	}
	w.mu.Unlock()
	if !kept {
		w.answer(j, ackNak)
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
			w.check(l.batcher)
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
			w.check(l.batcher)
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
