package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	directGet      = "$JS.API.DIRECT.GET."
	getTimeout     = 2 * time.Second
	chunksInFlight = 8 // requests for chunks, of all payloads together; 4 MiB on the wire
	chunkTries     = 3
)

// Errors of reading the store.
var (
	errNotStored = errors.New("not stored")
	errStoreGone = errors.New("the store of results is gone")
	errDamaged   = errors.New("damaged record")
)

// store reads what is stored of one generation, by subject. It is safe for concurrent use.
type store struct {
	data         *nats.Conn
	batcher, gen string
	stream       string
	domain       string        // Config.Domain
	denied       func(error)   // told when the server refuses to answer
	chunks       chan struct{} // holds one token for every chunk that is being fetched
}

func newStore(data *nats.Conn, batcher, gen string, denied func(error)) *store {
	return &store{
		data: data, batcher: batcher, gen: gen, stream: topology.ResultsStream(batcher, gen),
		denied: denied, chunks: make(chan struct{}, chunksInFlight),
	}
}

// commit is a stored record.
type commit struct {
	result *wire.Result
	inline []byte
	stored time.Time
	came   time.Time
	trace  string
}

// get reads the message of one subject.
func (s *store) get(ctx context.Context, subject string) (*nats.Msg, error) {
	short, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	own := directGet + s.stream + "." + subject
	request := topology.InDomain(s.domain, own)
	msg, err := s.data.RequestWithContext(short, request, nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errStoreGone
	case err != nil:
		if denied := topology.Denied(s.data, topology.Needs{Publish: []string{own}}.In(s.domain)); denied != nil && ctx.Err() == nil {
			s.denied(denied)
		}
		return nil, err
	}
	// What the server says stands behind the headers that the message was stored with, a status among them.
	if last(msg.Header, jetstream.StreamHeader) == s.stream && last(msg.Header, jetstream.SubjectHeader) == subject {
		return msg, nil
	}
	switch status := msg.Header.Get("Status"); status {
	case "":
		return nil, fmt.Errorf("read %s: the answer is another message", subject)
	case "404":
		return nil, errNotStored
	default:
		return nil, fmt.Errorf("read %s: status %s %s", subject, status, msg.Header.Get("Description"))
	}
}

// last returns the last value of a header.
func last(h nats.Header, name string) string {
	values := h[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// record reads the commit record of a position.
func (s *store) record(ctx context.Context, seq uint64) (*commit, error) {
	msg, err := s.get(ctx, wire.ResultSubject(s.batcher, s.gen, seq))
	if err != nil {
		return nil, err
	}
	return readCommit(seq, msg)
}

// exists reports whether the store is there, and the generation's own, by its genesis: that is stored before everything
// else and never dropped. The error is errStoreGone, or why nothing is known.
func (s *store) exists(ctx context.Context) error {
	_, err := s.get(ctx, wire.GenesisSubject(s.batcher, s.gen))
	if errors.Is(err, errNotStored) {
		return errStoreGone
	}
	return err
}

// met says what became of the executions of a job without a result, as their workers left it; empty when nothing is
// known. It is asked while Take waits.
func (s *store) met(ctx context.Context, seq uint64) string {
	var history []wire.TimeoutMark
	for k := 1; k <= wire.MaxTimeoutMarks; k++ {
		var mark wire.TimeoutMark
		if s.mark(ctx, wire.TimeoutSubject(s.batcher, s.gen, seq, k), &mark) != nil {
			break
		}
		history = append(history, mark)
	}
	if len(history) > 0 {
		return clip("its job ran into its deadline of " + wire.DeadlinesText(history))
	}
	var failed wire.FailureMark
	if s.mark(ctx, wire.FailureSubject(s.batcher, s.gen, seq, 1), &failed) != nil {
		return ""
	}
	return clip(fmt.Sprintf("its job failed on worker %s and waits for another: %s", failed.Worker, failed.Text))
}

// mark reads what a worker left of an execution.
func (s *store) mark(ctx context.Context, subject string, mark any) error {
	msg, err := s.get(ctx, subject)
	if err != nil {
		return err
	}
	return json.Unmarshal(msg.Data, mark)
}

// clip makes a line of what a worker wrote, short enough to be a part of one.
func clip(text string) string {
	const most = 256
	return legible.Line(text[:min(len(text), most)])
}

// download fills buf with the chunks of a payload.
func (s *store) download(ctx context.Context, res *wire.Result, buf []byte) error {
	group, ctx := errgroup.WithContext(ctx)
	for k := range int(res.Chunks) {
		select {
		case s.chunks <- struct{}{}:
		case <-ctx.Done():
			return group.Wait()
		}
		group.Go(func() error {
			defer func() { <-s.chunks }()
			part := buf[k*wire.ChunkSize : min((k+1)*wire.ChunkSize, len(buf))]
			return s.chunk(ctx, res, k, part)
		})
	}
	return group.Wait()
}

func (s *store) chunk(ctx context.Context, res *wire.Result, k int, part []byte) error {
	subject := wire.ChunkSubject(s.batcher, s.gen, res.Seq, res.Attempt, k)
	for try := 1; ; try++ {
		msg, err := s.get(ctx, subject)
		switch {
		case err == nil && len(msg.Data) == len(part):
			copy(part, msg.Data)
			return nil
		case err == nil:
			return fmt.Errorf("batch %d: chunk %d has %d bytes, not %d", res.Seq, k, len(msg.Data), len(part))
		case errors.Is(err, errNotStored), try == chunkTries, ctx.Err() != nil:
			return fmt.Errorf("batch %d: chunk %d of %d: %w", res.Seq, k, res.Chunks, err)
		}
	}
}

// sentOn returns the record that a live message is. The server does not compare reply subjects with permissions: a user
// that may pull a job or read a message can have it sent here. So a live message has to come on the subscription's own
// subject, which a pulled one does not, and to want no answer. It has once each header that the server sets when it
// sends on, and none that the server sets only when it is asked. A record that was stored with such a header is read
// from the store.
func (s *store) sentOn(live string, msg *nats.Msg) (seq uint64, ok bool) {
	if msg.Subject != live || msg.Reply != "" {
		return 0, false
	}
	for _, name := range []string{
		jetstream.StreamHeader, jetstream.SubjectHeader, jetstream.SequenceHeader, jetstream.TimeStampHeaer,
		jetstream.LastSequenceHeader,
	} {
		if len(msg.Header[name]) != 1 {
			return 0, false
		}
	}
	if len(msg.Header[numPending]) != 0 || msg.Header.Get(jetstream.StreamHeader) != s.stream {
		return 0, false
	}
	if stored, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil || stored == 0 {
		return 0, false
	}
	subject := msg.Header.Get(jetstream.SubjectHeader)
	seq, err := wire.ParseResultSeq(subject)
	var its [256]byte
	return seq, err == nil && subject == string(wire.AppendResultSubject(its[:0], s.batcher, s.gen, seq))
}

// numPending is a header of the answers to requests for several messages at a time.
const numPending = "Nats-Num-Pending"

func readCommit(seq uint64, msg *nats.Msg) (*commit, error) {
	res, inline, err := wire.DecodeResult(msg.Data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if res.Seq != seq {
		return nil, fmt.Errorf("%w: that of batch %d says that it is %d", errDamaged, seq, res.Seq)
	}
	c := &commit{result: res, inline: inline, came: time.Now(),
		trace: wire.Traceparent(msg.Header.Get(wire.TraceHeader))}
	if stored, err := time.Parse(time.RFC3339Nano, last(msg.Header, jetstream.TimeStampHeaer)); err == nil {
		c.stored = stored
	}
	return c, nil
}
