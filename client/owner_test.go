package client

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// owner plays the coordinator and all workers for one batcher. Its data set counts: the state n precedes the
// batch n, from 0 up to end.
type owner struct {
	t    testing.TB
	srv  *natstest.Server
	nc   *nats.Conn
	js   jetstream.JetStream
	kv   jetstream.KeyValue
	name string

	mu       sync.Mutex
	subs     []*nats.Subscription
	rec      wire.Record
	base     uint64   // the state that the generation began at
	gens     []string // all generations so far
	fed      uint64   // results published up to here
	window   int
	workers  int
	trouble  string
	end      uint64 // the state at which the data ends; 0 for never
	manual   bool   // the test publishes by itself
	silent   bool   // requests and credits are not answered
	mute     bool   // requests to stop are heard and not answered
	refusals int    // so many requests to stop are refused for now
	credits  []wire.Credit
	requests []wire.SeatRequest
	last     *wire.Credit      // of the latest request to stop or to leave
	remake   bool              // what readers say is lost is made again
	attempts map[uint64]string // that were published last, by position

	make    func(o *owner, seq uint64) (*wire.Result, []byte) // the result of a position; nil for batch()
	foreign bool                                              // it speaks version 1 of the wire
	onSeat  func(*wire.SeatRequest) *wire.SeatReply           // answers instead, unless it returns nil
}

const kindToken = "count-v1-w2"

func newOwner(t testing.TB) *owner {
	t.Helper()
	return newOwnerOn(t, natstest.Run(t))
}

