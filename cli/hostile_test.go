package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

var (
	hostileSchedules = flag.Int("hostile.schedules", 2, "schedules of a hostile worker and a hostile trainer")
	hostileSeed      = flag.Uint64("hostile.seed", 1, "the first one's seed")
)

// hostile is a worker and a trainer that were stolen: they have real keys, and send what they like. What they may do by
// right is left out: a worker stores results, and is believed about batches that it made itself.
type hostile struct {
	t              *testing.T
	rng            *rand.Rand
	worker, client *nats.Conn
	batcher        string
	rec            wire.Record
	sent           int

	set  kind.Instance // the data set of the record: a hostile worker has it, too
	seen string        // the generation that known is of
	at   uint64        // how many positions known has come
	last []byte        // the state there
}

// look reads the record as any trainer may.
func (h *hostile) look(ctx context.Context) {
	request, _ := json.Marshal(map[string]string{"last_by_subj": "$KV.jetbatch." + topology.BatcherKey(h.batcher)})
	m, err := h.client.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.KV_jetbatch", request)
	if err != nil {
		return
	}
	var answer struct {
		Message struct {
			Data []byte `json:"data"`
		} `json:"message"`
	}
	if json.Unmarshal(m.Data, &answer) != nil {
		return
	}
	if rec, err := wire.ParseRecord(h.batcher, answer.Message.Data); err == nil {
		h.rec = rec
	}
}

