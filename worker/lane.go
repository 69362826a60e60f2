package worker

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// lane is one generation of one batcher whose jobs this worker runs. Its context ends when the lane is closed, with the
// reason as its cause.
type lane struct {
	batcher, gen string
	token        string // of its kind
	next         string // subject of requests for jobs
	store        string // stream of results
	spec         wire.Digest
	ctx          context.Context
	cancel       context.CancelCauseFunc
	data         opened

	broken  atomic.Bool  // the consumer answered with an error: ask again at the next tick
	heard   atomic.Int64 // when the consumer last said anything
	avoid   atomic.Int64 // until when payloads are stored, because the reader cannot fetch them
	readers atomic.Int64 // how many fetch each payload; 0 and 1: one
	faults  atomic.Int32 // tries in a row to serve it that came to nothing

	failures failures // jobs that failed here

	mu     sync.Mutex
	sub    *nats.Subscription // nil before the first, and after close
	closed bool
	paused pause  // why nothing is pulled for now
	owner  string // the coordinator that announces the lane
	toAll  int64  // when it was last announced to all workers, or opened
	lookAt int64  // when the record is read again, unless the lane is announced
	looks  int    // how often it was read since the last announcement
}

// pause is why a lane's jobs are not asked for.
type pause uint8

const (
	cannotOpen pause = 1 << iota // its data set cannot be opened here
	leftAlone                    // other workers follow it
)

// leaveAfter is how long after it was last announced to all workers a lane may be left to others: who has just opened
// one by such an announcement does not hear of it in a list.
const leaveAfter = 5 * announceInterval / 2

func newLane(ctx context.Context, rec *wire.Record, k *kind.Kind, domain string) *lane {
	consumer := topology.Consumer(rec.Batcher, rec.Gen)
	l := &lane{
		batcher: rec.Batcher, gen: rec.Gen, token: wire.KindToken(rec.Spec.Dataset, rec.Spec.Version),
		next:  topology.InDomain(domain, "$JS.API.CONSUMER.MSG.NEXT."+topology.JobsStream+"."+consumer),
		store: topology.ResultsStream(rec.Batcher, rec.Gen), spec: rec.SpecDigest(),
		data: opened{kind: k, params: rec.Spec.Params, origin: rec.Origin},
	}
	l.readers.Store(int64(rec.Size))
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	return l
}

// at names the lane, and more, in a line of the log.
func (l *lane) at(more ...any) []any {
	return append([]any{"batcher", l.batcher, "gen", l.gen}, more...)
}

func (l *lane) subscription() *nats.Subscription {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sub
}

// subscribe listens on a new inbox and forgets the old one, which ends the requests made from it.
func (l *lane) subscribe(nc *nats.Conn, deliver nats.MsgHandler) error {
	sub, err := nc.Subscribe(nc.NewInbox(), deliver)
	if err != nil {
		return err
	}
	// What can be in flight is bounded by what was asked for.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	l.mu.Lock()
	old := l.sub
	if l.closed || l.paused != 0 {
		old = sub
	} else {
		l.sub = sub
	}
	l.mu.Unlock()
	if old != nil {
		// Jobs under way to the old inbox are still taken: no other worker would have them before AckWait.
		_ = old.Drain() // fails only when it is unsubscribed already
	}
	return nil
}

// pause ends the requests for jobs. The jobs that are here already are run.
func (l *lane) pause(why pause) {
	l.mu.Lock()
	l.paused |= why
	sub := l.sub
	l.sub = nil
	l.mu.Unlock()
	if sub != nil {
		_ = sub.Drain() // fails only when it is unsubscribed already
	}
}

// unpause reports whether jobs may be asked for now: there is no other reason not to.
func (l *lane) unpause(why pause) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused &^= why
	return l.paused == 0
}

// isPaused reports whether nothing is pulled for now.
func (l *lane) isPaused() bool { return l.pauses() != 0 }

func (l *lane) pauses() pause {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused
}

// leaves reports whether a lane that a coordinator does not list for this worker is to be left to others.
func (l *lane) leaves(now int64, coordinator string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.paused&leftAlone == 0 && l.owner == coordinator && now-l.toAll > int64(leaveAfter)
}

// close ends the lane; what runs is cut off with cause.
func (l *lane) close(cause error) {
	l.mu.Lock()
	l.closed = true
	sub := l.sub
	l.sub = nil
	l.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // fails only when it is unsubscribed already
	}
	l.cancel(cause)
	l.data.close()
}

// silent reports whether the owner was silent for so long that the record is to be read.
func (l *lane) silent(now int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now > l.lookAt
}

// looksDue reports whether the record is to be read because the owner was silent for so long, and notes that it is.
// after says how long to wait for the n-th look.
func (l *lane) looksDue(now int64, after func(n int) int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now <= l.lookAt {
		return false
	}
	l.looks++
	l.lookAt = now + after(l.looks)
	return true
}

// announced notes that the owner has announced the lane, and to whom.
func (l *lane) announced(now int64, hint wire.Lane, after func(n int) int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks, l.lookAt = 0, now+after(0)
	l.owner = hint.Owner
	if !hint.Few {
		l.toAll = now
	}
}
