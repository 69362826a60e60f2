package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	recordsAtOnce = 32 // requests for records in flight; 16 MiB at most
	goneLimit     = 3  // looks in a row that found no store until the seat is asked for again
)

// intake fills the line: it opens a session for each generation, and follows the connection that batches arrive on.
type intake struct {
	cfg     *Config
	align   bool       // payloads are viewed as tensors
	data    *nats.Conn // for batches alone; set before the first session
	line    *line
	credits *credits
	fetcher *fetcher
	uploads *uploads
	buffers *pool
	tasks   *sync.WaitGroup
}

// session reads one generation. It believes what the store has accepted and nothing else: the live
// subscription is to what the server sends on after storing, and everything else is read by subject. It ends with its
// run, or when another generation is read.
type session struct {
	in       *intake
	store    *store
	payloads *payloads
	live     string // subject
	ctx      context.Context
	cancel   context.CancelFunc
	sub      *nats.Subscription

	sweepNow hint // received by sweeps: read all that is missing
	headNow  hint // received by sweeps: read the head, and all that is missing if it is there
	gone     int  // looks in a row that found no store; of sweeps
}

// open subscribes to a generation. What arrives is kept once the line has taken the session.
func (in *intake) open(gen string) (*session, error) {
	s := &session{in: in, live: wire.LiveSubject(in.cfg.Name, gen), sweepNow: newHint(), headNow: newHint()}
	s.ctx, s.cancel = context.WithCancel(in.line.run.context())
	s.store = newStore(in.data, in.cfg.Name, gen, func(denied error) {
		in.line.run.end(fmt.Errorf("batcher %s: %w", in.cfg.Name, denied))
	})
	s.store.domain = in.cfg.Domain
	s.payloads = &payloads{in: in, s: s, claimNow: newHint(), places: make(chan struct{}, fetchers)}
	sub, err := in.data.Subscribe(s.live, s.hear)
	if err == nil {
		// The owner's window bounds what can be under way, so the client library need not, which would drop it.
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.sub = sub
	return s, nil
}

// start begins to read what is stored already. Called with the line's mu held, once.
func (s *session) start() {
	s.sweepNow.give()
	s.in.tasks.Go(s.sweeps)
	s.in.tasks.Go(s.payloads.claims)
}

// abandon ends a session, whether it was started or not.
func (s *session) abandon() {
	s.cancel()
	_ = s.sub.Unsubscribe() // fails only when the connection is closed, and the subscription with it
}

// watch follows the connection until the handle ends.
func (in *intake) watch(handle context.Context, status <-chan nats.Status) {
	for {
		select {
		case <-handle.Done():
			return
		case s := <-status:
			if s == nats.CLOSED {
				in.line.run.end(in.cfg.errDisconnected(in.data.LastError()))
				return
			}
			// Live messages of the meantime are lost, and the store may be too.
			in.line.nudge()
			in.credits.due.give()
		}
	}
}

// hear takes a record that the server sent on after storing it.
func (s *session) hear(msg *nats.Msg) {
	if seq, ok := s.store.sentOn(s.live, msg); ok && s.wants(seq) {
		s.read(seq, msg)
	}
}

func (s *session) wants(seq uint64) (wanted bool) {
	s.in.line.within(s, func() { wanted = s.in.line.buf.Wants(seq) })
	return wanted
}

// read decodes a record and keeps it.
func (s *session) read(seq uint64, msg *nats.Msg) {
	c, err := readCommit(seq, msg)
	if err != nil {
		s.damaged(seq, err)
		return
	}
	s.arrive(c)
}

// arrive puts a record in its place.
func (s *session) arrive(c *commit) {
	res, l := c.result, s.in.line
	value := arrival{stored: c.stored, came: c.came, arrived: c.came, trace: c.trace}
	complete := res.Chunks == 0
	if complete && res.Kind == wire.KindBatch {
		p, err := s.in.inline(res, c.inline)
		if err != nil {
			s.damaged(res.Seq, err)
			return
		}
		value.payload = p
	}
	kept, news, foreign := false, false, false
	l.within(s, func() {
		if foreign = res.Spec != l.seat.spec; foreign {
			return
		}
		value.sat = l.seat.sat
		if l.lost.contradict(res) {
			f := &schema.Fault{Code: schema.CodeNondeterministic, Worker: res.Worker, Gen: l.seat.gen, Seq: res.Seq,
				Message: "the payload was lost, and is another after it was made again"}
			_ = l.run.blame(s.in.cfg.faultError(f), f) // Take returns it
			return
		}
		if l.lost.has(res) || !l.buf.Add(res, value, complete) {
			return
		}
		kept = true
		delete(l.lost, res.Seq) // this is another attempt
		awaited := res.Seq == l.buf.Head() || res.Seq == l.sought
		// Take waits for something else now if the head is overtaken.
		news = l.late.arrive(&l.buf, res.Seq, c.came) || complete && (awaited || res.Kind == wire.KindError)
	})
	switch {
	case !kept:
		value.payload.release()
		if foreign {
			s.damaged(res.Seq, fmt.Errorf("batch %d is of other parameters or data than this run", res.Seq))
		}
		return
	case !complete:
		s.payloads.claimNow.give()
	}
	if news {
		l.changed.tell()
	}
}

// damaged notes a record that cannot be right. Ahead of the head it is as if it had not arrived.
func (s *session) damaged(seq uint64, err error) {
	s.in.line.within(s, func() {
		if s.in.line.buf.Head() == seq {
			s.in.line.run.suspect(err.Error(), life.Stored)
		}
	})
}

// sweeps reads from the store what did not come live.
func (s *session) sweeps() {
	defer s.abandon()
	// What is stored before the subscription reaches the server is found by reading: both travel on one connection, in
	// this order.
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.sweepNow:
			s.sweep()
		case <-s.headNow:
			if s.readHead() {
				s.sweep()
			}
		}
	}
}

