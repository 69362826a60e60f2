package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	directGet     = "$JS.API.DIRECT.GET."
	getTimeout    = 2 * time.Second
	recordsAtOnce = 32 // requests for records in flight; 16 MiB at most
	goneLimit     = 3  // looks in a row that found no store until the seat is asked for again
)

// Errors of reading the store.
var (
	errNotStored = errors.New("not stored")
	errStoreGone = errors.New("the store of results is gone")
)

// session reads one generation. It believes what the store has accepted and nothing else: the live
// subscription is to what the server sends on after storing, and everything else is read by subject.
type session struct {
	r      *reader
	gen    string
	stream string
	ctx    context.Context
	cancel context.CancelFunc
	sub    *nats.Subscription

	sweepNow chan struct{} // read all that is missing
	lookNow  chan struct{} // read the head, and all that is missing if it is there
	fetchNow chan struct{}
	chunks   chan struct{} // holds one token for every chunk that is being fetched

	gone int               // looks in a row that found no store
	lost map[uint64]string // attempts whose payloads are nowhere, by sequence number; under reader.mu
}

// commit is a stored record.
type commit struct {
	result  *wire.Result
	inline  []byte
	stored  time.Time
	arrived time.Time
	trace   string
}

// newSession subscribes to a generation and reads what is stored of it already. Called with mu held.
func (r *reader) newSession(gen string) (*session, error) {
	s := &session{
		r: r, gen: gen, stream: topology.ResultsStream(r.cfg.Name, gen),
		sweepNow: make(chan struct{}, 1), lookNow: make(chan struct{}, 1), fetchNow: make(chan struct{}, 1),
		chunks: make(chan struct{}, chunksInFlight), lost: make(map[uint64]string),
	}
	s.ctx, s.cancel = context.WithCancel(r.ctx)
	sub, err := r.data.Subscribe(wire.LiveSubject(r.cfg.Name, gen), s.live)
	if err == nil {
		// The owner's window bounds what can be under way, so the client library need not, which would drop it.
		err = sub.SetPendingLimits(-1, -1)
	}
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.sub = sub
	s.sweepSoon()
	r.tasks.Go(s.sweeps)
	for range fetchers {
		r.tasks.Go(s.fetches)
	}
	return s, nil
}

func (s *session) end() {
	s.cancel()
	_ = s.sub.Unsubscribe() // fails only when the connection is closed, and the subscription with it
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *session) sweepSoon() { poke(s.sweepNow) }
func (s *session) lookSoon()  { poke(s.lookNow) }
func (s *session) fetchSoon() { poke(s.fetchNow) }

// live takes a record that the server sent on after storing it.
func (s *session) live(msg *nats.Msg) {
	seq, ok := s.sentOn(msg)
	if !ok || !s.wants(seq) {
		return
	}
	s.read(seq, msg)
}

// sentOn returns which record a live message says that it is, sent on after it was stored. The server does not compare
// reply subjects with permissions: who may ask it for a job or a message can have that sent here.
func (s *session) sentOn(msg *nats.Msg) (seq uint64, ok bool) {
	if msg.Header.Get(jetstream.StreamHeader) != s.stream {
		return 0, false
	}
	subject := msg.Header.Get(jetstream.SubjectHeader)
	seq, err := wire.ParseResultSeq(subject)
	var its [256]byte
	return seq, err == nil && subject == string(wire.AppendResultSubject(its[:0], s.r.cfg.Name, s.gen, seq))
}

func (s *session) count(what func(*counters)) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	what(&s.r.count)
}

func (s *session) wants(seq uint64) bool {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.r.sess == s && s.r.buf.Wants(seq)
}

// read decodes a record and keeps it.
func (s *session) read(seq uint64, msg *nats.Msg) {
	c, err := decodeCommit(seq, msg)
	if err != nil {
		s.damaged(seq, err)
		return
	}
	s.arrive(c)
}

func decodeCommit(seq uint64, msg *nats.Msg) (*commit, error) {
	res, inline, err := wire.DecodeResult(msg.Data)
	if err != nil {
		return nil, err
	}
	if res.Seq != seq {
		return nil, fmt.Errorf("the record of batch %d says that it is %d", seq, res.Seq)
	}
	c := &commit{result: res, inline: inline, arrived: time.Now(), trace: wire.Traceparent(msg.Header.Get(wire.TraceHeader))}
	if stored, err := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp")); err == nil {
		c.stored = stored
	}
	return c, nil
}

