package topology_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

const (
	batcher = "train-1"
	gen     = "01JQZ3V8XK5T9W2M4N6P8R0S1A"
)

var kindToken = wire.KindToken("ecg", 1)

// setup is a server with the bucket and the job stream.
func setup(t *testing.T) (context.Context, *nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, js := natstest.RunInProcess(t).JetStream()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	must(t, topology.Ensure(ctx, js, topology.Config{}))
	return ctx, nc, js
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, ctx context.Context, js jetstream.JetStream, subject, data string) {
	t.Helper()
	if _, err := js.Publish(ctx, subject, []byte(data)); err != nil {
		t.Fatalf("publish %s: %v", subject, err)
	}
}

// refused publishes to a subject that has its message already.
func refused(t *testing.T, ctx context.Context, js jetstream.JetStream, subject string) {
	t.Helper()
	_, err := js.Publish(ctx, subject, []byte("again"))
	var api *jetstream.APIError
	if !errors.As(err, &api) || !topology.IsDuplicate(int(api.ErrorCode), api.Description) {
		t.Fatalf("a second message on %s: %v, want it refused as a duplicate", subject, err)
	}
}

func streams(t *testing.T, ctx context.Context, js jetstream.JetStream) []string {
	t.Helper()
	var names []string
	list := js.StreamNames(ctx)
	for name := range list.Name() {
		names = append(names, name)
	}
	must(t, list.Err())
	slices.Sort(names)
	return names
}

func TestEnsureTwiceKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	kv, err := topology.OpenBucket(ctx, js)
	must(t, err)
	_, err = kv.Create(ctx, topology.BatcherKey(batcher), []byte("record"))
	must(t, err)
	publish(t, ctx, js, wire.JobSubject(kindToken, batcher, gen, 1, 0), "job")

	must(t, topology.Ensure(ctx, js, topology.Config{}))
	entry, err := kv.Get(ctx, topology.BatcherKey(batcher))
	if err != nil || string(entry.Value()) != "record" {
		t.Fatalf("got %v, %v; want the record", entry, err)
	}
	refused(t, ctx, js, wire.JobSubject(kindToken, batcher, gen, 1, 0))
	publish(t, ctx, js, wire.JobSubject(kindToken, batcher, gen, 1, 1), "another try")
	if got := streams(t, ctx, js); !slices.Equal(got, []string{topology.BucketStream, topology.EventsStream, topology.JobsStream}) {
		t.Fatalf("streams %v", got)
	}
}

