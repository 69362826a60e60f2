// Package topology is the one place that knows which streams, consumers and buckets exist and how they are configured.
// It creates and deletes them; its callers decide when.
package topology

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// Names of what is shared by all batchers.
const (
	Bucket       = "jetbatch"        // records and leases
	JobsStream   = "jetbatch-jobs"   // the work queue
	EventsStream = "jetbatch-events" // what happened, for people

	BucketStream  = "KV_" + Bucket
	ResultsPrefix = "jetbatch-results-" // of the names of result stores
)

// Keys of the bucket.
const (
	batcherKey     = "batcher."
	coordinatorKey = "coordinator."
	originKey      = "origin."
)

// BatcherKey is the key of a batcher's record.
func BatcherKey(batcher string) string { return batcherKey + batcher }

// CoordinatorKey is the key of a coordinator's lease.
func CoordinatorKey(id string) string { return coordinatorKey + id }

// OriginKey is the key of the description of an origin.
func OriginKey(digest string) string { return originKey + digest }

// ParseKey tells batcher records and coordinator leases apart; both are empty for other keys.
func ParseKey(key string) (batcher, coordinator string) {
	if name, ok := strings.CutPrefix(key, batcherKey); ok {
		return name, ""
	}
	id, _ := strings.CutPrefix(key, coordinatorKey)
	if id == key {
		return "", ""
	}
	return "", id
}

// ResultsStream is the name of a generation's store of results.
func ResultsStream(batcher, gen string) string { return ResultsPrefix + batcher + "-" + gen }

// ParseResultsStream is the inverse of ResultsStream; generations have no '-'.
func ParseResultsStream(name string) (batcher, gen string, ok bool) {
	rest, ok := strings.CutPrefix(name, ResultsPrefix)
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 1 || i == len(rest)-1 {
		return "", "", false
	}
	return rest[:i], rest[i+1:], true
}

// Consumer is the name of a generation's consumer of jobs.
func Consumer(batcher, gen string) string { return "jetbatch-" + batcher + "-" + gen }

// AckWait is how long a job without a heartbeat stays with a worker before it is handed out again.
const AckWait = 2 * time.Second

// Config says how to store; zero values suit one server.
type Config struct {
	Replicas int // of the bucket and of the job stream; defaults to 1
}

// Ensure creates the bucket and the job stream where they are missing and leaves them alone where not.
func Ensure(ctx context.Context, js jetstream.JetStream, cfg Config) error {
	for _, stream := range Shared(cfg) {
		if stream.Name == BucketStream {
			stream.FirstSeq = uint64(time.Now().UnixMicro())
		}
		if err := ensureStream(ctx, js, stream); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of the stream of events. One name that comes and goes for ever pushes no other's events out.
const (
	maxEvents        = 4096
	maxEventsPerName = 128
	maxEventAge      = 30 * 24 * time.Hour
)

// Shared are the configurations of the bucket's stream, but for its FirstSeq, of the job stream and of the stream of
// events.
func Shared(cfg Config) []jetstream.StreamConfig {
	replicas := max(cfg.Replicas, 1)
	return []jetstream.StreamConfig{
		// A bucket is made as a stream of its own so that its revisions start at the clock: one that was lost
		// and made again cannot repeat a revision. Direct gets are off: every read is the leader's.
		{
			Name: BucketStream, Subjects: []string{"$KV." + Bucket + ".>"},
			Description:       "jetbatch: one record per batcher, one lease per coordinator",
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true,
			Storage: jetstream.FileStorage, Replicas: replicas,
		},
		{
			Name: JobsStream, Subjects: []string{wire.JobPrefix + ".>"},
			Description: "jetbatch: materialize jobs",
			// In memory, as results are: jobs that outlived them would be run once more for nothing.
			Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage, Replicas: replicas,
			MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		},
		{
			Name: EventsStream, Subjects: []string{wire.EventPrefix + ".*.*"},
			Description: "jetbatch: what happened, for people",
			Storage:     jetstream.FileStorage, Replicas: replicas,
			MaxMsgs: maxEvents, MaxMsgsPerSubject: maxEventsPerName, MaxAge: maxEventAge, MaxMsgSize: wire.MaxEvent,
			Discard: jetstream.DiscardOld,
			// Each coordinator tells of a worker; what has one id is stored once.
			Duplicates: 2 * time.Minute,
		},
	}
}

func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) error {
	_, err := js.Stream(ctx, cfg.Name)
	if unreadable(err) { // as good as lost: all that is stored can be derived again
		if err = js.DeleteStream(ctx, cfg.Name); err == nil {
			err = jetstream.ErrStreamNotFound
		}
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, cfg)
		err = overlapped(ctx, js, cfg, err)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil // made by another coordinator in between
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", cfg.Name, err)
	}
	return nil
}

// OpenBucket opens the bucket of records.
func OpenBucket(ctx context.Context, js jetstream.JetStream) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, Bucket)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", Bucket, err)
	}
	return kv, nil
}

