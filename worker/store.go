package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// recordTimeout bounds one read of a batcher's record, or of a stored result.
const recordTimeout = time.Second

var (
	errNoStream  = errors.New("no such stream")
	errNotStored = errors.New("not stored")
	errElsewhere = errors.New("another JetStream than the coordinator's")
)

// conns are the worker's connections. data is set before anything uses it.
type conns struct {
	control *nats.Conn // pulls, acks, announcements
	data    *nats.Conn // payloads: records and chunks
}

// records reads batchers' records. Its lock guards the opened bucket and is not held during a read.
type records struct {
	*life
	js     jetstream.JetStream
	domain string // of it

	mu     sync.Mutex
	bucket jetstream.Stream // nil until the first record was read
}

// prepare opens the bucket, so that nobody waits for that who waits for the first record. Where it fails, that does.
func (r *records) prepare() {
	ctx, cancel := context.WithTimeout(r.hard, recordTimeout)
	defer cancel()
	_, _ = r.open(ctx)
}

// read returns a batcher's record as the bucket's leader has it; nil without an error when there is none.
func (r *records) read(ctx context.Context, batcher string) (*wire.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	bucket, err := r.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", batcher, err)
	}
	value, _, err := topology.Get(ctx, bucket, topology.BatcherKey(batcher))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", batcher, err)
	}
	rec, err := wire.ParseRecord(batcher, value)
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", batcher, err)
	}
	return &rec, nil
}

// origin returns the description of an origin; nil when nobody has it.
func (r *records) origin(ctx context.Context, digest string) *kind.Origin {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	bucket, err := r.open(ctx)
	if err != nil || wire.CheckName("origin", digest) != nil {
		return nil
	}
	value, _, err := topology.Get(ctx, bucket, topology.OriginKey(digest))
	origin := new(kind.Origin)
	if err != nil || json.Unmarshal(value, origin) != nil || origin.Digest != digest {
		return nil
	}
	return origin
}

func (r *records) open(ctx context.Context) (jetstream.Stream, error) {
	r.mu.Lock()
	bucket := r.bucket
	r.mu.Unlock()
	if bucket != nil {
		return bucket, nil
	}
	bucket, err := r.js.Stream(ctx, topology.BucketStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%w: %s", errElsewhere, topology.OtherJetStream(r.domain, ""))
	}
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.bucket = bucket
	r.mu.Unlock()
	return bucket, nil
}

// store is what generations' stores are asked besides publications. It has no state.
type store struct {
	*life
	*conns
	domain string // of its JetStream
}

// result reads the commit record of a sequence number from the leader of the lane's store. The error is a
// *noResultError where something else is stored in its place.
func (s *store) result(ctx context.Context, l *lane, seq uint64) (*wire.Result, error) {
	m, err := s.message(ctx, l.store, wire.ResultSubject(l.batcher, l.gen, seq))
	if err != nil {
		return nil, err
	}
	r, _, err := wire.DecodeResult(m.Data)
	switch {
	case err != nil:
	case m.aimed():
		err = errors.New("the server was made to store it")
	case r.Seq != seq || r.Spec != l.spec:
		err = fmt.Errorf("it is batch %d, or of other parameters or data", r.Seq)
	default:
		return r, nil
	}
	return nil, &noResultError{m.Seq, err}
}

// noResultError is the error of a message in the place of a commit record that no reader believes.
type noResultError struct {
	stored uint64 // the message, by the stream's number
	cause  error
}

func (e *noResultError) Error() string {
	return fmt.Sprintf("what is stored is no result: %v", e.cause)
}

func (e *noResultError) Unwrap() error { return e.cause }

// storedMsg is a message as the API returns it.
type storedMsg struct {
	Seq     uint64 `json:"seq"`
	Headers []byte `json:"hdrs"`
	Data    []byte `json:"data"`
}

func (m *storedMsg) aimed() bool {
	if len(m.Headers) == 0 {
		return false
	}
	header, err := nats.DecodeHeadersMsg(m.Headers)
	return err != nil || topology.Aimed(header)
}

// there reports whether a generation has a store.
func (s *store) there(ctx context.Context, batcher, gen string) bool {
	none := wire.ResultSubject(batcher, gen, 0)
	_, err := s.message(ctx, topology.ResultsStream(batcher, gen), none)
	return errors.Is(err, errNotStored)
}

// message reads what is stored at a subject from the stream's leader.
func (s *store) message(ctx context.Context, stream, subject string) (*storedMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	request, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return nil, err
	}
	msg, err := s.data.RequestWithContext(ctx, topology.InDomain(s.domain, "$JS.API.STREAM.MSG.GET."+stream), request)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, errNoStream
	}
	if err != nil {
		return nil, err
	}
	var reply struct {
		Error   *refusal  `json:"error"`
		Message storedMsg `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return nil, err
	}
	if e := reply.Error; e != nil {
		switch {
		case topology.IsNoMessage(e.ErrCode):
			return nil, errNotStored
		case topology.IsNoStream(e.ErrCode):
			return nil, errNoStream
		}
		return nil, fmt.Errorf("%s (%d)", e.Description, e.ErrCode)
	}
	return &reply.Message, nil
}

// report tells the owner something about its store. It is a hint; the owner looks for itself.
func (s *store) report(l *lane, f *schema.Fault) { s.send(l, wire.Report{Gen: l.gen, Fault: f}) }

func (s *store) send(l *lane, r wire.Report) {
	data, err := json.Marshal(r)
	if err == nil {
		err = s.control.Publish(wire.ReportPrefix+"."+l.batcher, data)
	}
	if err != nil {
		s.log.Warn("report not sent", l.at("error", err)...)
	}
}

// reportFull asks the owner for room.
func (s *store) reportFull(worker string, l *lane, seq uint64, size int) {
	s.log.Warn("store is full", l.at("seq", seq, "bytes", size)...)
	s.report(l, &schema.Fault{
		Code: schema.CodeStoreFull, Message: fmt.Sprintf("no room for %d bytes", size),
		Worker: worker, Gen: l.gen, Seq: seq,
	})
}

// purge removes messages from a generation's store. What it misses goes with the generation.
func (s *store) purge(l *lane, filter string) { s.purgeBefore(l, filter, 0) }

// purgeBefore removes those before a number of the stream; 0 removes all.
func (s *store) purgeBefore(l *lane, filter string, seq uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.hard), topology.AckWait)
	defer cancel()
	request, err := json.Marshal(struct {
		Filter string `json:"filter"`
		Seq    uint64 `json:"seq,omitempty"`
	}{filter, seq})
	if err == nil {
		_, err = s.data.RequestWithContext(ctx, topology.InDomain(s.domain, "$JS.API.STREAM.PURGE."+l.store), request)
	}
	if err != nil {
		s.log.Debug("not purged", l.at("filter", filter, "error", err)...)
	}
}
