package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

// input is the job of the test data sets.
type input struct{ N int }

// define makes a data set whose materialization is f.
func define(name string, f func(ctx context.Context, n int) (schema.Batch, error)) dataset.Definition {
	return dataset.Define(name, func(context.Context, struct{}) (dataset.Funcs[int, input, schema.Batch], error) {
		return dataset.Funcs[int, input, schema.Batch]{
			NextFunc: func(s int) (input, int, error) { return input{s}, s + 1, nil },
			MaterializeFunc: func(ctx context.Context, in input) (schema.Batch, error) {
				return f(ctx, in.N)
			},
		}, nil
	})
}

// values is a batch of n float32 that depends on seed.
func values(seed, n int) (schema.Batch, error) {
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(seed*1000 + i)
	}
	x, err := schema.NewTensor([]int{n}, data)
	return schema.Batch{{Name: "x", Tensor: x}}, err
}

// owner plays the coordinator's part for one batcher.
type owner struct {
	t       testing.TB
	nc      *nats.Conn
	js      jetstream.JetStream
	batcher string
	spec    wire.Spec
	origin  string // of the record; empty for unknown

	mu      sync.Mutex
	quiet   bool // nothing is announced
	floor   uint64
	alive   int    // workers that it says it knows of
	readers int    // that fetch each payload
	taken   uint64 // all of them are past these
	gen     string // written under mu by the test's goroutine, which reads it without
}

// newOwner makes a running batcher over a data set of define and announces it until the test ends.
func newOwner(t testing.TB, s *natstest.Server, batcher, dataset string) *owner {
	t.Helper()
	nc, js := s.JetStream()
	o := &owner{t: t, nc: nc, js: js, batcher: batcher, spec: wire.Spec{Dataset: dataset, Version: 1}}
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	o.begin()
	apart, err := nc.Subscribe(wire.ReportPrefix+"."+batcher, o.takeApart)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = apart.Unsubscribe() })
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				o.announce()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
	return o
}

// takeApart queues jobs of a run by themselves, as the owner does.
func (o *owner) takeApart(m *nats.Msg) {
	var report wire.Report
	if json.Unmarshal(m.Data, &report) != nil || len(report.Apart) == 0 {
		return
	}
	for _, seq := range report.Apart {
		subject := wire.JobSubject(o.kind(), o.batcher, report.Gen, seq, wire.TryFirst)
		_, err := o.js.Publish(context.Background(), subject, o.job(seq))
		var refused *jetstream.APIError
		if err != nil && !(errors.As(err, &refused) && topology.IsDuplicate(int(refused.ErrorCode), refused.Description)) {
			return // the worker asks again
		}
	}
	_ = m.Respond([]byte(`{"queued":true}`)) // the worker may have gone
}

func (o *owner) kind() string { return wire.KindToken(o.spec.Dataset, o.spec.Version) }

// begin makes the record, store and consumer of a new generation.
func (o *owner) begin() {
	o.t.Helper()
	gen := ulid.Make().String()
	o.mu.Lock()
	o.gen = gen
	o.mu.Unlock()
	o.record(schema.PhaseRunning)
	if err := topology.CreateGeneration(o.t.Context(), o.js, o.kind(), o.batcher, o.gen); err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) record(phase schema.Phase) { o.t.Helper(); o.recordOf(o.gen, phase) }

func (o *owner) recordOf(gen string, phase schema.Phase) {
	o.t.Helper()
	kv, err := topology.OpenBucket(o.t.Context(), o.js)
	if err != nil {
		o.t.Fatal(err)
	}
	data, err := json.Marshal(wire.Record{
		Wire: wire.Version, Batcher: o.batcher, Owner: "c1", Gen: gen, Phase: phase, Spec: o.spec, Origin: o.origin,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := kv.Put(o.t.Context(), topology.BatcherKey(o.batcher), data); err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) announce() {
	o.mu.Lock()
	lane := wire.Lane{Batcher: o.batcher, Gen: o.gen, Kind: o.kind(), Floor: o.floor, Workers: o.alive, Readers: o.readers, Taken: o.taken}
	quiet := o.quiet
	o.mu.Unlock()
	if !quiet {
		o.hint(lane)
	}
}

// company says how many workers it knows of.
func (o *owner) company(workers int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.alive = workers
}

// silence ends announcements.
func (o *owner) silence() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.quiet = true
}

func (o *owner) hint(lane wire.Lane) {
	data, err := json.Marshal(lane)
	if err != nil {
		panic(err)
	}
	_ = o.nc.Publish(wire.LanePrefix+"."+o.batcher, data) // said again in a moment
}

// feed publishes the jobs of seqs from to to.
func (o *owner) feed(from, to uint64) {
	o.t.Helper()
	for seq := from; seq <= to; seq++ {
		o.feedMsg(&nats.Msg{Subject: wire.JobSubject(o.kind(), o.batcher, o.gen, seq, 0), Data: o.job(seq)})
	}
}

func (o *owner) feedMsg(msg *nats.Msg) {
	o.t.Helper()
	if _, err := o.js.PublishMsg(o.t.Context(), msg); err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) job(seq uint64) []byte {
	o.t.Helper()
	encode := func(v any) []byte {
		data, err := msgp.Marshal(v)
		if err != nil {
			o.t.Fatal(err)
		}
		return data
	}
	return wire.AppendJob(nil, &wire.Job{
		Seq: seq, Prev: encode(int(seq)), Next: encode(int(seq + 1)), Body: encode(input{int(seq)}), Iterate: time.Microsecond,
		Spec: (&wire.Record{Spec: o.spec, Origin: o.origin}).SpecDigest(),
	})
}

// stored returns what is stored at a subject of results; nil when nothing is.
func (o *owner) stored(subject string) *jetstream.RawStreamMsg {
	stream, err := o.js.Stream(o.t.Context(), topology.ResultsStream(o.batcher, o.gen))
	if err != nil {
		return nil
	}
	msg, err := stream.GetLastMsgForSubject(o.t.Context(), subject)
	if err != nil {
		return nil
	}
	return msg
}

// result waits for the commit record of seq.
func (o *owner) result(seq uint64) (*wire.Result, []byte) {
	o.t.Helper()
	var msg *jetstream.RawStreamMsg
	natstest.Eventually(o.t, "a result is stored", func() bool {
		msg = o.stored(wire.ResultSubject(o.batcher, o.gen, seq))
		return msg != nil
	})
	r, payload, err := wire.DecodeResult(msg.Data)
	if err != nil {
		o.t.Fatal(err)
	}
	return r, payload
}

// queued is how many jobs of the batcher are stored: neither acked nor purged; -1 when nobody knows.
func (o *owner) queued() int {
	stream, err := o.js.Stream(o.t.Context(), topology.JobsStream)
	if err != nil {
		return -1
	}
	info, err := stream.Info(o.t.Context(), jetstream.WithSubjectFilter(wire.JobFilter("*", o.batcher, o.gen)))
	if err != nil {
		return -1
	}
	return len(info.State.Subjects)
}

func (o *owner) waitEmpty() {
	o.t.Helper()
	natstest.Eventually(o.t, "all jobs are acked", func() bool { return o.queued() == 0 })
}

// start runs a worker until stop is called or the test ends; stop returns what Run did.
func start(t *testing.T, s *natstest.Server, cfg Config, change func(*Worker), defs ...dataset.Definition) (w *Worker, stop func() error) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w, err := New(s.Connect(), cfg, defs...)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(w)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = w.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-done
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return w, stop
}
