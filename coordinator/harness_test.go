package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ServerLeftovers()...) }

// cluster is a server with whatever runs on it.
type cluster struct {
	t   *testing.T
	srv *natstest.Server
	nc  *nats.Conn
	js  jetstream.JetStream
}

func setup(t *testing.T) *cluster {
	t.Helper()
	t.Parallel()
	srv := natstest.RunInProcess(t)
	nc, js := srv.JetStream()
	return &cluster{t, srv, nc, js}
}

// process is a running coordinator.
type process struct {
	*coordinator.Coordinator
	nc     *nats.Conn
	cancel context.CancelFunc
	done   chan error
}

// coordinate runs a coordinator until the test ends, and waits until it answers.
func (c *cluster) coordinate(cfg coordinator.Config, h *hooks) *process {
	c.t.Helper()
	return c.coordinateWith(cfg, counting(h))
}

// coordinateWith is coordinate with another data set.
func (c *cluster) coordinateWith(cfg coordinator.Config, def dataset.Definition) *process {
	c.t.Helper()
	p := &process{nc: c.srv.Connect(), done: make(chan error, 1)}
	coord, err := coordinator.New(p.nc, cfg, def)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.Coordinator, p.cancel = coord, cancel
	go func() { p.done <- coord.Run(ctx) }()
	c.t.Cleanup(func() { p.stop(c.t) })
	natstest.Eventually(c.t, "the coordinator answers", func() bool {
		m, err := c.nc.Request(wire.CoordinatorPrefix+".overview", nil, time.Second)
		return err == nil && len(m.Data) > 0
	})
	return p
}

