package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// Bodies of acks. The empty one says that all jobs of a delivery have ended.
var (
	ackProgress = []byte("+WPI")
	ackNak      = []byte("-NAK")
)

// passingDelay is how long a job that met a passing trouble is left alone before it is delivered again.
const passingDelay = time.Second

// errForged is the error of a job that the run's owner did not queue. One that cannot be read is none of its jobs
// either: an owner of another wire version has another kind. The server can be made to store a job, or an
// acknowledgement, at another job's subject, without a header that says so.
var errForged = errors.New("job is forged")

// errForeign is the error of a job whose data set, version or wire version this worker does not have. Such a job comes
// only by a consumer that this service did not make.
var errForeign = errors.New("job is for another worker")

// delivery is a message of one or more jobs, until all of them have ended.
type delivery struct {
	lane       *lane
	subject    string
	reply      string // where acks go
	trace      string // traceparent header
	deliveries uint64
	stored     time.Time // by the broker's clock
	jobs       []*job

	// Under held.mu.
	open     int   // jobs that have not ended
	released bool  // one of them was released: no ack
	late     bool  // one of them is past its deadline: no heartbeat
	beaten   int64 // when the delivery was last heartbeat, or came
	missed   bool  // there was an AckWait without a heartbeat, so that the jobs may be another worker's since
}

// job is a job until it is acked or handed back. It may be one of several in a delivery, which is acked when all have
// ended.
type job struct {
	*delivery
	seq   uint64
	work  *wire.Job // nil when the message is at fault
	data  []byte    // work, encoded
	fault error     // why there is no work

	// Of the slot that runs the job.
	attempt string // name of its execution
	marker  string // subject of the start marker of a suspect
	aside   bool   // it was set aside to run alone
	failed  int64  // when its code failed first

	// Under held.mu.
	index    int   // in held.list; -1 when no longer held
	began    int64 // when its execution began; 0 before
	deadline int64 // after which its execution is cut off
	cut      bool  // the context of its execution was ended
	cancel   func(cause error)
	marked   chan struct{} // closed when its deadline is marked in the store; nil before a tick has cut it off

	// Under slots.mu.
	running bool
	alone   bool // nothing ran beside it
	lost    bool // its code ignores the end of its context and the slot is given up
}

// at names the job, and more, in a line of the log.
func (j *job) at(more ...any) []any { return j.lane.at(append([]any{"seq", j.seq}, more...)...) }

// suspect reports whether the job was handed out so often that it may be what takes workers down.
func (d *delivery) suspect() bool { return judge.Suspect(d.deliveries) }

// newDelivery reads a message of a lane's consumer; nil when it is none.
func newDelivery(l *lane, msg *nats.Msg, kinds map[string]*kind.Kind, now int64) (d *delivery, more bool) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, false
	}
	d = &delivery{
		lane: l, subject: msg.Subject, reply: msg.Reply, deliveries: meta.NumDelivered, stored: meta.Timestamp,
		beaten: now,
	}
	if msg.Header != nil {
		d.trace = wire.Traceparent(msg.Header.Get(wire.TraceHeader))
	}
	d.unpack(kinds, msg.Data, topology.Aimed(msg.Header))
	d.open = len(d.jobs)
	return d, meta.NumPending > 0
}

// unpack reads the jobs of a delivery. Where one of them cannot be read, the first stands for all.
func (d *delivery) unpack(kinds map[string]*kind.Kind, data []byte, aimed bool) {
	token, _, _, seq, try, err := wire.ParseJobSubject(d.subject)
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w", errForged, err)
	case aimed:
		err = fmt.Errorf("job %d: %w: the server was made to store it", seq, errForged)
	case kinds[token] != d.lane.data.kind:
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
			return fmt.Errorf("job %d: %w: %w", seq+uint64(i), errForged, err)
		}
		if work.Spec != d.lane.spec {
			return fmt.Errorf("job %d: %w: it is of other parameters or data than the run", work.Seq, errForged)
		}
		if work.Seq != seq+uint64(i) {
			return fmt.Errorf("job %d: %w: its body says %d", seq+uint64(i), errForged, work.Seq)
		}
		jobs[i] = job{delivery: d, seq: work.Seq, work: work, data: data[:len(data)-len(rest)], index: -1}
		d.jobs[i] = &jobs[i]
		data = rest
	}
	if len(data) > 0 {
		return fmt.Errorf("job %d: %w: %d bytes follow it", seq, errForged, len(data))
	}
	return nil
}

// header returns the headers of what the jobs of a delivery publish.
func (d *delivery) header() nats.Header {
	if d.trace == "" {
		return nil
	}
	return nats.Header{wire.TraceHeader: []string{d.trace}}
}

// backup reports whether a delivery is a second job of its sequence number, published because the first is late. The
// first job stays in any case.
func (d *delivery) backup() bool { return strings.HasSuffix(d.subject, ".1") }

// nak is the ack that gives a delivery back, to be delivered again after delay.
func nak(delay time.Duration) []byte {
	if delay == 0 {
		return ackNak
	}
	options, _ := json.Marshal(struct { // integers cannot fail to marshal
		Delay time.Duration `json:"delay"`
	}{delay})
	return append(append(append([]byte(nil), ackNak...), ' '), options...)
}

// jobContext is a job's context. It has a deadline without a timer of its own: held.tick looks.
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
