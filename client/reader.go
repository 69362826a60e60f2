package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/client/internal/pace"
	"github.com/jetbatch/jetbatch/client/internal/reorder"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// reader is a Batcher reduced to bytes. Take and Start own opMu; mu guards what the goroutines share and is
// never held while waiting for an answer.
type reader struct {
	cfg   *Config
	id    string
	align bool // payloads are viewed as tensors

	nc   *nats.Conn // the caller's: control messages
	data *nats.Conn // our own: batches
	js   jetstream.JetStream

	ctx     context.Context // ends at close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	wake    chan struct{} // something changed that Take may wait for
	beatNow chan struct{}
	noticed chan struct{} // the owner said that something changed
	buffers pool
	fetcher *fetcher
	meters  *meters // nil without Config.Registerer

	opMu sync.Mutex

	mu      sync.Mutex
	life    context.Context // ends when sticky is set, or at close
	endLife context.CancelCauseFunc
	closed  bool
	started bool  // Start or Take seated this handle, and Stop has not ended that
	sticky  error // what Take returns until Start

	seat        seat
	lastRequest ulid.ULID
	phase       schema.Phase // of the batcher when last heard of
	zero        schema.State // what the zero state means; itself zero while not known
	version     uint32
	buf         reorder.Buffer[arrival]
	sess        *session
	eof         bool

	doubt   string // why a new seat is needed; empty while all is well
	hard    bool   // the doubt is about what is stored: another look-up may not help
	doubts  int    // hard ones since the last batch
	repairs int    // requests for a seat since the last batch

	window        int
	workers       int // live ones that serve the data set; -1 while unknown
	silentSince   time.Time
	trouble       string // the owner's, as it says
	warnedNone    bool
	warnedLone    bool
	waiting       string
	late          bool
	pace          pace.Pace
	overtaken     time.Time // since when something behind the head is here; zero when nothing is
	straggler     uint64    // the head that the owner was told of last, as one that straggles
	failed        *schema.Fault
	taken         uint64
	sinceCredit   int
	timed         time.Time // of the last credit that said where the time went
	total         schema.Timing
	count         counters
	trace         string // of the Take or Start that is under way, or was last
	totalBytes    int64
	largestBatch  int64
	largestStored int64 // of those that came by way of the store
	lastTake      time.Time
}

// seat is the right to take as this reader knows it.
type seat struct {
	gen    string
	number uint64
}

// arrival is what the reader keeps with a record.
type arrival struct {
	payload payload
	direct  bool      // it came from its worker
	stored  time.Time // by the server's clock
	came    time.Time // the record, by ours
	arrived time.Time // complete, by ours
	trace   string    // of the Take that let the job out
}

// taken is what Take hands to the typed layer.
type taken struct {
	seq        uint64
	next       schema.State
	timing     schema.Timing
	worker     string
	attempt    string
	deliveries uint64
	trace      string
	payload    payload
}