// ErrForged is the error of a value that no owner wrote: the server was made to store another message in its place.
var ErrForged = errors.New("not written by an owner")

// Get reads the value of a key from the bucket's stream, as its leader has it. The error is jetstream.ErrKeyNotFound
// where there is none, and wraps ErrForged, with the revision, where no role wrote it.
func Get(ctx context.Context, stream jetstream.Stream, key string) (value []byte, revision uint64, err error) {
	m, err := stream.GetLastMsgForSubject(ctx, "$KV."+Bucket+"."+key)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, 0, jetstream.ErrKeyNotFound
	case err != nil:
		return nil, 0, err
	case Aimed(m.Header):
		return nil, m.Sequence, fmt.Errorf("key %s: %w", key, ErrForged)
	case m.Header.Get("KV-Operation") != "":
		return nil, 0, jetstream.ErrKeyNotFound
	}
	return m.Data, m.Sequence, nil
}

// Results is the configuration of a generation's store.
func Results(batcher, gen string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: ResultsStream(batcher, gen), Subjects: []string{wire.ResultFilter(batcher, gen)},
		Description: "jetbatch: results of " + batcher,
		Storage:     jetstream.MemoryStorage, Replicas: 1,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		AllowDirect: true,
		// Readers listen here and not to the subjects that workers publish to, where a refused record is seen too.
		RePublish: &jetstream.RePublish{
			Source:      wire.CommitFilter(batcher, gen),
			Destination: wire.LiveSubject(batcher, gen),
		},
	}
}

// CreateGeneration makes the consumer and the store of a new generation and writes its genesis. The name
// is new, so a store that exists already is another's and an error.
//
// In a cluster the consumer comes first: a cluster goes on placing streams on a server that was killed, for minutes,
// until that one has missed a change of the cluster's state; the consumer is one. A server by itself is asked for both
// at once.
func CreateGeneration(ctx context.Context, js jetstream.JetStream, kind, batcher, gen string) error {
	consumer := new(errgroup.Group)
	consumer.Go(func() error { return createConsumer(ctx, js, kind, batcher, gen) })
	if js.Conn().ConnectedClusterName() != "" {
		if err := consumer.Wait(); err != nil {
			return err
		}
	}
	err := createStore(ctx, js, batcher, gen)
	return cmp.Or(consumer.Wait(), err)
}

// createStore makes the store of a new generation and writes its genesis.
func createStore(ctx context.Context, js jetstream.JetStream, batcher, gen string) error {
	name, results := ResultsStream(batcher, gen), Results(batcher, gen)
	if _, err := js.CreateStream(ctx, results); err != nil {
		return fmt.Errorf("stream %s: %w", name, overlapped(ctx, js, results, err))
	}
	if _, err := js.Publish(ctx, wire.GenesisSubject(batcher, gen), wire.Genesis(gen), jetstream.WithExpectStream(name)); err != nil {
		return fmt.Errorf("stream %s: genesis: %w", name, err)
	}
	return nil
}

// EnsureConsumer makes the generation's consumer again if it was lost, cannot be read by the server, or has lost sight
// of jobs that are queued: nats-server 2.15.2 can come to take a job for acked that is in the stream still, when others
// were removed beside it. A new consumer delivers whatever there is. unasked says that jobs are
// queued and no request for jobs waits: all workers are busy, or the server that had their requests is gone.
func EnsureConsumer(ctx context.Context, js jetstream.JetStream, kind, batcher, gen string) (unasked bool, err error) {
	jobs, err := js.Stream(ctx, JobsStream)
	if err != nil {
		return false, fmt.Errorf("consumer %s: %w", Consumer(batcher, gen), err)
	}
	queued, err := jobs.Info(ctx, jetstream.WithSubjectFilter(wire.JobFilter(kind, batcher, gen)))
	if err != nil {
		return false, fmt.Errorf("consumer %s: %w", Consumer(batcher, gen), err)
	}
	consumer, err := js.Consumer(ctx, JobsStream, Consumer(batcher, gen))
	blind := false
	if err == nil {
		info := consumer.CachedInfo()
		blind = len(queued.State.Subjects) > 0 && info.NumPending == 0 && info.NumAckPending == 0
		unasked = len(queued.State.Subjects) > 0 && info.NumWaiting == 0
	}
	if blind { // or the jobs were acked between the two questions
		var still *jetstream.StreamInfo
		if still, err = jobs.Info(ctx, jetstream.WithSubjectFilter(wire.JobFilter(kind, batcher, gen))); err == nil {
			blind = sharesKey(queued.State.Subjects, still.State.Subjects)
		}
	}
	if blind && err == nil || unreadable(err) {
		if err = js.DeleteConsumer(ctx, JobsStream, Consumer(batcher, gen)); err == nil {
			err = jetstream.ErrConsumerNotFound
		}
	}
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, createConsumer(ctx, js, kind, batcher, gen)
	}
	if err != nil {
		return false, fmt.Errorf("consumer %s: %w", Consumer(batcher, gen), err)
	}
	return unasked, nil
}