// stop ends the coordinator as its user would; stopping again is fine.
func (p *process) stop(t *testing.T) {
	p.cancel()
	select {
	case err := <-p.done:
		p.done <- err
		if err != nil && !p.nc.IsClosed() {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Run did not return")
	}
}

// kill ends it without a word: its lease stays.
func (p *process) kill(t *testing.T) {
	p.nc.Close()
	p.stop(t)
}

// reader is the other side of a seat, as raw requests.
type reader struct {
	*cluster
	secret, id, name string
	params           json.RawMessage
	settings         wire.Settings
	reply            wire.SeatReply // of the last seat
	bytes            int64          // largest payload
}

func (c *cluster) reader(name string) *reader {
	r := &reader{cluster: c, name: name, settings: wire.Settings{Window: 8}}
	r.another()
	return r
}

// another makes it another reader.
func (r *reader) another() {
	r.secret = wire.NewSecret()
	r.id = wire.ReaderOf(r.secret)
}

// ask sends a request until somebody answers who is not busy changing hands.
func ask[R any](c *cluster, op string, req any) R {
	c.t.Helper()
	data, err := json.Marshal(req)
	if err != nil {
		c.t.Fatal(err)
	}
	var reply R
	natstest.Eventually(c.t, op+" is answered", func() bool {
		m, err := c.nc.Request(wire.CoordinatorPrefix+"."+op, data, 2*time.Second)
		if err != nil {
			return false
		}
		var fault struct {
			Fault *schema.Fault `json:"fault"`
		}
		reply = *new(R)
		if err := errors.Join(json.Unmarshal(m.Data, &reply), json.Unmarshal(m.Data, &fault)); err != nil {
			c.t.Fatalf("%s: %v", m.Data, err)
		}
		return fault.Fault == nil || fault.Fault.Code != schema.CodeUnavailable
	})
	return reply
}

func (r *reader) request(mode wire.Mode, state schema.State) wire.SeatRequest {
	return wire.SeatRequest{Wire: wire.Version, Batcher: r.name, Request: ulid.Make().String(), Mode: mode, Reader: r.id,
		Secret: r.secret,
		Spec:   wire.Spec{Dataset: "count", Params: r.params}, Settings: r.settings, State: state}
}

// try asks for a seat and keeps what it gets.
func (r *reader) try(req wire.SeatRequest) wire.SeatReply {
	r.t.Helper()
	reply := ask[wire.SeatReply](r.cluster, "seat", req)
	if reply.Fault == nil {
		r.reply = reply
	}
	return reply
}

func (r *reader) must(mode wire.Mode, state schema.State) wire.SeatReply {
	r.t.Helper()
	reply := r.try(r.request(mode, state))
	if reply.Fault != nil {
		r.t.Fatalf("%s: %s %v", mode, reply.Fault.Code, reply.Fault)
	}
	return reply
}

// start opens the batcher and starts it at batch i.
func (r *reader) start(i int) {
	r.t.Helper()
	r.must(wire.ModeOpen, schema.State{})
	if got := r.must(wire.ModeStart, at(i)); got.Gen == "" || got.Position != 1 || got.Phase != schema.PhaseRunning || !got.State.Equal(at(i)) {
		r.t.Fatalf("started at %+v", got)
	}
}

// at is the state before batch i, counted from 0.
func at(i int) schema.State {
	s, err := schema.NewState(count{I: i})
	if err != nil {
		panic(err)
	}
	s.Dataset, s.Version = "count", 1
	return s
}

// credit tells the owner how far the reader came and returns how things stand.
func (r *reader) credit(taken uint64, change ...func(*wire.Credit)) wire.CreditReply {
	r.t.Helper()
	c := wire.Credit{Gen: r.reply.Gen, Seat: r.reply.Seat, Reader: r.id, Secret: r.secret, Taken: taken, BatchBytes: r.bytes}
	for _, f := range change {
		f(&c)
	}
	data, err := json.Marshal(c)
	if err != nil {
		r.t.Fatal(err)
	}
	var reply wire.CreditReply
	natstest.Eventually(r.t, "the credit is answered", func() bool {
		m, err := r.nc.Request(wire.ReaderPrefix+"."+r.name, data, 2*time.Second)
		return err == nil && json.Unmarshal(m.Data, &reply) == nil
	})
	return reply
}

func late(c *wire.Credit) { c.Late = true }

func (r *reader) stop(leave bool) wire.StopReply {
	r.t.Helper()
	return ask[wire.StopReply](r.cluster, "stop", r.stopRequest(leave))
}

func (r *reader) stopRequest(leave bool) wire.StopRequest {
	return wire.StopRequest{Batcher: r.name, Request: ulid.Make().String(), Reader: r.id, Secret: r.secret, Leave: leave}
}

func (r *reader) status() schema.Status {
	r.t.Helper()
	reply := ask[wire.StatusReply](r.cluster, "status", wire.StatusRequest{Batcher: r.name})
	if reply.Fault != nil {
		r.t.Fatalf("status: %s %v", reply.Fault.Code, reply.Fault)
	}
	return reply.Status
}

func (r *reader) wait(what string, condition func(schema.Status) bool) {
	r.t.Helper()
	var s schema.Status
	defer func() {
		if r.t.Failed() {
			r.t.Logf("status: %+v", s)
		}
	}()
	natstest.Eventually(r.t, what, func() bool { s = r.status(); return condition(s) })
}

// record is the batcher's record; ok is false when there is none.
func (r *reader) record() (rec wire.Record, ok bool) {
	r.t.Helper()
	kv, err := r.js.KeyValue(r.t.Context(), topology.Bucket)
	if err != nil {
		return rec, false
	}
	e, err := kv.Get(r.t.Context(), topology.BatcherKey(r.name))
	if err != nil {
		return rec, false
	}
	if err := json.Unmarshal(e.Value(), &rec); err != nil {
		r.t.Fatal(err)
	}
	return rec, true
}

// jobs are the subjects' sequence numbers of this generation that are queued or running.
func (r *reader) jobs() map[uint64]bool {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), topology.JobsStream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context(), jetstream.WithSubjectFilter(wire.JobFilter("*", r.name, r.reply.Gen)))
	if err != nil {
		r.t.Fatal(err)
	}
	queued := make(map[uint64]bool)
	for subject := range info.State.Subjects {
		_, _, _, seq, _, err := wire.ParseJobSubject(subject)
		if err != nil {
			r.t.Fatal(err)
		}
		queued[seq] = true
	}
	return queued
}

// waitJobs waits until exactly [from, to] are queued or running.
func (r *reader) waitJobs(from, to uint64) {
	r.t.Helper()
	var got map[uint64]bool
	defer func() {
		if r.t.Failed() {
			r.t.Logf("jobs: %v", got)
		}
	}()
	natstest.Eventually(r.t, fmt.Sprintf("jobs %d to %d are queued", from, to), func() bool {
		got = r.jobs()
		return got[from] && got[to] && len(got) == int(to-from+1)
	})
}