func newOwnerOn(t testing.TB, srv *natstest.Server, options ...nats.Option) *owner {
	t.Helper()
	nc, js := srv.JetStream(options...)
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	kv, err := topology.OpenBucket(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	o := &owner{t: t, srv: srv, nc: nc, js: js, kv: kv, name: "train", window: 4, workers: 2, attempts: make(map[uint64]string)}
	o.rec = wire.Record{
		Wire: wire.Version, Batcher: o.name, Owner: "c1", Phase: schema.PhaseStopped, Spec: wire.Spec{Dataset: "count"},
	}
	o.listen()
	t.Cleanup(o.quiet)
	return o
}

// listen subscribes the owner's subjects; quiet takes it off the air.
func (o *owner) listen() {
	for subject, handler := range map[string]nats.MsgHandler{
		wire.CoordinatorPrefix + ".seat":   o.seat,
		wire.CoordinatorPrefix + ".stop":   o.stop,
		wire.CoordinatorPrefix + ".status": o.status,
		wire.ReaderPrefix + "." + o.name:   o.credit,
	} {
		sub, err := o.nc.Subscribe(subject, handler)
		if err != nil {
			o.t.Fatal(err)
		}
		o.subs = append(o.subs, sub)
	}
	if err := o.nc.Flush(); err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) quiet() {
	for _, sub := range o.subs {
		_ = sub.Unsubscribe() // the connection may be closed already
	}
	o.subs = nil
}

func (o *owner) respond(m *nats.Msg, v any) {
	body, err := json.Marshal(v)
	if err == nil {
		err = m.Respond(body)
	}
	if err != nil {
		o.t.Logf("owner: %v", err)
	}
}

func stateOf(n uint64) schema.State {
	s, err := schema.NewState(n)
	if err != nil {
		panic(err)
	}
	s.Dataset, s.Version = "count", 1
	return s
}

func number(s schema.State) uint64 {
	var n uint64
	if !s.IsZero() {
		if err := s.Decode(&n); err != nil {
			panic(err)
		}
	}
	return n
}

func (o *owner) seat(m *nats.Msg) {
	var req wire.SeatRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		o.t.Errorf("seat request: %v", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests = append(o.requests, req)
	if o.silent {
		return
	}
	if o.onSeat != nil {
		if reply := o.onSeat(&req); reply != nil {
			reply.Wire = wire.Version
			o.respond(m, reply)
			return
		}
	}
	reply := o.sit(&req)
	reply.Wire = wire.Version
	if o.foreign {
		reply.Wire = 0 // which did not say so
	}
	o.respond(m, reply)
}

// sit is what a coordinator does. Called with mu held.
func (o *owner) sit(req *wire.SeatRequest) wire.SeatReply {
	fault := func(code string) wire.SeatReply { return wire.SeatReply{Fault: &schema.Fault{Code: code}} }
	held := o.rec.Reader != "" && o.rec.Reader != req.Reader
	if held && req.Mode == wire.ModeOpen && !req.TakeOver {
		return fault(schema.CodeInUse)
	}
	if o.rec.Reader != req.Reader && req.Mode != wire.ModeOpen {
		return fault(schema.CodeSuperseded)
	}
	o.rec.Reader, o.rec.Request = req.Reader, req.Request
	o.rec.Seat++
	if req.Mode == wire.ModeOpen {
		return wire.SeatReply{Gen: o.rec.Gen, Seat: o.rec.Seat, Phase: o.rec.Phase}
	}
	n := number(req.State)
	reply := wire.SeatReply{Seat: o.rec.Seat, Phase: schema.PhaseRunning, Window: o.window, State: stateOf(n)}
	_, err := o.js.Stream(context.Background(), topology.ResultsStream(o.name, o.rec.Gen))
	if req.Mode == wire.ModeSeek && err == nil && n >= o.base && n <= o.base+o.fed {
		reply.Held = true
	} else {
		o.begin(n)
	}
	o.rec.Phase = schema.PhaseRunning
	reply.Gen, reply.Position = o.rec.Gen, n-o.base+1
	o.rec.Taken = reply.Position - 1
	o.feed()
	return reply
}

// begin makes a new generation at state n. Called with mu held.
func (o *owner) begin(n uint64) {
	gen := ulid.Make().String()
	err := topology.Ensure(context.Background(), o.js, topology.Config{})
	if err == nil {
		err = topology.CreateGeneration(context.Background(), o.js, kindToken, o.name, gen)
	}
	if err != nil {
		o.t.Errorf("owner: %v", err)
	}
	o.rec.Gen, o.rec.Taken, o.rec.Verdict, o.rec.Error = gen, 0, nil, nil
	o.base, o.fed = n, 0
	o.gens = append(o.gens, gen)
}

// feed publishes what the window allows. Called with mu held.
func (o *owner) feed() {
	for !o.manual && o.rec.Gen != "" && o.rec.Verdict == nil && o.fed < o.rec.Taken+uint64(o.window) {
		o.fed++
		if o.end > 0 && o.base+o.fed-1 >= o.end {
			o.verdict(o.fed, nil)
			o.publish(&wire.Result{Seq: o.fed, Kind: wire.KindEnd, Prev: stateOf(o.end).Data, Worker: "owner"}, nil)
			return
		}
		res, payload := o.batch(o.fed)
		if o.make != nil {
			res, payload = o.make(o, o.fed)
		}
		o.publish(res, payload)
	}
}

// verdict writes the coordinator's word into the record. Called with mu held.
func (o *owner) verdict(seq uint64, fault *schema.Fault) {
	o.rec.Verdict = &wire.Verdict{Seq: seq, Fault: fault}
	body, err := json.Marshal(o.rec)
	if err == nil {
		_, err = o.kv.Put(context.Background(), topology.BatcherKey(o.name), body)
	}
	if err != nil {
		o.t.Errorf("owner: %v", err)
	}
}

// batch is the right result of a position. Called with mu held.
func (o *owner) batch(seq uint64) (*wire.Result, []byte) {
	n := o.base + seq - 1
	return result(seq, n, content(n))
}

func content(n uint64) []byte { return fmt.Appendf(nil, "batch %d", n) }

func result(seq, n uint64, payload []byte) (*wire.Result, []byte) {
	return &wire.Result{
		Seq: seq, Prev: stateOf(n).Data, Next: stateOf(n + 1).Data, Attempt: ulid.Make().String(), Worker: "w1",
		Deliveries: 1,
		Digest:     wire.Sum(payload), Size: uint64(len(payload)), Materialize: time.Millisecond,
	}, payload
}

// publish stores a result: chunks first, if it has any. Called with mu held, or by a test in manual mode.
func (o *owner) publish(res *wire.Result, payload []byte) {
	gen := o.rec.Gen
	o.attempts[res.Seq] = res.Attempt
	if len(payload) > wire.InlineLimit || res.Direct != nil {
		res.Chunks = uint32((len(payload) + wire.ChunkSize - 1) / wire.ChunkSize)
		if res.Direct == nil {
			o.storeChunks(res, payload)
		}
	}
	body, err := wire.AppendResult(nil, res, payload)
	if err != nil {
		o.t.Errorf("owner: %v", err)
	}
	o.store(wire.ResultSubject(o.name, gen, res.Seq), body)
}

func (o *owner) storeChunks(res *wire.Result, payload []byte) {
	for k := range int(res.Chunks) {
		part := payload[k*wire.ChunkSize : min((k+1)*wire.ChunkSize, len(payload))]
		o.store(wire.ChunkSubject(o.name, o.rec.Gen, res.Seq, res.Attempt, k), part)
	}
}

// store publishes a record or a chunk, and repeats that until the server answers: a server that restarts forgets the
// first try. The stream refuses a subject that it has already, so that a repetition changes nothing.
func (o *owner) store(subject string, body []byte) {
	var err error
	for range 20 {
		if _, err = o.nc.Request(subject, body, 500*time.Millisecond); err == nil {
			return
		}
	}
	o.t.Logf("owner: %s: %v", subject, err)
}

func (o *owner) erase(subject string) {
	s, err := o.js.Stream(o.t.Context(), topology.ResultsStream(o.name, o.rec.Gen))
	if err == nil {
		err = s.Purge(o.t.Context(), jetstream.WithPurgeSubject(subject))
	}
	if err != nil && o.t.Context().Err() == nil { // else a reader's last credit asked for it, and the test is over
		o.t.Fatal(err)
	}
}

func (o *owner) credit(m *nats.Msg) {
	var c wire.Credit
	if err := json.Unmarshal(m.Data, &c); err != nil {
		o.t.Errorf("credit: %v", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.silent {
		return
	}
	o.credits = append(o.credits, c)
	if c.Reader == o.rec.Reader && c.Gen == o.rec.Gen && c.Seat == o.rec.Seat {
		o.rec.Taken = max(o.rec.Taken, c.Taken)
		switch v := o.rec.Verdict; {
		case c.Failed != nil:
			o.rec.Phase, o.rec.Error = schema.PhaseFailed, c.Failed
		case v != nil && v.Fault == nil && c.Taken >= v.Seq:
			o.rec.Phase = schema.PhaseDone
		case o.remake && len(c.Lost) > 0:
			for _, l := range c.Lost {
				if l.Attempt == o.attempts[l.Seq] { // else it is made again already
					o.erase(wire.ResultSubject(o.name, o.rec.Gen, l.Seq))
					o.publish(o.make(o, l.Seq))
				}
			}
		default:
			o.feed()
		}
	}
	if m.Reply != "" {
		o.respond(m, wire.CreditReply{
			Gen: o.rec.Gen, Seat: o.rec.Seat, Reader: o.rec.Reader, Phase: o.rec.Phase, Window: o.window, Workers: o.workers,
			Error: o.rec.Error, Trouble: o.trouble,
		})
	}
}

func (o *owner) stop(m *nats.Msg) {
	var req wire.StopRequest
	if err := json.Unmarshal(m.Data, &req); err != nil {
		o.t.Errorf("stop request: %v", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mute {
		return
	}
	o.last = req.Last
	reply := wire.StopReply{Error: o.rec.Error}
	switch {
	case o.refusals > 0:
		o.refusals--
		reply = wire.StopReply{Fault: &schema.Fault{Code: schema.CodeUnavailable, Message: "changing hands"}}
	case o.rec.Reader != req.Reader:
		reply = wire.StopReply{Fault: &schema.Fault{Code: schema.CodeSuperseded}}
	case req.Leave:
		o.rec.Reader = ""
		o.rec.Seat++
	default:
		o.rec.Phase, o.rec.Gen, o.rec.Error = schema.PhaseClosed, "", nil
	}
	o.respond(m, reply)
}

func (o *owner) status(m *nats.Msg) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.respond(m, wire.StatusReply{Status: schema.Status{Batcher: o.name, Phase: o.rec.Phase, Gen: o.rec.Gen,
		Seat: o.rec.Seat, Reader: o.rec.Reader}})
}

// notice tells the reader that something changed.
func (o *owner) notice() {
	if err := o.nc.Publish(wire.NoticePrefix+"."+o.name, []byte("{}")); err != nil {
		o.t.Error(err)
	}
}

// locked runs f while nothing happens.
func (o *owner) locked(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

// count returns how many seats were asked for in a mode.
func (o *owner) count(mode wire.Mode) (n int) {
	o.locked(func() {
		for i := range o.requests {
			if o.requests[i].Mode == mode {
				n++
			}
		}
	})
	return n
}

// moveOn begins a new generation for the same reader, as after a lost store, and waits until the reader knows.
func (o *owner) moveOn(b *Batcher[[]byte]) {
	o.t.Helper()
	o.locked(func() {
		o.rec.Seat++
		o.begin(1)
		o.rec.Taken = 0
		o.feed()
	})
	o.notice()
	natstest.Eventually(o.t, "the reader knows", func() bool {
		doubting, _ := b.r.run.doubting()
		return doubting
	})
}