// arrive puts a record in its place.
func (s *session) arrive(c *commit) {
	res := c.result
	value := arrival{stored: c.stored, came: c.arrived, arrived: c.arrived, trace: c.trace}
	complete := res.Chunks == 0
	if complete && res.Kind == wire.KindBatch {
		p, err := s.r.inline(res, c.inline)
		if err != nil {
			s.damaged(res.Seq, err)
			return
		}
		value.payload = p
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.r.sess != s || s.isLost(res) || !s.r.buf.Add(res, value, complete) {
		value.payload.release()
		return
	}
	delete(s.lost, res.Seq) // this is another attempt
	s.r.overtake(res.Seq, c.arrived)
	if !complete {
		s.fetchSoon()
		return
	}
	if res.Seq == s.r.buf.Head() || res.Kind == wire.KindError {
		s.r.signal()
	}
}

// damaged notes a record that cannot be right. Ahead of the head it is as if it had not arrived.
func (s *session) damaged(seq uint64, err error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.r.sess == s && s.r.buf.Head() == seq {
		s.r.suspect(err.Error(), true)
	}
}

// get reads the message of one subject from the store.
func (s *session) get(ctx context.Context, subject string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	request := directGet + s.stream + "." + subject
	msg, err := s.r.data.RequestWithContext(ctx, request, nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errStoreGone
	case err != nil:
		if denied := refusal(s.r.data, request); denied != nil && s.ctx.Err() == nil {
			s.r.fail(fmt.Errorf("batcher %s: %w", s.r.cfg.Name, denied))
		}
		return nil, err
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
		return msg, nil
	case "404":
		return nil, errNotStored
	default:
		return nil, fmt.Errorf("read %s: status %s %s", subject, status, msg.Header.Get("Description"))
	}
}

func (s *session) commit(ctx context.Context, seq uint64) (*commit, error) {
	msg, err := s.get(ctx, wire.ResultSubject(s.r.cfg.Name, s.gen, seq))
	if err != nil {
		return nil, err
	}
	return decodeCommit(seq, msg)
}

// sweeps reads from the store what did not come live.
func (s *session) sweeps() {
	// Reading finds what was stored before the subscription reached the server, so it has to reach it first. If
	// it cannot, the connection is away, and everything is read again when it is back.
	_ = s.r.data.FlushWithContext(s.ctx)
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.sweepNow:
			s.sweep()
		case <-s.lookNow:
			if s.look() {
				s.sweep()
			}
		}
	}
}

// look reads the head, and reports whether it was there. Finding no store, or one that is not the
// generation's own, again and again means that it was lost.
func (s *session) look() bool {
	s.r.mu.Lock()
	seq := s.r.buf.Head()
	wanted := s.r.sess == s && s.r.buf.Wants(seq)
	s.r.mu.Unlock()
	if !wanted {
		return false
	}
	if denied := refusal(s.r.data, s.sub.Subject); denied != nil {
		s.r.fail(fmt.Errorf("batcher %s: %w", s.r.cfg.Name, denied))
		return false
	}
	msg, err := s.get(s.ctx, wire.ResultSubject(s.r.cfg.Name, s.gen, seq))
	if errors.Is(err, errNotStored) {
		// The genesis is stored before everything else and never dropped.
		_, err = s.get(s.ctx, wire.GenesisSubject(s.r.cfg.Name, s.gen))
		if errors.Is(err, errNotStored) {
			err = errStoreGone
		}
	}
	if errors.Is(err, errStoreGone) {
		if s.gone++; s.gone >= goneLimit {
			s.gone = 0
			s.r.mu.Lock()
			s.r.suspect(errStoreGone.Error(), true)
			s.r.mu.Unlock()
		}
		return false
	}
	s.gone = 0
	if err != nil || msg == nil {
		return false
	}
	s.read(seq, msg)
	return true
}

// sweep reads all records that are missing.
func (s *session) sweep() {
	s.r.mu.Lock()
	var missing []uint64
	if s.r.sess == s {
		missing = s.r.buf.Missing(s.r.window)
	}
	s.r.mu.Unlock()
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

// readStored reads one record from the store. One that cannot be read is missing still, and is looked for again when it is
// late.
func (s *session) readStored(seq uint64) {
	if !s.wants(seq) {
		return
	}
	if msg, err := s.get(s.ctx, wire.ResultSubject(s.r.cfg.Name, s.gen, seq)); err == nil {
		s.read(seq, msg)
	}
}