func TestEnsureConcurrently(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	done := make(chan error)
	for range 4 {
		go func() { done <- topology.Ensure(t.Context(), js, topology.Config{}) }()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A bucket that was lost and made again cannot repeat a revision: they start at the clock.
func TestRevisionsStartAtTheClock(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	kv, err := topology.OpenBucket(ctx, js)
	must(t, err)
	var last uint64
	for round := range 3 {
		rev, err := kv.Create(ctx, topology.BatcherKey(batcher), []byte("record"))
		must(t, err)
		if now := uint64(time.Now().UnixMicro()); rev > now || now-rev > uint64(time.Minute.Microseconds()) {
			t.Fatalf("revision %d; the clock is at %d", rev, now)
		}
		if rev <= last {
			t.Fatalf("round %d: revision %d after %d", round, rev, last)
		}
		if last, err = kv.Update(ctx, topology.BatcherKey(batcher), []byte("changed"), rev); err != nil || last != rev+1 {
			t.Fatalf("update gives revision %d after %d: %v", last, rev, err)
		}
		must(t, js.DeleteStream(ctx, topology.BucketStream))
		natstest.Eventually(t, "the bucket is there again", func() bool { // the server removes the files of the last one meanwhile
			err = topology.Ensure(ctx, js, topology.Config{})
			return err == nil
		})
		if _, err := kv.Update(ctx, topology.BatcherKey(batcher), []byte("late"), last); err == nil {
			t.Fatal("an update on a revision of the lost bucket was accepted")
		}
	}
}

func TestBucketReadsAreTheLeaders(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	s, err := js.Stream(ctx, topology.BucketStream)
	must(t, err)
	if cfg := s.CachedInfo().Config; cfg.AllowDirect || cfg.MirrorDirect || cfg.MaxAge != 0 {
		t.Fatalf("got %+v; want no direct gets, and no expiry", cfg)
	}
}

func TestOpenBucketMissing(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	if _, err := topology.OpenBucket(t.Context(), js); !errors.Is(err, jetstream.ErrBucketNotFound) {
		t.Fatalf("got %v", err)
	}
}

func TestFirstWriteWins(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	must(t, topology.CreateGeneration(ctx, js, kindToken, batcher, gen))
	store, err := js.Stream(ctx, topology.ResultsStream(batcher, gen))
	must(t, err)
	genesis, err := store.GetLastMsgForSubject(ctx, wire.GenesisSubject(batcher, gen))
	if err != nil || string(genesis.Data) != string(wire.Genesis(gen)) || genesis.Sequence != 1 {
		t.Fatalf("got %+v, %v; want genesis first", genesis, err)
	}
	for _, subject := range []string{
		wire.GenesisSubject(batcher, gen),
		wire.ResultSubject(batcher, gen, 1),
		wire.ChunkSubject(batcher, gen, 1, "attempt", 0),
		wire.StartSubject(batcher, gen, 1, 1),
	} {
		if subject != wire.GenesisSubject(batcher, gen) {
			publish(t, ctx, js, subject, "first")
		}
		refused(t, ctx, js, subject)
		msg, err := store.GetLastMsgForSubject(ctx, subject)
		if err != nil || string(msg.Data) == "again" {
			t.Fatalf("%s: got %+v, %v; want what was first", subject, msg, err)
		}
	}
	if err := topology.CreateGeneration(ctx, js, kindToken, batcher, gen); err == nil {
		t.Fatal("a generation was made twice")
	}
}

// Readers hear commit records after the server stored them, and nothing that it refused.
func TestRepublishesStoredCommitsOnly(t *testing.T) {
	t.Parallel()
	ctx, nc, js := setup(t)
	live, err := nc.SubscribeSync(wire.LivePrefix + ".>")
	must(t, err)
	must(t, topology.CreateGeneration(ctx, js, kindToken, batcher, gen))
	publish(t, ctx, js, wire.ChunkSubject(batcher, gen, 70, "attempt", 0), "chunk")
	publish(t, ctx, js, wire.StartSubject(batcher, gen, 70, 1), "marker")
	publish(t, ctx, js, wire.ResultSubject(batcher, gen, 70), "commit")
	refused(t, ctx, js, wire.ResultSubject(batcher, gen, 70))
	publish(t, ctx, js, wire.ResultSubject(batcher, gen, 71), "last")
	for i, want := range []string{"commit", "last"} {
		msg, err := live.NextMsgWithContext(ctx)
		must(t, err)
		if msg.Header.Get(jetstream.SequenceHeader) == "" || msg.Header.Get(jetstream.StreamHeader) != topology.ResultsStream(batcher, gen) {
			t.Fatalf("heard %v, which names no place in the store", msg.Header)
		}
		seq, err := wire.ParseResultSeq(msg.Header.Get(jetstream.SubjectHeader))
		if err != nil || seq != uint64(70+i) || string(msg.Data) != want {
			t.Fatalf("heard %s %q (%v), want %d %q", msg.Subject, msg.Data, err, 70+i, want)
		}
		if msg.Subject != wire.LiveSubject(batcher, gen) {
			t.Fatalf("heard on %s", msg.Subject)
		}
	}
}

func TestConsumerHandsOutItsGenerationOnly(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	must(t, topology.CreateGeneration(ctx, js, kindToken, batcher, gen))
	const other = "01JQZ3V8XK5T9W2M4N6P8R0S1B"
	must(t, topology.CreateGeneration(ctx, js, kindToken, batcher, other))
	for seq := uint64(1); seq <= 3; seq++ {
		publish(t, ctx, js, wire.JobSubject(kindToken, batcher, other, seq, 0), "other")
		publish(t, ctx, js, wire.JobSubject(kindToken, batcher, gen, seq, 0), fmt.Sprint(seq))
	}
	c, err := js.Consumer(ctx, topology.JobsStream, topology.Consumer(batcher, gen))
	must(t, err)
	for _, want := range []string{"1", "2", "3"} {
		msg, err := c.Next(jetstream.FetchContext(ctx))
		must(t, err)
		if string(msg.Data()) != want {
			t.Fatalf("got %s %q, want %s", msg.Subject(), msg.Data(), want)
		}
		must(t, msg.DoubleAck(ctx))
	}
	info, err := c.Info(ctx)
	if err != nil || info.NumPending != 0 || info.Config.MaxDeliver != -1 || info.Config.AckWait != topology.AckWait {
		t.Fatalf("got %+v, %v", info, err)
	}
	if want := "jobs of batcher " + batcher + ", for workers of "; !strings.HasPrefix(info.Config.Description, want) {
		t.Errorf("description %q", info.Config.Description)
	}
}

func TestEnsureConsumerMakesItAgain(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	must(t, topology.CreateGeneration(ctx, js, kindToken, batcher, gen))
	name := topology.Consumer(batcher, gen)
	before, err := js.Consumer(ctx, topology.JobsStream, name)
	must(t, err)
	ensure := func(want bool) {
		t.Helper()
		unasked, err := topology.EnsureConsumer(ctx, js, kindToken, batcher, gen)
		must(t, err)
		if unasked != want {
			t.Errorf("unasked: %v", unasked)
		}
	}
	ensure(false) // it is there: left alone
	kept, err := js.Consumer(ctx, topology.JobsStream, name)
	must(t, err)
	if !kept.CachedInfo().Created.Equal(before.CachedInfo().Created) {
		t.Fatal("a consumer that was there was made again")
	}

	publish(t, ctx, js, wire.JobSubject(kindToken, batcher, gen, 1, 0), "job")
	ensure(true)
	must(t, js.DeleteConsumer(ctx, topology.JobsStream, name))
	ensure(false)
	after, err := js.Consumer(ctx, topology.JobsStream, name)
	must(t, err)
	was, is := before.CachedInfo().Config, after.CachedInfo().Config
	if is.FilterSubject != was.FilterSubject || is.AckWait != was.AckWait || is.MaxDeliver != was.MaxDeliver ||
		is.MaxAckPending != was.MaxAckPending || is.AckPolicy != was.AckPolicy || is.Durable != was.Durable {
		t.Fatalf("made again as %+v, was %+v", is, was)
	}
	msg, err := after.Next(jetstream.FetchContext(ctx))
	if err != nil || string(msg.Data()) != "job" {
		t.Fatalf("got %v, %v; want the job that was queued", msg, err)
	}
}

func TestDeleteGenerationLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	const other = "01JQZ3V8XK5T9W2M4N6P8R0S1B"
	for _, g := range []string{gen, other} {
		must(t, topology.CreateGeneration(ctx, js, kindToken, batcher, g))
		publish(t, ctx, js, wire.JobSubject(kindToken, batcher, g, 1, 0), "job")
		publish(t, ctx, js, wire.ResultSubject(batcher, g, 1), "result")
	}
	for range 2 { // twice is fine
		must(t, topology.DeleteGeneration(ctx, js, batcher, gen))
		if got := streams(t, ctx, js); !slices.Equal(got, []string{topology.BucketStream, topology.EventsStream, topology.JobsStream, topology.ResultsStream(batcher, other)}) {
			t.Fatalf("streams %v", got)
		}
		jobs, err := js.Stream(ctx, topology.JobsStream)
		must(t, err)
		if got := jobs.CachedInfo().State; got.Msgs != 1 || got.Consumers != 1 {
			t.Fatalf("%d jobs and %d consumers, want those of the other generation", got.Msgs, got.Consumers)
		}
		if _, err := jobs.Consumer(ctx, topology.Consumer(batcher, other)); err != nil {
			t.Fatalf("the other generation's consumer: %v", err)
		}
	}
	must(t, js.DeleteStream(ctx, topology.JobsStream))
	must(t, topology.DeleteGeneration(ctx, js, batcher, other)) // though there is no job stream any more
	if got := streams(t, ctx, js); !slices.Equal(got, []string{topology.BucketStream, topology.EventsStream}) {
		t.Fatalf("streams %v", got)
	}
}

func ensured(_ bool, err error) error { return err }

func TestErrorsNameWhatFailed(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	for what, err := range map[string]error{
		topology.Consumer(batcher, gen):       ensured(topology.EnsureConsumer(t.Context(), js, kindToken, batcher, gen)),
		topology.Consumer("a b", gen):         topology.CreateGeneration(t.Context(), js, kindToken, "a b", gen),
		topology.Consumer("no-jobs", gen):     topology.CreateGeneration(t.Context(), js, kindToken, "no-jobs", gen),
		"stream " + topology.BucketStream:     topology.Ensure(cancelled(t), js, topology.Config{}),
		"stream " + topology.JobsStream + ":": topology.DeleteGeneration(cancelled(t), js, batcher, gen),
	} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want %q in it", err, what)
		}
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, batcher, gen string }{
		{topology.ResultsStream("train", gen), "train", gen},
		{topology.ResultsStream("my-train-1", gen), "my-train-1", gen},
		{"jetbatch-results-", "", ""},
		{"jetbatch-results-train", "", ""},
		{"jetbatch-results-train-", "", ""},
		{"jetbatch-results--" + gen, "", ""},
		{topology.JobsStream, "", ""},
		{"ORDERS", "", ""},
	} {
		b, g, ok := topology.ParseResultsStream(tc.name)
		if b != tc.batcher || g != tc.gen || ok != (tc.batcher != "") {
			t.Errorf("ParseResultsStream(%q) = %q, %q, %v", tc.name, b, g, ok)
		}
	}
	for _, tc := range []struct{ key, batcher, coordinator string }{
		{topology.BatcherKey("train"), "train", ""},
		{topology.CoordinatorKey("c1"), "", "c1"},
		{"other", "", ""},
		{"", "", ""},
	} {
		if b, c := topology.ParseKey(tc.key); b != tc.batcher || c != tc.coordinator {
			t.Errorf("ParseKey(%q) = %q, %q", tc.key, b, c)
		}
	}
}

