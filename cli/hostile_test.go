package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

var (
	hostileSchedules = flag.Int("hostile.schedules", 4, "schedules of a hostile worker and a hostile trainer")
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
		"_INBOX_worker.x.y", "_INBOX_client.x.y",
	)
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
		rec.Spec.Params = json.RawMessage(`{"salt":666}`)
		rec.Taken = pick(h.rng, rec.Taken, 1<<40)
		rec.Owner = pick(h.rng, rec.Owner, "nobody")
		return rec
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
	if h.rng.IntN(4) == 0 {
		noise := make([]byte, h.rng.IntN(200))
		for i := range noise {
			noise[i] = byte(h.rng.Uint32())
		}
		return noise
	}
	data, _ := json.Marshal(h.forgery())
	return data
}

// act does one thing.
func (h *hostile) act() {
	gen := h.rec.Gen
	results, consumer := topology.ResultsStream(h.batcher, gen), topology.Consumer(h.batcher, gen)
	stash := fmt.Sprintf("jetbatch.result.%s.%s.0.1.stash.%d", h.batcher, gen, h.sent)
	send := func(nc *nats.Conn, subject string, reply string, data []byte) {
		err := nc.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data})
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			h.t.Logf("hostile: %s: %v", subject, err)
		}
		h.sent++
	}
	reply := pick(h.rng, "", h.target(), "_INBOX_worker.a.b")
	switch h.rng.IntN(12) {
	case 0: // a message that is stored and then sent on by the server, in the place of a role's own
		send(h.worker, stash, "", h.body())
		if h.worker.FlushTimeout(time.Second) == nil {
			send(h.client, "$JS.API.DIRECT.GET."+results+"."+stash, h.target(), nil)
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

// rage acts until ctx ends.
func (h *hostile) rage(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		if n%20 == 0 {
			h.look(ctx)
		}
		if h.rec.Gen != "" {
			h.act()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(h.rng.IntN(3)) * time.Millisecond):
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
		if t.Failed() {
			t.Fatalf("schedule %d; replay with -hostile.seed=%d -hostile.schedules=1", i, *hostileSeed+uint64(i))
		}
	}
	t.Logf("%d schedules, %d messages, %d batches taken, %d runs ended with an error", *hostileSchedules, sent, taken, ended)
}

// schedule takes batches while the others rage and then without them.
func (h *hostile) schedule(s *secured) (taken, ended int) {
	t := h.t
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	p := testset.Params{Salt: h.rng.Uint64(), Size: pick(h.rng, 100, 3000)}
	cfg := client.Config{Name: h.batcher, Dataset: "wide", Params: p, Window: 9, Logger: slog.New(slog.DiscardHandler)}
	b, err := client.Open[schema.Batch](ctx, s.connect("client"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	o, err := testset.NewOracle(testset.Define("wide", nil), p, schema.State{})
	if err != nil {
		t.Fatal(err)
	}
	raging, calm := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() { defer close(over); h.rage(raging) }()
	defer func() { calm(); <-over }()
	began := time.Now()
	for left := 100; left > 0; {
		if raging.Err() == nil && (left <= 20 || time.Since(began) > 3*time.Second) {
			calm()
			<-over
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
		left--
	}
	if err := b.Stop(ctx); err != nil {
		t.Logf("stop: %v", err)
	}
	_ = b.Close()
	return taken, ended
}
