package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

const large = 5<<20/4 + 1 // float32 in 5 MiB and a bit

// reports collects what workers report about a batcher.
func (o *owner) reports() func() []wire.Report {
	o.t.Helper()
	sub, err := o.nc.SubscribeSync(wire.ReportPrefix + "." + o.batcher)
	if err != nil {
		o.t.Fatal(err)
	}
	if err := o.nc.Flush(); err != nil {
		o.t.Fatal(err)
	}
	var all []wire.Report
	return func() []wire.Report {
		for n, _, _ := sub.Pending(); n > 0; n-- {
			msg, err := sub.NextMsgWithContext(o.t.Context())
			if err != nil {
				o.t.Fatal(err)
			}
			var r wire.Report
			if err := json.Unmarshal(msg.Data, &r); err != nil {
				o.t.Fatal(err)
			}
			all = append(all, r)
		}
		return all
	}
}

// chunks returns how many chunks are stored beside the record of seq, and their bytes in order.
func (o *owner) chunks(seq uint64, attempt string, n int) (int, []byte) {
	var data []byte
	found := 0
	for k := range n {
		if msg := o.stored(wire.ChunkSubject(o.batcher, o.gen, seq, attempt, k)); msg != nil {
			found++
			data = append(data, msg.Data...)
		}
	}
	return found, data
}

func payloadOf(t testing.TB, seed, n int) []byte {
	t.Helper()
	b, err := values(seed, n)
	if err != nil {
		t.Fatal(err)
	}
	data, err := wire.AppendPayload(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestCommitBeforeAck(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	observer, results := s.Connect(), o.js
	acks := 0
	early := make(chan int, 100)
	_, err := observer.Subscribe("$JS.ACK."+topology.JobsStream+".>", func(msg *nats.Msg) {
		if len(msg.Data) > 0 {
			return
		}
		acks++
		stream, err := results.Stream(context.Background(), topology.ResultsStream(o.batcher, o.gen))
		if err != nil || int(stream.CachedInfo().State.Msgs)-1 < acks {
			early <- acks
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := observer.Flush(); err != nil {
		t.Fatal(err)
	}
	start(t, s, Config{Slots: 4}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 256) }))
	o.feed(1, 100)
	o.waitEmpty()
	select {
	case n := <-early:
		t.Fatalf("ack %d came before its record was stored", n)
	default:
	}
}

func TestLargePayloadIsChunked(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "large")
	start(t, s, Config{Slots: 2, Direct: DirectOff}, nil, define("large", func(_ context.Context, n int) (schema.Batch, error) { return values(n, large) }))
	o.feed(1, 3)
	for seq := uint64(1); seq <= 3; seq++ {
		r, inline := o.result(seq)
		want := payloadOf(t, int(seq), large)
		n, got := o.chunks(seq, r.Attempt, int(r.Chunks))
		if inline != nil || r.Chunks != 11 || n != 11 || !bytes.Equal(got, want) || r.Digest != wire.Sum(want) {
			t.Fatalf("result %+v with %d chunks of %d bytes, want %d", r, n, len(got), len(want))
		}
	}
	o.waitEmpty()
}

// TestStoredBefore stores the result of another attempt first.
func TestStoredBefore(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	for name, test := range map[string]struct {
		digest  wire.Digest
		kind    wire.Kind
		reports int
	}{
		"same":      {wire.Sum(payloadOf(t, 1, large)), wire.KindBatch, 0},
		"different": {wire.Sum([]byte("x")), wire.KindBatch, 1},
		"error":     {wire.Digest{}, wire.KindError, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t, s, name, name)
			reports := o.reports()
			chunks, err := o.nc.SubscribeSync(wire.ResultFilter(o.batcher, o.gen))
			if err != nil {
				t.Fatal(err)
			}
			r := &wire.Result{Seq: 1, Kind: test.kind, Attempt: "other", Worker: "w0", Digest: test.digest, Prev: []byte{1},
				Spec: (&wire.Record{Spec: o.spec}).SpecDigest()}
			if test.kind == wire.KindError {
				r.Fault = &schema.Fault{Code: schema.CodeMaterialize}
			} else {
				r.Next = []byte{2}
			}
			data, err := wire.AppendResult(nil, r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.js.Publish(t.Context(), wire.ResultSubject(o.batcher, o.gen, 1), data); err != nil {
				t.Fatal(err)
			}
			w, _ := start(t, s, Config{Name: "w1", Direct: DirectOff}, nil, define(name, func(_ context.Context, n int) (schema.Batch, error) { return values(n, large) }))
			o.feed(1, 1)
			natstest.Eventually(t, "the job is done", func() bool { return w.Status().Done == 1 })
			if got, _ := o.result(1); got.Attempt != "other" {
				t.Fatalf("the stored record was replaced by %+v", got)
			}
			if n, _, _ := chunks.Pending(); n < 11 {
				t.Fatalf("%d messages were published; the test tests nothing", n)
			}
			stream, err := o.js.Stream(t.Context(), topology.ResultsStream(o.batcher, o.gen))
			if err != nil {
				t.Fatal(err)
			}
			if n := stream.CachedInfo().State.Msgs; n != 2 {
				t.Fatalf("%d messages are stored; the worker left its own chunks or removed others", n)
			}
			if err := w.conns.control.Flush(); err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, "reports are in", func() bool { return len(reports()) == test.reports })
			for _, report := range reports() {
				if report.Fault.Code != schema.CodeNondeterministic || report.Fault.Seq != 1 || report.Gen != o.gen {
					t.Fatalf("report %+v", report.Fault)
				}
			}
		})
	}
}