func sharesKey(a, b map[string]uint64) bool {
	for key := range a {
		if _, shared := b[key]; shared {
			return true
		}
	}
	return false
}

func createConsumer(ctx context.Context, js jetstream.JetStream, kind, batcher, gen string) error {
	_, err := js.CreateConsumer(ctx, JobsStream, jetstream.ConsumerConfig{
		Durable: Consumer(batcher, gen), Description: fmt.Sprintf("jobs of batcher %s, for workers of %s", batcher, wire.KindName(kind)),
		FilterSubject: wire.JobFilter(kind, batcher, gen),
		AckPolicy:     jetstream.AckExplicitPolicy, AckWait: AckWait,
		// A job that runs out of deliveries would vanish from every count, and one held back by a bound on
		// pending acks could be the head of the line: neither is limited here.
		// So is the number of waiting pulls, of which idle workers have a few each.
		MaxDeliver: -1, MaxAckPending: -1, MaxWaiting: 1 << 16,
	})
	if err != nil {
		return fmt.Errorf("consumer %s: %w", Consumer(batcher, gen), err)
	}
	return nil
}

// DeleteGeneration deletes a generation's consumer, jobs and store. What is gone already is no error.
func DeleteGeneration(ctx context.Context, js jetstream.JetStream, batcher, gen string) error {
	jobs, err := js.Stream(ctx, JobsStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
	case err != nil:
		return fmt.Errorf("stream %s: %w", JobsStream, err)
	default:
		if err := jobs.DeleteConsumer(ctx, Consumer(batcher, gen)); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return fmt.Errorf("consumer %s: %w", Consumer(batcher, gen), err)
		}
		if err := jobs.Purge(ctx, jetstream.WithPurgeSubject(wire.JobFilter("*", batcher, gen))); err != nil {
			return fmt.Errorf("jobs of %s: %w", batcher, err)
		}
	}
	name := ResultsStream(batcher, gen)
	if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("stream %s: %w", name, err)
	}
	return nil
}

// Dial opens a second connection like nc: payloads travel apart from control messages, which would wait behind them.
// name is appended to the connection's name. The server answered nc with the same options, so a server that cannot be
// reached now is waited for, as after a break. Handlers of events are not copied, so nc's owner hears nothing of this
// connection. Its errors are for the caller, in LastError. options come last.
func Dial(nc *nats.Conn, name string, options ...nats.Option) (*nats.Conn, error) {
	opts := nc.Opts
	if opts.Name != "" {
		name = opts.Name + "-" + name
	}
	opts.Name = name
	opts.ConnectedCB, opts.ReconnectedCB, opts.ClosedCB = nil, nil, nil
	opts.DisconnectedErrCB, opts.DisconnectedCB, opts.ReconnectErrCB = nil, nil, nil
	opts.DiscoveredServersCB, opts.LameDuckModeHandler = nil, nil
	opts.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {} // without one the client library prints them
	opts.RetryOnFailedConnect = true
	for _, option := range options {
		if err := option(&opts); err != nil {
			return nil, fmt.Errorf("second connection: %w", err)
		}
	}
	conn, err := opts.Connect()
	if err != nil {
		return nil, fmt.Errorf("second connection: %w", err)
	}
	return conn, nil
}

// DeleteJobs removes the queued jobs of a generation with sequence numbers in [from, to), all tries of each, and runs
// that lie within. They are deleted one by one: after a purge by subject the server may take other jobs of the consumer
// for acked.
func DeleteJobs(ctx context.Context, js jetstream.JetStream, kind, batcher, gen string, from, to uint64) error {
	jobs, err := js.Stream(ctx, JobsStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", JobsStream, err)
	}
	filter := wire.JobFilter(kind, batcher, gen)
	if to == from+1 { // a list of all that are queued would cost more than most jobs
		filter = wire.TriesFilter(kind, batcher, gen, from)
	}
	queued, err := jobs.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return fmt.Errorf("stream %s: %w", JobsStream, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deletesAtOnce)
	for subject := range queued.State.Subjects {
		_, _, _, seq, try, err := wire.ParseJobSubject(subject)
		if err != nil || seq < from || seq+uint64(wire.RunLength(try)) > to {
			continue
		}
		group.Go(func() error {
			job, err := jobs.GetLastMsgForSubject(ctx, subject)
			if err == nil {
				err = jobs.DeleteMsg(ctx, job.Sequence) // a purge by subject can make the consumer lose sight of other jobs
			}
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !gone(err) {
				return fmt.Errorf("job %s: %w", subject, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// deletesAtOnce is how many jobs are deleted at a time: one round trip for each would take seconds for some thousands.
const deletesAtOnce = 64