// work does what a worker does with the next n jobs, and returns their sequence numbers.
func (r *reader) work(n int) []uint64 {
	r.t.Helper()
	cons, err := r.js.Consumer(r.t.Context(), topology.JobsStream, topology.Consumer(r.name, r.reply.Gen))
	if err != nil {
		r.t.Fatal(err)
	}
	var done []uint64
	for range n {
		m, err := cons.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			r.t.Fatalf("job %d of %d: %v", len(done)+1, n, err)
		}
		job, _, err := wire.DecodeJob(m.Data())
		if err != nil {
			r.t.Fatal(err)
		}
		var prev, next, body count
		if err := errors.Join(msgp.Unmarshal(job.Prev, &prev), msgp.Unmarshal(job.Next, &next), msgp.Unmarshal(job.Body, &body)); err != nil {
			r.t.Fatal(err)
		}
		if next.I != prev.I+1 || body.I != prev.I {
			r.t.Fatalf("job %d: from %d to %d with body %d", job.Seq, prev.I, next.I, body.I)
		}
		payload := fmt.Appendf(nil, "batch %d", body.I)
		res := &wire.Result{Seq: job.Seq, Prev: job.Prev, Next: job.Next, Attempt: ulid.Make().String(), Worker: "w",
			Deliveries: 1, Digest: wire.Sum(payload), Size: uint64(len(payload))}
		data, err := wire.AppendResult(nil, res, payload)
		if err != nil {
			r.t.Fatal(err)
		}
		_, err = r.js.Publish(r.t.Context(), wire.ResultSubject(r.name, r.reply.Gen, job.Seq), data)
		var api *jetstream.APIError
		if err != nil && !(errors.As(err, &api) && topology.IsDuplicate(int(api.ErrorCode), api.Description)) {
			r.t.Fatal(err)
		}
		if err := m.DoubleAck(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		done = append(done, job.Seq)
	}
	return done
}

// result reads what is stored of seq.
func (r *reader) result(seq uint64) (*wire.Result, bool) {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), topology.ResultsStream(r.name, r.reply.Gen))
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := s.GetLastMsgForSubject(r.t.Context(), wire.ResultSubject(r.name, r.reply.Gen, seq))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, false
	}
	if err != nil {
		r.t.Fatal(err)
	}
	res, _, err := wire.DecodeResult(m.Data)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, true
}

// waitResult waits for what is stored of seq.
func (r *reader) waitResult(seq uint64) (res *wire.Result) {
	r.t.Helper()
	natstest.Eventually(r.t, fmt.Sprintf("result %d is stored", seq), func() (ok bool) {
		res, ok = r.result(seq)
		return ok
	})
	return res
}

// results lists the sequence numbers that have a commit record.
func (r *reader) results() map[uint64]bool {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), topology.ResultsStream(r.name, r.reply.Gen))
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := s.Info(r.t.Context(), jetstream.WithSubjectFilter(wire.CommitFilter(r.name, r.reply.Gen)))
	if err != nil {
		r.t.Fatal(err)
	}
	stored := make(map[uint64]bool)
	for subject := range info.State.Subjects {
		seq, err := wire.ParseResultSeq(subject)
		if err != nil {
			r.t.Fatal(err)
		}
		stored[seq] = true
	}
	return stored
}

// stored reports whether a generation has a store.
func (c *cluster) stored(batcher, gen string) bool {
	_, err := c.js.Stream(c.t.Context(), topology.ResultsStream(batcher, gen))
	return !errors.Is(err, jetstream.ErrStreamNotFound)
}

// run takes the first n batches, from a start at batch 0: the window is open afterwards.
func (r *reader) run(n int) {
	r.t.Helper()
	r.start(0)
	r.read(n)
}

// read takes the first n batches.
func (r *reader) read(n int) {
	r.t.Helper()
	r.bytes = 8
	for i := range n {
		r.work(1)
		r.credit(uint64(i + 1))
	}
}

func expectFault(t *testing.T, got *schema.Fault, code string) {
	t.Helper()
	if got == nil || got.Code != code {
		t.Fatalf("got %+v, want fault %s", got, code)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