// readHead reads the head, and reports whether it was there. Finding no store, or one that is not the
// generation's own, several times in a row means that it was lost.
func (s *session) readHead() bool {
	var seq uint64
	wanted := false
	s.in.line.within(s, func() {
		seq = s.in.line.buf.Head()
		wanted = s.in.line.buf.Wants(seq)
	})
	if !wanted {
		return false
	}
	if denied := refusal(s.in.data, s.live); denied != nil {
		s.store.denied(denied)
		return false
	}
	c, err := s.store.record(s.ctx, seq)
	if errors.Is(err, errNotStored) {
		if err = s.store.exists(s.ctx); err == nil {
			m := met{gen: s.store.gen, seq: seq, text: s.store.met(s.ctx, seq)}
			s.in.line.within(s, func() { s.in.line.met = m })
		}
	}
	if errors.Is(err, errStoreGone) {
		if s.gone++; s.gone >= goneLimit {
			s.gone = 0
			s.in.line.run.suspect(errStoreGone.Error(), life.Stored)
		}
		return false
	}
	s.gone = 0
	return s.accept(seq, c, err)
}

// accept keeps a record that was read, and reports whether there was one. A record that does not decode is damaged;
// what could not be read is missing still, and is looked for when it is late.
func (s *session) accept(seq uint64, c *commit, err error) bool {
	switch {
	case c != nil:
		s.arrive(c)
	case errors.Is(err, errDamaged):
		s.damaged(seq, err)
	default:
		return false
	}
	return true
}

// sweep reads all records that are missing.
func (s *session) sweep() {
	var missing []uint64
	s.in.line.within(s, func() { missing = s.in.line.buf.Missing(s.in.line.window) })
	if len(missing) == 0 {
		return
	}
	s.readStored(missing[0]) // before all others: Take waits for it
	var group errgroup.Group
	group.SetLimit(recordsAtOnce)
	for _, seq := range missing[1:] {
		if s.ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			s.readStored(seq)
			return nil
		})
	}
	_ = group.Wait() // nothing returns an error
}

// readStored reads one record from the store.
func (s *session) readStored(seq uint64) {
	if s.wants(seq) {
		c, err := s.store.record(s.ctx, seq)
		s.accept(seq, c, err)
	}
}
