package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// produced is what the iterator made since it was last collected.
type produced struct {
	items []owner.Item
	err   error // how iteration ended; io.EOF at the end of the data
	last  bool  // of what was demanded
}

// feedOf says what a feed is of.
type feedOf struct {
	gen, dataset string
	subject      string // of jobs, up to the sequence number
	line         *line
}

// feed iterates one generation in a goroutine of its own, and publishes its jobs until the stream has them.
type feed struct {
	feedOf
	nc     *nats.Conn
	log    *slog.Logger
	inbox  string // prefix of reply subjects
	sub    *nats.Subscription
	cancel context.CancelFunc

	asked chan ask
	place chan passed   // whose place in the data is wanted
	ready chan struct{} // there is something to collect

	mu          sync.Mutex
	made        produced               // what the actor has not collected yet
	unconfirmed map[uint64]publication // by the first job's sequence number
	refused     string                 // the last refusal, for people
	full        bool                   // it was for lack of room
	again       uint64                 // jobs that were published again and that the stream took, so they were missing
	progress    *schema.Progress       // of the last position that was located; nil where the data set does not say
	located     uint64                 // that position
	apart       map[uint64]*separation // by the sequence number of a job that leaves its run
}

// separation is the jobs of a run that are being queued by themselves.
type separation struct {
	left   int // jobs that the stream has not confirmed
	answer func()
}

// publication is a message of jobs that was sent and that the stream has not confirmed.
type publication struct {
	at    time.Time
	n     int  // jobs in it
	again bool // it was sent before, in the same generation, and confirmed
	trace string
}

type ask struct {
	state []byte
	n     int
	bytes int64 // of jobs and states; the job that exceeds them is the last one
}

