package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator/internal/window"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// republishAfter is when a job whose publication nobody confirmed is published again.
const republishAfter = time.Second

// produced is what the iterator made since it was last collected.
type produced struct {
	items []item
	err   error // how iteration ended; io.EOF at the end of the data
	last  bool  // of what was demanded
}

type item struct {
	job, next []byte
	took      time.Duration
}

// feed iterates one generation in a goroutine of its own and publishes its jobs.
type feed struct {
	nc     *nats.Conn
	log    *slog.Logger
	prefix string // of job subjects, up to the sequence number
	inbox  string // prefix of reply subjects
	sub    *nats.Subscription
	cancel context.CancelFunc

	asked chan ask
	ready chan struct{} // there is something to collect

	// Of the actor: since when the iterator has owed something, zero when it owes nothing; when stalled was last
	// asked, and how much of the time until then counts.
	busy, watched time.Time
	owing         time.Duration
	trace         string // of the reader's last word, for the header of jobs

	mu          sync.Mutex
	made        produced               // what the actor has not collected yet
	unconfirmed map[uint64]publication // by the first job's sequence number
	refused     string                 // the last refusal, for people
	full        bool                   // it was for lack of room
	again       uint64                 // jobs that were published again and that the stream took, so they were missing
}

// publication is a message of jobs that was sent and whose storing nobody confirmed.
type publication struct {
	at    time.Time
	n     int  // jobs in it
	again bool // it was sent before, in the same generation, and confirmed
}

type ask struct {
	state []byte
	n     int
}

// newFeed starts a feed. It calls release when it will not call inst any more, which is not before Next returned.
func newFeed(ctx context.Context, nc *nats.Conn, log *slog.Logger, inst kind.Instance, release func(), token, batcher, gen string) (*feed, error) {
	f := &feed{
		nc: nc, log: log, inbox: nc.NewInbox(),
		prefix:      wire.JobPrefix + "." + token + "." + batcher + "." + gen + ".",
		asked:       make(chan ask, 1),
		ready:       make(chan struct{}, 1),
		unconfirmed: make(map[uint64]publication),
	}
	sub, err := nc.Subscribe(f.inbox+".*", f.confirm)
	if err != nil {
		release()
		return nil, err
	}
	f.sub = sub
	ctx, f.cancel = context.WithCancel(ctx)
	go func() {
		defer release()
		f.iterate(ctx, inst)
	}()
	return f, nil
}

// stop ends iteration, once Next returns, and forgets what is unconfirmed.
func (f *feed) stop() {
	f.cancel()
	_ = f.sub.Unsubscribe() // fails only on a closed connection
}

// demand asks for n more jobs from state, unless the last demand is not met yet.
func (f *feed) demand(state []byte, n int) {
	if n == 0 || !f.busy.IsZero() {
		return
	}
	f.busy, f.owing = time.Now(), 0
	f.asked <- ask{state, n}
}

// collect returns what the iterator made since the last call.
func (f *feed) collect() produced {
	f.mu.Lock()
	p := f.made
	f.made = produced{}
	f.mu.Unlock()
	if len(p.items) == 0 && p.err == nil {
		return p // collected together with what came before: that the iterator is done was seen then
	}
	f.busy, f.owing = time.Now(), 0
	if p.last {
		f.busy = time.Time{}
	}
	return p
}

// stalled is asked once a beat, and reports whether Next has not come back for longer than limit. Time in which this
// process was paused, or the actor waited for the server, is no time of Next's: two beats count at most from one
// question to the other, and none while there is something to collect.
func (f *feed) stalled(limit time.Duration) (bool, time.Duration) {
	now := time.Now()
	since := now.Sub(f.busy)
	if f.watched.After(f.busy) {
		since = now.Sub(f.watched)
	}
	f.watched = now
	f.mu.Lock()
	made := len(f.made.items) > 0 || f.made.err != nil
	f.mu.Unlock()
	if f.busy.IsZero() || made {
		return false, 0
	}
	f.owing += min(since, 2*beat)
	return f.owing > limit, f.owing
}

// gather is for how long, at most, what the iterator made is not told to the actor, so that it can be fed in runs.
const gather = 500 * time.Microsecond

// iterate answers demands until ctx ends. Every item can be collected at once, so that a Next which never
// returns holds back nothing that came before it; it keeps this goroutine, and nothing else.
func (f *feed) iterate(ctx context.Context, inst kind.Instance) {
	tell := time.AfterFunc(time.Hour, f.tell)
	defer tell.Stop()
	for {
		var a ask
		select {
		case <-ctx.Done():
			return
		case a = <-f.asked:
		}
		state, untold := a.state, 0
		t := time.Now()
		for n := 1; n <= a.n && ctx.Err() == nil; n++ {
			job, next, err := inst.Next(state)
			began := t
			t = time.Now()
			last := err != nil || n == a.n
			f.mu.Lock()
			if err == nil {
				f.made.items = append(f.made.items, item{job, next, t.Sub(began)})
				state = next
			}
			f.made.err, f.made.last = err, last
			f.mu.Unlock()
			untold++
			switch {
			case last || untold == wire.MaxRun || t.Sub(began) > gather:
				untold = 0
				f.tell()
			case untold == 1:
				tell.Reset(gather)
			}
			if last {
				break
			}
		}
	}
}

// tell says that there is something to collect.
func (f *feed) tell() {
	select {
	case f.ready <- struct{}{}:
	default: // the actor was told already
	}
}

