package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// reader is a Batcher reduced to bytes: the parts, what runs from Open to Close, and the order in which that ends.
type reader struct {
	cfg    *Config
	both   *link
	turn   turn // of Take and Start
	handle context.Context
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup

	run     *run
	line    *line
	ask     *asker
	credits *credits
	seats   *seats
	intake  *intake
	record  *record
	lock    *lock
	meters  *meters // nil without Config.Registerer
}

func openReader(ctx context.Context, nc *nats.Conn, cfg Config, align bool) (*reader, error) {
	c, err := cfg.resolve(align)
	if err != nil {
		return nil, err
	}
	js, err := topology.JetStream(nc, c.Domain)
	if err != nil {
		return nil, fmt.Errorf("batcher %s: %w", c.Name, err)
	}
	r := newReader(c, dial(nc), js, align)
	looking, stop := context.WithCancel(ctx)
	defer stop()
	found := r.record.look(looking)
	if err := r.seats.hold(ctx, r.lock.ended()); err != nil {
		r.cancel(err)
		r.both.close()
		r.lock.abandon()
		return nil, err
	}
	r.lock.sign(r.line.secret)
	began := time.Now()
	if r.intake.data, err = r.both.own(ctx); err != nil {
		err = fmt.Errorf("batcher %s: %w", c.Name, err)
		if ctx.Err() != nil {
			err = c.waitError(ctx, began, "the connection for batches is being opened")
		}
		return nil, errors.Join(err, r.close())
	}
	if err := r.record.here(ctx, found, r.seats.domain); err != nil {
		return nil, errors.Join(err, r.close()) // so that nobody waits for the end of its lease
	}
	if err := r.register(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := r.begin(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// newReader puts the parts together.
func newReader(c *Config, both *link, js jetstream.JetStream, align bool) *reader {
	nc := both.nc
	r := &reader{cfg: c, both: both, turn: newTurn()}
	r.handle, r.cancel = context.WithCancelCause(context.Background())
	secret, changed, notices := wire.NewSecret(), new(news), new(news)
	id := wire.ReaderOf(secret)
	r.run = newRun(r.handle, c.Name, changed)
	r.line = &line{
		cfg: c, id: id, secret: secret, run: r.run, owner: &standing{dataset: c.Dataset, workers: -1}, link: both, changed: changed,
	}
	r.line.buf.Let = r.line.drop
	r.ask = &asker{cfg: c, nc: nc, link: both, notices: notices}
	r.credits = newCredits(r.handle, nc, r.line, notices)
	buffers := &pool{from: c.buffers}
	r.intake = &intake{
		cfg: c, align: align, line: r.line, credits: r.credits, fetcher: newFetcher(nc, c, buffers), buffers: buffers,
		uploads: &uploads{cfg: c, nc: nc, run: r.run}, tasks: &r.tasks,
	}
	r.record = &record{cfg: c, nc: nc, js: js, run: r.run}
	r.seats = &seats{
		cfg: c, id: id, secret: secret, handle: r.handle, ask: r.ask, run: r.run, line: r.line, credits: r.credits, intake: r.intake,
	}
	r.lock = newLock(c, nc)
	return r
}

// begin starts what runs until Close: the beat, the watch over both connections, and the care of those to workers.
func (r *reader) begin() error {
	notices, err := r.credits.listen()
	if err != nil {
		return err
	}
	data := r.intake.data
	status := data.StatusChanged(nats.CONNECTED, nats.CLOSED)
	r.tasks.Go(func() {
		defer func() { _ = notices.Unsubscribe() }() // fails only when the connection is closed anyway
		r.credits.beats()
	})
	r.tasks.Go(func() {
		defer data.RemoveStatusListener(status)
		r.intake.watch(r.handle, status)
	})
	r.tasks.Go(func() { r.intake.fetcher.conns.tend(r.handle) })
	r.tasks.Go(func() { r.lock.tend(r.handle) })
	return nil
}

// giveTurn ends what had the turn.
func (r *reader) giveTurn() {
	r.turn.give()
	if r.handle.Err() != nil {
		r.empty()
	}
}

// empty drops the results that a closed handle still holds. A Take or Peek that has the turn may be looking at them, and
// drops them when it ends.
func (r *reader) empty() {
	select {
	case r.turn <- struct{}{}:
		r.line.clear()
		r.turn.give()
	default:
	}
}

// start is Batcher.Start.
func (r *reader) start(ctx context.Context, state schema.State) error {
	began, trace := time.Now(), r.cfg.traceOf(ctx)
	if err := r.turn.get(ctx, r.handle); err != nil {
		return r.ended(ctx, began)
	}
	defer r.giveTurn()
	if err := r.cfg.checkState(state); err != nil {
		return err
	}
	where, had := r.line.find(state, trace)
	switch {
	case errors.Is(had, ErrClosed):
		return had
	case had == nil && where != unstarted:
		r.cfg.Logger.Warn("Start on a running batcher changes nothing; Take from the state that is wanted")
		return nil
	case errors.Is(had, ErrSuperseded): // and stays so until the batcher is ours once more
		if err := r.seats.hold(ctx, ""); err != nil {
			return err
		}
	case had != nil:
		r.run.revive()
	}
	// One of several readers that was stopped finds the others where they are; what it failed at, they will, too.
	return countFrom(began, r.seats.begin(ctx, state, had != nil && (r.cfg.Reader == "" || failure(had))))
}

// status is Batcher.Status.
func (r *reader) status(ctx context.Context) (schema.Status, error) {
	if err := r.run.err(); errors.Is(err, ErrClosed) {
		return schema.Status{}, err
	}
	_, _ = r.credits.beat(ctx) // so that the answer counts what was taken until now; if nobody hears it, ask says so
	var reply wire.StatusReply
	err := r.ask.ask(ctx, question{
		op: "status", body: &wire.StatusRequest{Batcher: r.cfg.Name}, limit: requestTimeout, run: r.handle,
		decode: func(subject string, data []byte) (*schema.Fault, error) {
			err := readAnswer(subject, data, &reply)
			if err == nil && reply.Fault == nil && reply.Status.Phase == "" {
				err = errNoPhase
			}
			return reply.Fault, err
		},
	})
	if errors.Is(err, ErrStopped) { // the coordinator has no such batcher any more
		return schema.Status{Batcher: r.cfg.Name, Dataset: r.cfg.Dataset, Phase: schema.PhaseStopped}, nil
	}
	if err != nil {
		return schema.Status{}, err
	}
	r.line.amend(&reply.Status)
	return reply.Status, nil
}