// newFeed starts a feed. It calls release when it will not call inst any more, which is not before Next returned.
func newFeed(ctx context.Context, nc *nats.Conn, log *slog.Logger, inst kind.Instance, release func(), of feedOf) (*feed, error) {
	f := &feed{
		feedOf: of, nc: nc, log: log, inbox: nc.NewInbox(),
		asked:       make(chan ask, 1),
		place:       make(chan passed, 1),
		ready:       make(chan struct{}, 1),
		unconfirmed: make(map[uint64]publication),
		apart:       make(map[uint64]*separation),
	}
	sub, err := nc.Subscribe(f.inbox+".*", f.onAnswer)
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

// demand asks for more jobs. The last demand has been met.
func (f *feed) demand(a ask) { f.asked <- a }

// collect returns what the iterator made since the last call.
func (f *feed) collect() produced {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.made
	f.made = produced{}
	return p
}

// gather is for how long, at most, what the iterator made is not told to the actor, so that it can be fed in runs.
const gather = 500 * time.Microsecond

// iterate answers demands until ctx ends. Every item can be collected at once, so that a Next which never
// returns holds back nothing that came before it; it keeps this goroutine, and nothing else. One that ends this
// goroutine is an error of iteration, after which nothing is demanded.
func (f *feed) iterate(ctx context.Context, inst kind.Instance) {
	inside := false // Next
	defer func() {
		if inside {
			f.mu.Lock()
			f.made.err, f.made.last = kind.ErrNoReturn, true
			f.mu.Unlock()
			f.tell()
		}
	}()
	tell := time.AfterFunc(time.Hour, f.tell)
	defer tell.Stop()
	for {
		var a ask
		select {
		case <-ctx.Done():
			return
		case p := <-f.place:
			f.findPlace(inst, p)
			continue
		case a = <-f.asked:
		}
		state, untold, made := a.state, 0, int64(0)
		t := time.Now()
		for n := 1; n <= a.n && ctx.Err() == nil; n++ {
			inside = true
			job, next, err := inst.Next(state)
			inside = false
			began := t
			t = time.Now()
			made += int64(len(state) + len(job) + len(next)) // a job's message has both states
			last := err != nil || n == a.n || made >= a.bytes
			f.mu.Lock()
			if err == nil {
				f.made.items = append(f.made.items, owner.Item{Job: job, Next: next, Took: t.Sub(began)})
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

// passed is a position that the trainer has come to, and the state after it.
type passed struct {
	seq   uint64
	state []byte
}

// locate asks how far a position is. The question is dropped while Next has not answered an earlier one.
func (f *feed) locate(p passed) {
	select {
	case f.place <- p:
	default:
	}
}

// findPlace asks the data set, whose code only this goroutine may wait for.
func (f *feed) findPlace(inst kind.Instance, p passed) {
	knows, ok := inst.(kind.Progresser)
	if !ok {
		return
	}
	known, err := kind.Returning(func() (kind.Progress, error) { return knows.Progress(p.state) })
	if err != nil {
		return // it does not say, or the state means nothing, as Next will say
	}
	f.mu.Lock()
	f.progress = &schema.Progress{Epoch: known.Epoch, Epochs: known.Epochs, Batch: known.Batch, Batches: known.Batches}
	f.located = p.seq
	f.mu.Unlock()
}

// progressAt is how far the trainer is: at the position that was located, and so many further, up to the epoch's end.
func (f *feed) progressAt(taken uint64) *schema.Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.progress == nil || taken < f.located {
		return f.progress
	}
	p := *f.progress
	if p.Batch += taken - f.located; p.Batches > 0 {
		p.Batch = min(p.Batch, p.Batches)
	}
	return &p
}

// tell says that there is something to collect.
func (f *feed) tell() {
	select {
	case f.ready <- struct{}{}:
	default: // the actor was told already
	}
}

// publish sends a run of jobs; the stream's answer comes to confirm. A lost message is sent again by republish.
func (f *feed) publish(p owner.Publish) {
	f.mu.Lock()
	f.unconfirmed[p.First] = publication{time.Now(), p.N, p.Again, p.Trace}
	f.mu.Unlock()
	try := wire.TryFirst
	if p.N > 1 {
		try = p.N
	}
	first := strconv.FormatUint(p.First, 10)
	err := f.nc.PublishMsg(&nats.Msg{
		Subject: f.subject + first + "." + strconv.Itoa(try), Reply: f.inbox + "." + first, Header: traced(p.Trace), Data: p.Data,
	})
	if err != nil {
		f.fail(err.Error(), false)
	}
}

// separateToken begins the reply token of a job that leaves its run: the run itself, under its first number, may be
// unconfirmed.
const separateToken = "s"

// separate publishes jobs of a run by themselves and calls answer once the stream has all of them. They are sent once:
// a worker that gets no answer asks again, and the last to ask is answered. There are no more separations than jobs in
// the window.
func (f *feed) separate(jobs []owner.Publish, answer func()) {
	if len(jobs) == 0 {
		answer()
		return
	}
	s := &separation{len(jobs), answer}
	f.mu.Lock()
	for _, p := range jobs {
		f.apart[p.First] = s
	}
	f.mu.Unlock()
	for _, p := range jobs {
		first := strconv.FormatUint(p.First, 10)
		err := f.nc.PublishMsg(&nats.Msg{
			Subject: f.subject + first + "." + strconv.Itoa(wire.TryFirst), Reply: f.inbox + "." + separateToken + first,
			Header: traced(p.Trace), Data: p.Data,
		})
		if err != nil {
			f.fail(err.Error(), false)
			return
		}
	}
}

// separated notes that the stream has a job by itself.
func (f *feed) separated(seq uint64) {
	f.mu.Lock()
	s := f.apart[seq]
	delete(f.apart, seq)
	done := false
	if s != nil {
		s.left--
		done = s.left == 0
	}
	f.mu.Unlock()
	if done {
		s.answer()
	}
}

// backUp sends a job a second time, for another worker than the one that has it. No answer is waited for: the job
// itself is there still.
func (f *feed) backUp(e owner.Backup) error {
	return f.nc.PublishMsg(&nats.Msg{
		Subject: f.subject + strconv.FormatUint(e.Seq, 10) + "." + strconv.Itoa(wire.TryBackup), Header: traced(e.Trace), Data: e.Data,
	})
}

// traced is the headers of a job.
func traced(trace string) nats.Header {
	if trace == "" {
		return nil
	}
	return nats.Header{wire.TraceHeader: []string{trace}}
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
		f.log.Log(context.Background(), f.line.warns(time.Now()), "job not published yet", "error", why)
	}
}

// onAnswer takes the stream's answer to a publication.
func (f *feed) onAnswer(m *nats.Msg) {
	number, separate := strings.CutPrefix(m.Subject[len(f.inbox)+1:], separateToken)
	seq, err := strconv.ParseUint(number, 10, 64)
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
	if separate {
		f.separated(seq)
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

// republish sends again what the stream did not confirm and the trainer, which has come to taken, still needs.
func (f *feed) republish(taken uint64, job func(seq uint64) ([]byte, bool)) {
	f.mu.Lock()
	maps.DeleteFunc(f.apart, func(seq uint64, _ *separation) bool { return seq <= taken })
	late := make(map[uint64]publication)
	for seq, p := range f.unconfirmed {
		if seq+uint64(p.n)-1 <= taken {
			delete(f.unconfirmed, seq)
		} else if time.Since(p.at) > beat { // its confirmation takes too long
			late[seq] = p
		}
	}
	unsaid := len(late) > 0 && f.refused == ""
	f.mu.Unlock()
	if unsaid {
		f.fail(errSilent.Error(), false)
	}
	for _, first := range slices.Sorted(maps.Keys(late)) {
		p := late[first]
		run := owner.Publish{Again: p.again, Trace: p.trace}
		for seq := first; seq < first+uint64(p.n); seq++ {
			if data, ok := job(seq); ok { // the first ones may be taken meanwhile
				if run.N == 0 {
					run.First = seq
				}
				run.N++
				run.Data = append(run.Data, data...)
			}
		}
		if run.First != first {
			f.mu.Lock()
			delete(f.unconfirmed, first)
			f.mu.Unlock()
		}
		if run.N > 0 {
			f.publish(run)
		}
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

// unstoredText says what is not stored yet, for people.
func unstoredText(jobs int, refused string) string {
	return fmt.Sprintf("jobs not stored (%d): %s", jobs, refused)
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