func TestDial(t *testing.T) {
	t.Parallel()
	closed := make(chan string, 2)
	server := natstest.Run(t)
	nc := server.Connect(nats.Name("trainer"), nats.ClosedHandler(func(nc *nats.Conn) { closed <- nc.Opts.Name }))
	second, err := topology.Dial(nc, "payloads")
	must(t, err)
	if second == nc || second.Opts.Name != "trainer-payloads" || second.ConnectedUrl() != nc.ConnectedUrl() || nc.Opts.Name != "trainer" {
		t.Fatalf("got %s at %s", second.Opts.Name, second.ConnectedUrl())
	}
	second.Close()
	if !nc.IsConnected() {
		t.Fatal("closing the second connection closed the first")
	}
	server.Stop()
	later, err := topology.Dial(nc, "payloads")
	must(t, err)
	defer later.Close()
	server.Start()
	natstest.Eventually(t, "the connection that was dialled while the server was away is there", later.IsConnected)
	nc.Close()
	if name := <-closed; name != "trainer" {
		t.Fatalf("the user's handler heard of %s", name)
	}
}

// TestOverlap has streams of somebody else take jetbatch's subjects: what cannot be made for them says which they are.
func TestOverlap(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	taken := func(name, subject string) {
		t.Helper()
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}})
		must(t, err)
	}
	named := func(err error, stream string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "stream "+stream+" of this account takes jetbatch.") {
			t.Errorf("%v; want %s", err, stream)
		}
	}
	taken("audit", wire.JobPrefix+".>")
	named(topology.Ensure(t.Context(), js, topology.Config{}), "audit")
	must(t, js.DeleteStream(t.Context(), "audit"))
	must(t, topology.Ensure(t.Context(), js, topology.Config{}))
	taken("metrics", wire.ResultPrefix+".train.>")
	named(topology.CreateGeneration(t.Context(), js, "count-v1-w2", "train", "01J"), "metrics")
}

// TestAnswered tells the acknowledgements of streams from answers of jetbatch.
func TestAnswered(t *testing.T) {
	t.Parallel()
	for _, own := range []string{"", "{}", "[]", `"stream"`, `{"stream":""}`, `{"phase":"running","why":"\"stream\""}`} {
		if err := topology.Answered("s", []byte(own)); err != nil {
			t.Errorf("%s: %v", own, err)
		}
	}
	for _, ack := range []string{`{"stream":"X","seq":3}`, `{"error":{"code":400},"stream":"X","seq":0}`} {
		var err *topology.StreamError
		if !errors.As(topology.Answered("jetbatch.s", []byte(ack)), &err) || err.Stream != "X" || err.Subject != "jetbatch.s" {
			t.Errorf("%s: %v", ack, err)
		}
	}
}