func openReader(ctx context.Context, nc *nats.Conn, cfg Config, align bool) (*reader, error) {
	c, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("batcher %s: %w", c.Name, err)
	}
	r := &reader{
		cfg: c, id: ulid.Make().String(), align: align, nc: nc, js: js,
		wake: make(chan struct{}, 1), beatNow: make(chan struct{}, 1), noticed: make(chan struct{}, 1), workers: -1,
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.life, r.endLife = context.WithCancelCause(r.ctx)
	if r.data, err = topology.Dial(nc, "data"); err != nil {
		r.cancel()
		return nil, fmt.Errorf("batcher %s: %w", c.Name, err)
	}
	r.fetcher = newFetcher(nc, cfg.NoDirect)
	if err := r.hold(ctx); err != nil {
		r.cancel()
		r.data.Close()
		return nil, err
	}
	if err := r.register(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := r.listen(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reader) beatSoon() {
	select {
	case r.beatNow <- struct{}{}:
	default:
	}
}

// fail makes err what Take returns until Start. The first one stays.
func (r *reader) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failLocked(err)
}

func (r *reader) failLocked(err error) {
	if r.sticky != nil {
		return
	}
	if failure(err) {
		r.count.failures++
	}
	r.sticky = err
	r.endSession()
	r.endLife(err)
	r.signal()
}

// endSession stops the goroutines of the generation that is being read. Called with mu held.
func (r *reader) endSession() {
	if r.sess != nil {
		r.sess.end()
		r.sess = nil
	}
}

// suspect notes that a new seat is needed. Called with mu held.
func (r *reader) suspect(why string, hard bool) {
	if r.doubt == "" || (hard && !r.hard) {
		r.doubt, r.hard = why, hard
	}
	r.signal()
}

// start is Batcher.Start.
func (r *reader) start(ctx context.Context, state schema.State) error {
	r.opMu.Lock()
	defer r.opMu.Unlock()
	if err := r.checkState(state); err != nil {
		return err
	}
	trace := r.cfg.traceOf(ctx)
	r.mu.Lock()
	r.trace = trace
	switch {
	case r.closed:
		r.mu.Unlock()
		return r.errClosed()
	case r.started && r.sticky == nil:
		r.mu.Unlock()
		r.cfg.Logger.Warn("Start on a running batcher changes nothing; Take from the state that is wanted")
		return nil
	}
	anew, displaced := r.sticky != nil, errors.Is(r.sticky, ErrSuperseded)
	if anew && !displaced {
		r.revive()
	}
	r.mu.Unlock()
	if displaced { // and stays so until the batcher is ours again
		if err := r.hold(ctx); err != nil {
			return err
		}
	}
	return r.begin(ctx, state, anew)
}

// revive ends the state that failLocked began. Called with mu held.
func (r *reader) revive() {
	r.life, r.endLife = context.WithCancelCause(r.ctx)
	r.sticky, r.failed, r.eof, r.started = nil, nil, false, false
}

// begin seats a handle that does not run. A batcher that another process left running is joined: what it
// holds need not be made again.
func (r *reader) begin(ctx context.Context, state schema.State, anew bool) error {
	r.mu.Lock()
	mode := wire.ModeStart
	if !anew && (r.phase == schema.PhaseRunning || r.phase == schema.PhaseDone) {
		mode = wire.ModeSeek
	}
	r.mu.Unlock()
	return r.sit(ctx, sitting{mode: mode, state: state})
}

func (r *reader) errClosed() error { return fmt.Errorf("batcher %s: %w", r.cfg.Name, ErrClosed) }

// checkState refuses what no coordinator needs to be asked about.
func (r *reader) checkState(s schema.State) error {
	if s.Dataset != "" && s.Dataset != r.cfg.Dataset {
		return fmt.Errorf("batcher %s: %w: it is one of %q, this batcher iterates %q", r.cfg.Name, ErrWrongState, s.Dataset, r.cfg.Dataset)
	}
	if len(s.Data) > schema.MaxState {
		return fmt.Errorf("batcher %s: %w: %d bytes, at most %d", r.cfg.Name, ErrStateTooLarge, len(s.Data), schema.MaxState)
	}
	return nil
}

// take is Batcher.Take on bytes. decode is called once for a batch that is to be returned.
func (r *reader) take(ctx context.Context, asked schema.State, decode func([]byte) error) (taken, error) {
	r.opMu.Lock()
	defer r.opMu.Unlock()
	began := time.Now()
	trace := r.cfg.traceOf(ctx)
	r.mu.Lock()
	r.trace = trace
	err, started, here := r.sticky, r.started, r.isHead(asked)
	if r.closed {
		err = r.errClosed()
	}
	r.mu.Unlock()
	if err != nil {
		return taken{}, err
	}
	if err := r.checkState(asked); err != nil {
		return taken{}, err
	}
	if ctx.Err() != nil {
		return taken{}, r.waitError(ctx, began, "the context ended before Take began")
	}
	if !started {
		if err := r.begin(ctx, asked, false); err != nil {
			return taken{}, err
		}
	} else if !here {
		if failed, err := r.failedEarly(ctx); failed || err != nil {
			return taken{}, err
		}
		r.mu.Lock()
		r.count.moves++
		r.mu.Unlock()
		r.cfg.Logger.Warn("moving to another state", "gen", r.seat.gen, "seq", r.buf.Head(), "state", asked, "head", r.headState())
		if err := r.sit(ctx, sitting{mode: wire.ModeSeek, state: asked}); err != nil {
			return taken{}, err
		}
	}
	return r.next(ctx, began, decode)
}

// isHead reports whether the head of the line follows state. Called with mu held.
func (r *reader) isHead(s schema.State) bool {
	if s.IsZero() {
		if r.zero.IsZero() {
			return false
		}
		s = r.zero
	}
	if s.Dataset != "" && s.Version != r.version {
		return false
	}
	return r.started && bytes.Equal(s.Data, r.buf.State())
}

func (r *reader) headState() schema.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headStateLocked()
}

func (r *reader) headStateLocked() schema.State {
	return schema.State{Dataset: r.cfg.Dataset, Version: r.version, Data: bytes.Clone(r.buf.State())}
}

// failedEarly reports a failure that FailFast brings forward.
func (r *reader) failedEarly(ctx context.Context) (bool, error) {
	if r.cfg.OnError != FailFast {
		return false, nil
	}
	r.mu.Lock()
	res, ok := r.buf.FirstError()
	r.mu.Unlock()
	if !ok {
		return false, nil
	}
	return r.believe(ctx, res)
}