func TestStoredByMyself(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, large) })
	w, _ := start(t, s, Config{Direct: DirectOff}, nil, def)
	o.feed(1, 1)
	o.waitEmpty()
	natstest.Eventually(t, "the job is done", func() bool { return w.Status().Done == 1 })
	r, _ := o.result(1)
	purges, err := o.nc.SubscribeSync("$JS.API.STREAM.PURGE.>")
	if err == nil {
		err = o.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	l := w.lanes.all()[0]
	w.gate.enter(0)
	// The answer to the first publication was lost and the second is refused.
	w.exec.commits.refused(&commit{job: &job{delivery: &delivery{lane: l}, index: -1}, result: r, record: newBuffer()}, exists)
	if st := w.Status(); st.Done != 2 || st.Failed != 0 {
		t.Fatalf("status %+v", st)
	}
	if err := errors.Join(w.conns.control.Flush(), w.conns.data.Flush(), o.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	if n, _, err := purges.Pending(); n > 0 || err != nil || r.Chunks == 0 {
		t.Fatalf("%d purges, %v: the %d chunks that the record speaks of are gone", n, err, r.Chunks)
	}
}

func TestFullStore(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	for name, size := range map[string]int{"chunks": large, "inline": 100_000, "suspect": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t, s, name, name)
			reports := o.reports()
			limit := func(bytes int64) {
				t.Helper()
				stream, err := o.js.Stream(t.Context(), topology.ResultsStream(o.batcher, o.gen))
				if err != nil {
					t.Fatal(err)
				}
				cfg := stream.CachedInfo().Config
				cfg.MaxBytes = bytes
				if _, err := o.js.UpdateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			o.feed(1, 1)
			switch name {
			case "chunks":
				limit(2 << 20)
			case "inline":
				limit(200_000)
			case "suspect": // whose start cannot be marked
				limit(1)
				o.deliver(judge.SuspectAfter, 1)
			}
			start(t, s, Config{Slots: 1, Direct: DirectOff}, nil, define(name, func(_ context.Context, n int) (schema.Batch, error) { return values(n, size) }))
			natstest.Eventually(t, "the worker reports a full store", func() bool {
				all := reports()
				return len(all) > 0 && all[0].Fault.Code == schema.CodeStoreFull && all[0].Fault.Seq == 1
			})
			if o.queued() == 0 {
				t.Fatal("the job is gone and there is no result")
			}
			limit(-1)
			if r, _ := o.result(1); r.Kind != wire.KindBatch || r.Deliveries < 2 || r.Size != uint64(len(payloadOf(t, 1, size))) {
				t.Fatalf("result %+v", r)
			}
		})
	}
}