// wrong makes the record of a position as the run's own worker would, and its job, with the content of another batch.
func (h *hostile) wrong(ctx context.Context, seq uint64) (job, result []byte) {
	spec := h.rec.SpecDigest()
	if h.seen != h.rec.Gen || h.at < h.rec.Floor || seq <= h.at {
		h.seen, h.at, h.last = h.rec.Gen, h.rec.Floor, h.rec.FloorState
	}
	if h.set == nil {
		set, err := kind.Of(testset.Define("wide", nil)).OpenFunc(ctx, h.rec.Spec.Params)
		if err != nil {
			h.t.Errorf("hostile: the run's own parameters: %v", err)
			return nil, nil
		}
		h.set = set
	}
	var body, next, prev []byte
	for ; h.at < seq; h.at++ {
		var err error
		prev = h.last
		if body, next, err = h.set.Next(prev); err != nil {
			return nil, nil
		}
		h.last = next
	}
	var other testset.Job
	if msgpack.Unmarshal(body, &other) != nil {
		return nil, nil
	}
	other.Seed++
	body, err := msgpack.Marshal(&other)
	if err != nil {
		return nil, nil
	}
	work := &wire.Job{Seq: seq, Prev: prev, Next: next, Body: body, Spec: spec}
	pieces, _, err := h.set.Materialize(ctx, body, nil)
	if err != nil {
		return nil, nil
	}
	payload := slices.Concat(pieces...)
	data, err := wire.AppendResult(nil, &wire.Result{Seq: seq, Prev: prev, Next: next, Attempt: fmt.Sprint("f", h.sent),
		Worker: "w1", Deliveries: 1, Digest: wire.Sum(payload), Size: uint64(len(payload)), Spec: spec}, payload)
	if err != nil {
		return nil, nil
	}
	return wire.AppendJob(nil, work), data
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// seq is near the head, or absurd.
func (h *hostile) seq() uint64 {
	return pick(h.rng, h.rec.Taken+1+h.rng.Uint64N(12), h.rec.Taken, 1<<62, 0)
}

// targets are subjects that the server can be made to send to.
func (h *hostile) target() string {
	gen, seq := h.rec.Gen, h.rec.Taken+1+h.rng.Uint64N(12)
	return pick(h.rng,
		"$KV.jetbatch."+topology.BatcherKey(h.batcher), "$KV.jetbatch."+topology.CoordinatorKey(h.rec.Owner),
		wire.JobSubject("wide-v1-w2", h.batcher, gen, seq, wire.TryFirst), wire.LiveSubject(h.batcher, gen),
		wire.NoticePrefix+"."+h.batcher, wire.ReaderPrefix+"."+h.batcher, wire.ReportPrefix+"."+h.batcher,
		wire.LanePrefix+"."+h.batcher, wire.WorkerPrefix+".w1", wire.CoordinatorPrefix+".seat",
		wire.CoordinatorPrefix+".stop", "JETBATCH.job.x", "jetbatch.result.a.b.c", "_INBOX_coordinator.x.y",
		"_INBOX_worker.x.y", "_INBOX_client.x.y", "$KV.jetbatch."+topology.OriginKey(h.rec.Origin),
		wire.EventPrefix+".batcher."+h.batcher,
	)
}

// record is the batcher's with other parameters, a place that nobody has come to, or another owner.
func (h *hostile) record() []byte {
	rec := h.rec
	rec.Spec.Params = json.RawMessage(`{"salt":666}`)
	rec.Taken = pick(h.rng, rec.Taken, rec.Floor+1<<19, 1<<40)
	rec.Owner = pick(h.rng, rec.Owner, "nobody")
	data, _ := json.Marshal(rec)
	return data
}

// forgery is a message that some role would take for another's, if it did not look twice.
func (h *hostile) forgery() any {
	rec := h.rec
	reader, secret := rec.Reader, pick(h.rng, "", wire.NewSecret())
	fault := &schema.Fault{Code: pick(h.rng, schema.CodeNondeterministic, schema.CodeStoreGone, schema.CodeStoreFull,
		schema.CodeMaterialize), Message: "\x1b[2Jforged", Seq: h.seq(), Gen: rec.Gen, Worker: "w1"}
	credit := &wire.Credit{Gen: rec.Gen, Seat: rec.Seat, Reader: reader, Secret: secret, Taken: h.seq(),
		BatchBytes: pick[int64](h.rng, -1, 1, 1<<62), Failed: pick(h.rng, nil, fault), Late: true, Straggles: true}
	switch h.rng.IntN(8) {
	case 0:
		return json.RawMessage(h.record())
	case 1:
		return credit
	case 2:
		return wire.StopRequest{Batcher: h.batcher, Request: "ZZZZZZZZZZZZZZZZZZZZZZZZZZ", Reader: reader, Secret: secret,
			Leave: h.rng.IntN(2) == 0, Last: credit}
	case 3:
		return wire.SeatRequest{Wire: wire.Version, Batcher: h.batcher, Request: "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
			Mode: pick(h.rng, wire.ModeOpen, wire.ModeStart, wire.ModeSeek), Reader: reader, Secret: secret, Spec: rec.Spec,
			Settings: wire.Settings{Window: 1, IdleTimeout: pick[time.Duration](h.rng, 0, 1<<62)}}
	case 4:
		return wire.Report{Gen: rec.Gen, Fault: fault, Made: wire.Sum(nil), Apart: pick(h.rng, nil, []uint64{h.seq()})}
	case 5:
		return wire.CreditReply{Gen: rec.Gen, Seat: rec.Seat + 1, Reader: "ANOTHER", Phase: schema.PhaseRunning, Window: 1}
	case 6:
		return wire.Lane{Batcher: h.batcher, Gen: rec.Gen, Kind: "wide-v1-w2", Floor: h.seq(), Over: true}
	}
	return schema.WorkerStatus{Worker: "w9", Kinds: []string{"wide-v1-w2"}, Slots: pick(h.rng, -1000, 1<<62, 1)}
}

// body is a forgery or noise.
func (h *hostile) body() []byte {
	switch h.rng.IntN(8) {
	case 0:
		return nil
	case 1:
		noise := make([]byte, h.rng.IntN(200))
		for i := range noise {
			noise[i] = byte(h.rng.Uint32())
		}
		return noise
	}
	data, _ := json.Marshal(h.forgery())
	return data
}

// headers are those by which NATS does more with a message than to store it.
func (h *hostile) headers() nats.Header {
	header := nats.Header{}
	for range h.rng.IntN(3) {
		name := pick(h.rng, "Nats-Rollup", "Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Stream", "Nats-Msg-Id",
			"KV-Operation", "Nats-Marker-Reason", "Nats-TTL", "Nats-Schedule", "Nats-Schedule-Target", "Nats-Incr",
			"Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Trace-Dest", "Nats-Stream", "Nats-Subject", "Status")
		header[name] = append(header[name], pick(h.rng, "sub", "all", "0", "1", "1s", "PURGE", "DEL", "MaxAge", "@every 1s",
			"+1", "x", "404", "503", h.target(), topology.ResultsStream(h.batcher, h.rec.Gen)))
	}
	return header
}

// act does one thing.
func (h *hostile) act(ctx context.Context) {
	gen := h.rec.Gen
	results, consumer := topology.ResultsStream(h.batcher, gen), topology.Consumer(h.batcher, gen)
	stash := fmt.Sprintf("jetbatch.result.%s.%s.0.1.stash.%d", h.batcher, gen, h.sent)
	header := h.headers()
	send := func(nc *nats.Conn, subject string, reply string, data []byte) {
		err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data, Header: header})
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			h.t.Logf("hostile: %s: %v", subject, err)
		}
		h.sent++
	}
	reply := pick(h.rng, "", h.target(), "_INBOX_worker.a.b")
	// aim has a message stored and then sent on by the server, in the place of a role's own.
	aim := func(target string, data []byte) {
		send(h.worker, stash, "", data)
		if h.worker.FlushTimeout(time.Second) == nil {
			header = nil
			send(h.client, "$JS.API.DIRECT.GET."+results+"."+stash, target, nil)
		}
	}
	switch h.rng.IntN(17) {
	case 0:
		aim(h.target(), h.body())
	case 12, 13: // a job, or a batch, that looks right in all but its content
		header = nil
		seq := h.rec.Taken + 1 + h.rng.Uint64N(40)
		job, result := h.wrong(ctx, seq)
		if h.rng.IntN(2) == 0 {
			aim(wire.JobSubject("wide-v1-w2", h.batcher, gen, seq, wire.TryFirst), job)
		} else {
			stash = fmt.Sprintf("jetbatch.result.%s.%s.7%d.%d", h.batcher, gen, h.sent, seq) // is sent on once more
			header = nats.Header{"Nats-Last-Sequence": {"0"}}
			aim(wire.LiveSubject(h.batcher, gen), result)
		}
	case 14: // the record, or a lease
		header = pick(h.rng, nil, nats.Header{"KV-Operation": {"PURGE"}})
		aim("$KV.jetbatch."+pick(h.rng, topology.BatcherKey(h.batcher), topology.CoordinatorKey(h.rec.Owner)), h.record())
	case 15: // an acknowledgement
		send(h.worker, stash, h.target(), h.body())
	case 16: // a job taken and acked without a batch
		m, err := h.worker.RequestWithContext(ctx, "$JS.API.CONSUMER.MSG.NEXT.jetbatch-jobs."+consumer,
			[]byte(`{"batch":1,"no_wait":true}`))
		if err == nil && m.Reply != "" {
			send(h.worker, m.Reply, "", nil)
		}
	case 1:
		send(h.client, "$JS.API.DIRECT.GET."+results+"."+wire.ResultSubject(h.batcher, gen, h.rec.Taken), h.target(), nil)
	case 2:
		send(h.worker, "$JS.API.CONSUMER.MSG.NEXT.jetbatch-jobs."+consumer, h.target(), []byte("1"))
	case 3:
		send(h.worker, "$JS.API.STREAM.MSG.GET."+pick(h.rng, "KV_jetbatch", results), h.target(), []byte(`{"seq":1}`))
	case 4:
		send(h.client, wire.ReaderPrefix+"."+h.batcher, reply, h.body())
	case 5:
		send(h.client, wire.CoordinatorPrefix+"."+pick(h.rng, "seat", "stop", "status"), reply, h.body())
	case 6:
		send(h.client, wire.UploadPrefix+"."+pick(h.rng, "w1", "w2"), reply,
			fmt.Appendf(nil, `{"attempt":"%d","avoid":%d}`, h.sent, pick[int64](h.rng, 1<<62, -1)))
	case 7:
		send(h.worker, wire.WorkerPrefix+"."+pick(h.rng, "w1", "w9", "c1"), reply, h.body())
	case 8:
		send(h.worker, wire.ReportPrefix+"."+h.batcher, reply, h.body())
	case 9: // records that cannot be right: damaged, or of no state
		send(h.worker, wire.ResultSubject(h.batcher, gen, h.seq()), reply, h.body())
	case 10:
		send(h.worker, "jetbatch.worker-claim."+pick(h.rng, "w1", "w2"), reply, h.body())
	case 11:
		send(h.worker, "$SRV.PING.jetbatch-worker", reply, nil)
	}
}

