package worker

import (
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/worker/internal/schedule"
)

// Requests for jobs are raw: one message asks for many jobs, which come to a long-lived inbox of the lane.
// What is outstanding is counted in the scheduler; the server says when a request ends unfulfilled.
const (
	pullExpires   = 30 * time.Second // how long a request stays open
	pullHeartbeat = 5 * time.Second  // the server's sign of life while it has nothing for us
	pullSilence   = 5 * pullHeartbeat / 2
	pullPatience  = time.Second // the same where the owner says that no request waits with the server
	pullBytes     = 8 << 20     // of jobs per request; raised where the server allows larger messages

	// returnAfter is how long a job may wait for a slot before another worker gets the chance.
	returnAfter = time.Second

	// maxDeclined is how often a backup comes to workers until it is let go: the worker that has the late job may be the
	// one that asks, several times in a row, before another does.
	maxDeclined = 8
	// declinedFor is how much longer each time a backup that was declined stays away.
	declinedFor = 500 * time.Millisecond
)

// puller asks for jobs and takes what comes. It has no state of its own.
type puller struct {
	*life
	nc    *nats.Conn
	slots *slots
	held  *held
	tally *tally
	bell  *bell
	kinds map[string]*kind.Kind // by kind token
}

// more asks for as many jobs as there is room for.
func (p *puller) more() { p.ask(p.slots.asks()) }

// ask sends requests that the scheduler has counted already.
func (p *puller) ask(asks []schedule.Ask[*lane]) {
	for _, a := range asks {
		sub := a.Lane.subscription()
		if sub == nil {
			continue // closed meanwhile
		}
		body := append(make([]byte, 0, 96), `{"batch":`...)
		body = strconv.AppendInt(body, int64(a.N), 10)
		body = append(body, `,"expires":`...)
		body = strconv.AppendInt(body, int64(pullExpires), 10)
		body = append(body, `,"idle_heartbeat":`...)
		body = strconv.AppendInt(body, int64(pullHeartbeat), 10)
		if most := p.nc.MaxPayload(); int64(a.N)*most > max(pullBytes, 2*most) {
			// The server answers a request that has a bound with a message more, once its jobs have come.
			body = append(body, `,"max_bytes":`...)
			body = strconv.AppendInt(body, max(pullBytes, 2*most), 10)
		}
		body = append(body, '}')
		if err := p.nc.PublishRequest(a.Lane.next, sub.Subject, body); err != nil {
			a.Lane.broken.Store(true) // asked again at the next tick
		}
	}
}

// open makes the requests of a lane, the first time or anew, from a new inbox so that old ones cannot be answered too.
func (p *puller) open(l *lane) error {
	if err := l.subscribe(p.nc, func(msg *nats.Msg) { p.onMessage(l, msg) }); err != nil {
		return err
	}
	l.heard.Store(p.now())
	p.slots.expired(l, -1)
	return nil
}

// start asks for a lane's jobs for the first time, or again after a pause.
func (p *puller) start(l *lane) {
	p.ask(p.slots.open(l))
	if l.ctx.Err() != nil {
		p.slots.close(l) // it was closed meanwhile, and had no jobs yet
	}
}

// renew opens a lane anew where its requests were refused or the server went silent. It reports whether they were
// refused.
func (p *puller) renew(l *lane) (refused bool) {
	if l.isPaused() {
		return false
	}
	refused = l.broken.Swap(false)
	if refused || p.now()-l.heard.Load() > int64(pullSilence) {
		if p.open(l) != nil {
			l.broken.Store(true)
		}
	}
	return refused
}

// onMessage takes a delivery, or a status message about a request, from a lane's consumer.
func (p *puller) onMessage(l *lane, msg *nats.Msg) {
	now := p.now()
	l.heard.Store(now)
	if len(msg.Data) == 0 && msg.Header != nil && msg.Reply == "" { // a job may be stored with a status and no body
		if status := msg.Header.Get("Status"); status != "" {
			p.onStatus(l, status, msg)
			return
		}
	}
	if d, more := newDelivery(l, msg, p.kinds, now); d != nil {
		p.deliver(d, more)
	}
}

func (p *puller) deliver(d *delivery, more bool) {
	if d.backup() && p.declines(d) {
		p.slots.expired(d.lane, 1) // asked for again at the next tick: until then the backup finds others that ask
		p.decline(d)
		return
	}
	if d.deliveries > 1 {
		if delay, avoids := d.lane.failures.avoids(d, p.now()); avoids {
			p.slots.expired(d.lane, 1) // as for a backup
			p.held.answer(d, nak(delay))
			return
		}
	}
	if d.deliveries > 1 && d.open > 1 && !p.bell.draining.Load() {
		// The worker that had the run did not end all of it. One of its jobs may be at fault, or slow: from here on,
		// each job is on its own.
		p.slots.expired(d.lane, 1)
		p.held.separate(d.jobs...)
		return
	}
	came := d.beaten
	p.held.hold(d) // before a slot may start one of its jobs; from here on the delivery is held's
	if !p.slots.arrive(d, more, came) {
		p.held.refuse(d)
		return
	}
	if d.deliveries > 1 {
		p.tally.count(d.lane).redelivered.Add(1)
	}
}

// declines reports whether a backup is of no use here: this worker has the late job itself, or cannot start another
// while there may be a worker that can. A backup that no worker had use for is let go.
func (p *puller) declines(d *delivery) bool {
	running, slots, _ := p.slots.load()
	return d.deliveries > maxDeclined || d.deliveries == 1 && running >= slots || p.held.has(d.lane, d.jobs[0].seq)
}

// decline hands a backup on to another worker, or lets it go.
func (p *puller) decline(d *delivery) {
	if d.deliveries > maxDeclined {
		p.held.answer(d, nil)
		return
	}
	p.held.answer(d, nak(time.Duration(d.deliveries-1)*declinedFor))
}

// onStatus handles a request that ended before all its jobs came.
func (p *puller) onStatus(l *lane, status string, msg *nats.Msg) {
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
		p.slots.expired(l, n)
		p.more()
	default:
		// Consumer deleted, no responders, server shutdown: ask again with the next tick and not in a loop. Whether
		// the generation still exists is for the record to say, which is read then.
		if !l.broken.Swap(true) {
			p.log.Debug("request for jobs refused", l.at("status", status, "description", description)...)
		}
	}
}

// tick gives back what waited for too long and asks for more.
func (p *puller) tick() {
	for _, j := range p.slots.stale(p.now() - int64(returnAfter)) {
		p.held.giveBack(j, 0)
	}
	p.more()
}