// publish sends one job.
func (f *feed) publish(seq uint64, job []byte, again bool) {
	f.send(&run{seq, 1, job}, again)
}

// send publishes a run and empties it; the stream's answer comes to confirm. A lost message is sent again by republish.
func (f *feed) send(r *run, again bool) {
	if r.n == 0 {
		return
	}
	f.mu.Lock()
	f.unconfirmed[r.first] = publication{time.Now(), r.n, again}
	f.mu.Unlock()
	try := wire.TryFirst
	if r.n > 1 {
		try = r.n
	}
	first := strconv.FormatUint(r.first, 10)
	err := f.nc.PublishMsg(&nats.Msg{Subject: f.prefix + first + "." + strconv.Itoa(try), Reply: f.inbox + "." + first, Header: f.header(), Data: r.data})
	if err != nil {
		f.fail(err.Error(), false)
	}
	*r = run{data: r.data[:0]} // the connection has copied it
}

// backUp sends a job a second time, for another worker than the one that has it. Nobody waits for an answer: the job
// itself is there still.
func (f *feed) backUp(seq uint64, job []byte) error {
	return f.nc.PublishMsg(&nats.Msg{Subject: f.prefix + strconv.FormatUint(seq, 10) + ".1", Header: f.header(), Data: job})
}

// header is the headers of a job.
func (f *feed) header() nats.Header {
	if f.trace == "" {
		return nil
	}
	return nats.Header{wire.TraceHeader: []string{f.trace}}
}

// reissued is how many jobs had to be stored again.
func (f *feed) reissued() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.again
}

func (f *feed) fail(why string, full bool) {
	f.mu.Lock()
	changed := f.refused != why
	f.refused, f.full = why, full
	f.mu.Unlock()
	if changed {
		f.log.Warn("job not published yet", "error", why)
	}
}

// confirm takes the stream's answer to a publication.
func (f *feed) confirm(m *nats.Msg) {
	seq, err := strconv.ParseUint(m.Subject[len(f.inbox)+1:], 10, 64)
	if err != nil {
		return
	}
	if len(m.Data) == 0 { // no responders: there is no stream
		f.fail("the job stream does not answer", false)
		return
	}
	var ack struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		f.fail(err.Error(), false)
		return
	}
	// Refused because its subject has a message: the job is there already, which is what was wanted.
	if ack.Error != nil && !topology.IsDuplicate(ack.Error.Code, ack.Error.Description) {
		f.fail(ack.Error.Description, topology.IsFull(ack.Error.Code, ack.Error.Description))
		return
	}
	f.mu.Lock()
	if ack.Error == nil && f.unconfirmed[seq].again {
		f.again++
	}
	delete(f.unconfirmed, seq)
	if len(f.unconfirmed) == 0 {
		f.refused, f.full = "", false
	}
	f.mu.Unlock()
}

// republish sends again what nobody confirmed and the trainer still needs.
func (f *feed) republish(w *window.Window) {
	f.mu.Lock()
	late := make(map[uint64]publication)
	for seq, p := range f.unconfirmed {
		if seq+uint64(p.n)-1 <= w.Taken() {
			delete(f.unconfirmed, seq)
		} else if time.Since(p.at) > republishAfter {
			late[seq] = p
		}
	}
	unsaid := len(late) > 0 && f.refused == ""
	f.mu.Unlock()
	if unsaid {
		f.fail(errSilent.Error(), false)
	}
	for _, seq := range slices.Sorted(maps.Keys(late)) {
		var again run
		for i := range late[seq].n {
			if e, ok := w.Entry(seq + uint64(i)); ok && seq+uint64(i) > w.Taken() {
				again.add(seq+uint64(i), e.Job, wire.MaxRun)
			}
		}
		if again.first != seq { // the first ones are taken meanwhile
			f.mu.Lock()
			delete(f.unconfirmed, seq)
			f.mu.Unlock()
		}
		f.send(&again, late[seq].again)
	}
}

// forget gives up on jobs above keep that are not stored.
func (f *feed) forget(keep uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for seq := range f.unconfirmed {
		if seq > keep {
			delete(f.unconfirmed, seq)
		}
	}
}

// crowded reports whether jobs were refused for lack of room.
func (f *feed) crowded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.full
}

// waiting says what is not stored yet, for people; empty when all is.
func (f *feed) waiting() (string, []uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var seqs []uint64
	for _, first := range slices.Sorted(maps.Keys(f.unconfirmed)) {
		for i := range f.unconfirmed[first].n {
			seqs = append(seqs, first+uint64(i))
		}
	}
	return f.refused, seqs
}

// iteratorFault says how iteration ended; nil for the end of the data.
func iteratorFault(err error) *schema.Fault {
	var p *kind.PanicError
	switch {
	case err == io.EOF: //nolint:errorlint // exactly io.EOF is the end: a wrapped one is a truncated file
		return nil
	case errors.As(err, &p):
		return &schema.Fault{Code: schema.CodeIterator, Message: err.Error(), Stack: string(p.Stack)}
	case errors.Is(err, kind.ErrWrongState):
		return &schema.Fault{Code: schema.CodeWrongState, Message: err.Error()}
	case errors.Is(err, errStalled):
		return &schema.Fault{Code: schema.CodeIteratorStalled, Message: err.Error()}
	case errors.Is(err, schema.ErrStateTooLarge):
		return &schema.Fault{Code: schema.CodeStateTooLarge, Message: err.Error()}
	}
	return &schema.Fault{Code: schema.CodeIterator, Message: err.Error()}
}