// rage acts until it is over or ctx ends, and tells of each act.
func (h *hostile) rage(ctx context.Context, acts int, acted chan<- struct{}) {
	defer close(acted)
	for n := range acts {
		if n%5 == 0 {
			h.look(ctx)
		}
		if h.rec.Gen != "" {
			h.act(ctx)
		}
		select {
		case acted <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// A hostile worker and a hostile trainer with real keys send drawn nonsense and forgeries. Every batch that an honest
// trainer takes is right all the same, no role ends, and the service goes on when the two are gone. The most that they
// can do is to end a run with an error.
func TestHostileRoles(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.start("coordinator", "--name", "c1")
	s.start("coordinator", "--name", "c2")
	s.start("worker", "--name", "w1")
	s.start("worker", "--name", "w2")
	sent, ended, taken := 0, 0, 0
	for i := range *hostileSchedules {
		h := &hostile{t: t, rng: rand.New(rand.NewPCG(*hostileSeed+uint64(i), 1)), worker: s.connect("worker"),
			client: s.connect("client"), batcher: fmt.Sprint("train-", i)}
		n, e := h.schedule(s)
		taken, ended, sent = taken+n, ended+e, sent+h.sent
		h.worker.Close()
		h.client.Close()
		if h.sent < hostileActs/2 {
			t.Errorf("%d messages were sent: the record was not read", h.sent)
		}
		if t.Failed() {
			t.Fatalf("schedule %d; replay with -hostile.seed=%d -hostile.schedules=1", i, *hostileSeed+uint64(i))
		}
	}
	t.Logf("%d schedules, %d messages, %d batches taken, %d runs ended with an error", *hostileSchedules, sent, taken, ended)
}

const (
	hostileActs = 300 // of a schedule
	calmBatches = 20  // that are taken after them
)

// schedule takes batches while the others rage, one after some of their acts, and then without them.
func (h *hostile) schedule(s *secured) (taken, ended int) {
	t := h.t
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	p := testset.Params{Salt: h.rng.Uint64(), Size: pick(h.rng, 100, 3000)}
	log := new(lockedLog)
	defer func() {
		if t.Failed() {
			t.Logf("trainer:\n%s", log)
		}
	}()
	cfg := client.Config{Name: h.batcher, Dataset: "wide", Params: p, Window: 9,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	b, err := client.Open[schema.Batch](ctx, s.connect("client"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	o, err := testset.NewOracle(testset.Define("wide", nil), p, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	every := h.rng.IntN(4) + 1
	acted := make(chan struct{})
	go h.rage(ctx, hostileActs, acted)
	for calm := 0; calm < calmBatches; {
		for range every {
			if _, raging := <-acted; !raging {
				calm++
				break
			}
		}
		step, err := b.Take(ctx, o.State)
		switch {
		case ctx.Err() != nil:
			t.Errorf("hung after %d batches: %v", taken, err)
			return taken, ended
		case err != nil: // typed: the trainer starts again where it was
			ended++
			if err := b.Start(ctx, o.State); err != nil && ctx.Err() == nil {
				_ = b.Close()
				cfg.TakeOver = true
				if b, err = client.Open[schema.Batch](ctx, s.connect("client"), cfg); err != nil {
					t.Errorf("not opened again after %d batches: %v", taken, err)
					return taken, ended
				}
			}
			continue
		}
		if err := o.Check(step, nil); err != nil {
			t.Errorf("wrong after %d batches: %v", taken, err)
			return taken, ended
		}
		step.Release()
		taken++
	}
	if err := b.Stop(ctx); err != nil {
		t.Logf("stop: %v", err)
	}
	_ = b.Close()
	return taken, ended
}