func TestLostStore(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	if err := o.js.DeleteStream(t.Context(), topology.ResultsStream(o.batcher, o.gen)); err != nil {
		t.Fatal(err)
	}
	reports := o.reports()
	looks, err := o.nc.SubscribeSync("$JS.API.STREAM.MSG.GET." + topology.ResultsStream(o.batcher, o.gen))
	if err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int32
	_, stop := start(t, s, Config{Slots: 2}, nil, define("plain", func(ctx context.Context, n int) (schema.Batch, error) {
		if runs.Add(1) > 2 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return values(n, 256)
	}))
	o.feed(1, 20)
	for range 3 { // whenever the generation is announced the worker looks whether its store is back
		if _, err := looks.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if all := reports(); len(all) == 0 || all[0].Fault.Code != schema.CodeStoreGone {
		t.Errorf("the owner was not told: %+v", all)
	}
	if n := runs.Load(); n > 6 {
		t.Errorf("%d jobs were run for a store that is gone", n)
	}
	if o.queued() != 20 {
		t.Fatal("a job was acked without a result")
	}
	old := o.gen
	runs.Store(-100)
	o.begin()
	if err := topology.DeleteGeneration(t.Context(), o.js, o.batcher, old); err != nil {
		t.Fatal(err)
	}
	o.feed(1, 2)
	o.waitEmpty()
	o.result(2)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	refused := func(code int, description string) *pubAck {
		return &pubAck{Error: &refusal{ErrCode: code, Description: description}}
	}
	for _, test := range []struct {
		ack  *pubAck
		want verdict
	}{
		{&pubAck{Stream: "s", Seq: 1}, stored},
		{&pubAck{Stream: "other", Seq: 1}, passing},
		{&pubAck{Stream: "s"}, passing},
		{new(pubAck), passing},
		{&pubAck{gone: true}, gone},
		{refused(10077, "maximum messages per subject exceeded"), exists},
		{refused(10077, "maximum bytes exceeded"), full},
		{refused(10077, "maximum messages exceeded"), full},
		{refused(10077, "message too large"), tooLarge},
		{refused(10077, "raft: no leader"), passing},
		{refused(10028, "insufficient memory"), full},
		{refused(10047, "insufficient storage"), full},
		{refused(10054, "message size exceeds maximum allowed"), tooLarge},
		{refused(int(jetstream.JSErrCodeStreamNotFound), "stream not found"), gone},
		{refused(10167, "too many requests"), passing},
	} {
		if got := test.ack.verdict("s"); got != test.want {
			t.Errorf("%+v %+v: %d, want %d", test.ack, test.ack.Error, got, test.want)
		}
	}
}

// Requests for jobs that a server took with it are made again when the owner says that none waits, long before the
// silence shows.
func TestLostRequestsAreMadeAgain(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	batcher := ulid.Make().String()
	o := newOwner(t, s, batcher, batcher)
	w, _ := start(t, s, Config{Slots: 2}, nil, define(batcher, func(context.Context, int) (schema.Batch, error) { return values(1, 1) }))
	o.feed(1, 1)
	o.waitEmpty()
	l := w.lanes.all()[0]
	asked := l.subscription()
	if err := asked.Unsubscribe(); err != nil { // the server forgets the requests and says nothing
		t.Fatal(err)
	}
	o.feed(2, 2)
	natstest.Eventually(t, "requests are made anew", func() bool {
		l.heard.Store(w.now() - int64(pullSilence)/2)
		o.hint(wire.Lane{Batcher: batcher, Gen: o.gen, Kind: o.kind(), Unasked: true})
		return o.queued() == 0
	})
	if l.subscription() == asked {
		t.Error("the requests are from the inbox of before, so they may be answered twice")
	}
}
