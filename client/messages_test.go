package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestSentOn says which live messages are records.
func TestSentOn(t *testing.T) {
	t.Parallel()
	const gen = "01J"
	live := wire.LiveSubject("train", gen)
	s := newStore(nil, "train", gen, nil)
	right := func() *nats.Msg {
		return &nats.Msg{Subject: live, Header: nats.Header{
			"Nats-Stream": {s.stream}, "Nats-Subject": {wire.ResultSubject("train", gen, 7)}, "Nats-Sequence": {"12"},
			"Nats-Time-Stamp": {time.Now().Format(time.RFC3339Nano)}, "Nats-Last-Sequence": {"0"},
		}}
	}
	if seq, ok := s.sentOn(live, right()); seq != 7 || !ok {
		t.Fatalf("%d, %v", seq, ok)
	}
	for name, change := range map[string]func(*nats.Msg){
		"pulled":               func(m *nats.Msg) { m.Subject = wire.JobFilter("count", "train", gen) },
		"wants an answer":      func(m *nats.Msg) { m.Reply = "$JS.ACK.x" },
		"got by subject":       func(m *nats.Msg) { delete(m.Header, "Nats-Last-Sequence") },
		"got in a batch":       func(m *nats.Msg) { m.Header["Nats-Num-Pending"] = []string{"0"} },
		"another stream":       func(m *nats.Msg) { m.Header["Nats-Stream"] = []string{topology.JobsStream} },
		"another one at first": func(m *nats.Msg) { m.Header["Nats-Stream"] = []string{s.stream, topology.JobsStream} },
		"of another generation": func(m *nats.Msg) {
			m.Header["Nats-Subject"] = []string{wire.ResultSubject("train",
				"01K", 7)}
		},
		"a chunk": func(m *nats.Msg) {
			m.Header["Nats-Subject"] = []string{wire.ChunkSubject("train", gen,
				7, "a", 0)}
		},
		"two subjects": func(m *nats.Msg) { m.Header["Nats-Subject"] = append(m.Header["Nats-Subject"], "x") },
		"no sequence":  func(m *nats.Msg) { m.Header["Nats-Sequence"] = []string{"none"} },
		"no time":      func(m *nats.Msg) { delete(m.Header, "Nats-Time-Stamp") },
		"no headers":   func(m *nats.Msg) { m.Header = nil },
		"another case of header": func(m *nats.Msg) {
			m.Header["nats-stream"] = m.Header["Nats-Stream"]
			delete(m.Header,
				"Nats-Stream")
		},
	} {
		m := right()
		change(m)
		if seq, ok := s.sentOn(live, m); ok {
			t.Errorf("%s: it counts as record %d", name, seq)
		}
	}
}

// TestForgedLiveMessage has a message that no store of results has ever held sent to the live subject: pulled from a
// stream and got from it, with the headers of a stored record.
func TestForgedLiveMessage(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual = true
	b, _ := setup(t, o, nil)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	gen := o.gens[0]
	live, subject := wire.LiveSubject(o.name, gen), wire.ResultSubject(o.name, gen, 1)
	res, payload := result(1, 0, []byte("forged"))
	body, err := wire.AppendResult(nil, res, payload)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := o.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "forge", Subjects: []string{"forge"},
		AllowDirect: true, Storage: jetstream.MemoryStorage})
	if err != nil {
		t.Fatal(err)
	}
	forged := &nats.Msg{Subject: "forge", Data: body, Header: nats.Header{
		"Nats-Stream": {topology.ResultsStream(o.name, gen)}, "Nats-Subject": {subject}, "Nats-Sequence": {"2"},
		"Nats-Time-Stamp": {time.Now().Format(time.RFC3339Nano)}, "Nats-Last-Sequence": {"0"},
	}}
	if _, err := o.js.PublishMsg(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "c",
		AckPolicy: jetstream.AckNonePolicy}); err != nil {
		t.Fatal(err)
	}
	heard := make(chan *nats.Msg, 8)
	sub, err := o.nc.ChanSubscribe(live, heard)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	for _, request := range []string{"$JS.API.CONSUMER.MSG.NEXT.forge.c", "$JS.API.DIRECT.GET.forge.forge"} {
		if err := o.nc.PublishRequest(request, live, nil); err != nil {
			t.Fatal(err)
		}
		if m := <-heard; string(m.Data) != string(body) {
			t.Fatalf("%s: the server sends %q", request, m.Data)
		}
	}
	o.locked(func() { o.publish(o.batch(1)); o.fed = 1; o.publish(o.batch(2)) })
	take(t, b, schema.State{}, 2)
}

// TestAStreamAnswers has a stream of somebody else store what is sent to coordinators, and acknowledge it.
func TestAStreamAnswers(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 4)
	o.quiet()
	o.locked(func() { o.manual = true })
	if _, err := o.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "audit", Subjects: []string{wire.CoordinatorPrefix + ".>", wire.ReaderPrefix + ".>"},
		Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Status": func() error { _, err := b.Status(deadline(t)); return err }(),
		"Take":   func() error { _, err := b.Take(deadline(t), stateOf(77)); return err }(),
		"Open": func() error {
			_, err := Open[[]byte](deadline(t), o.srv.Connect(), Config{Name: "other", Dataset: "count"})
			return err
		}(),
	} {
		if !errors.Is(err, ErrBadRequest) || !strings.Contains(fmt.Sprint(err),
			"stream audit of this account stores "+wire.CoordinatorPrefix) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A beat that a stream answers is one that the owner did not hear.
	natstest.Eventually(t, "the wait says who answers", func() bool {
		return strings.Contains(b.r.line.lacks(time.Now()), "stream audit of this account stores "+wire.ReaderPrefix)
	})
	if err := b.r.run.err(); err != nil {
		t.Errorf("the run ended: %v", err)
	}
	_ = state
}

// TestAnswersAreChecked has a coordinator, or what answers in its place, give seats that cannot be.
func TestAnswersAreChecked(t *testing.T) {
	t.Parallel()
	good := wire.SeatReply{Gen: "01J", Seat: 2, Position: 1, State: stateOf(0), Window: 4, Phase: schema.PhaseRunning}
	want := &sitting{mode: wire.ModeStart}
	if err := checkSeat(want, &good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*wire.SeatReply){
		"nothing":            func(r *wire.SeatReply) { *r = wire.SeatReply{} },
		"all subjects":       func(r *wire.SeatReply) { r.Gen = ">" },
		"a dot":              func(r *wire.SeatReply) { r.Gen = "a.b" },
		"a position too far": func(r *wire.SeatReply) { r.Position = 1 << 63 },
		"a huge state":       func(r *wire.SeatReply) { r.State.Data = make([]byte, schema.MaxState+1) },
	} {
		r := good
		change(&r)
		if err := checkSeat(want, &r); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := checkSeat(&sitting{mode: wire.ModeSeek, state: stateOf(3)}, &good); err == nil {
		t.Error("another state than was asked for: accepted")
	}
	if err := checkSeat(&sitting{mode: wire.ModeOpen}, &wire.SeatReply{}); err == nil {
		t.Error("a hold that says nothing: accepted")
	}
	for _, body := range []string{"", "{}", "[]", `{"stream":"X","seq":3}`, `{"error":{"code":400},"stream":"X"}`} {
		if _, err := readCreditReply("s", []byte(body)); err == nil {
			t.Errorf("%q: accepted", body)
		}
	}
	said, err := readCreditReply("s", []byte(`{"phase":"running","window":4611686018427387904,"workers":-1000}`))
	if err != nil || said.Window != span || said.Workers != 0 {
		t.Errorf("%+v, %v", said, err)
	}
}

// TestAnswersOfTheStoreAreChecked has somebody else answer in a store's place.
func TestAnswersOfTheStoreAreChecked(t *testing.T) {
	t.Parallel()
	nc := natstest.RunInProcess(t).Connect()
	s := newStore(nc, "train", "01J", func(err error) { t.Errorf("denied: %v", err) })
	subject := wire.ResultSubject("train", "01J", 7)
	for name, test := range map[string]struct {
		streams, subjects []string
		status            []string
		right             bool
	}{
		"right":                  {[]string{s.stream}, []string{subject}, nil, true},
		"stored with headers":    {[]string{"x", s.stream}, []string{"x", subject}, nil, true},
		"another record":         {[]string{s.stream}, []string{wire.ResultSubject("train", "01J", 8)}, nil, false},
		"another stream":         {[]string{topology.JobsStream}, []string{subject}, nil, false},
		"forged beside the true": {[]string{s.stream, topology.JobsStream}, []string{subject}, nil, false},
		"stored with a status":   {[]string{s.stream}, []string{subject}, []string{"404"}, true},
		"an error":               {nil, nil, []string{"408"}, false},
		"without headers":        {nil, nil, nil, false},
	} {
		sub, err := nc.Subscribe(directGet+s.stream+".>", func(m *nats.Msg) {
			answer := &nats.Msg{Subject: m.Reply, Data: []byte("x"), Header: nats.Header{
				jetstream.StreamHeader: test.streams, jetstream.SubjectHeader: test.subjects,
				"Status": test.status,
			}}
			_ = nc.PublishMsg(answer) // without an answer the test fails
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.get(t.Context(), subject); (err == nil) != test.right {
			t.Errorf("%s: %v", name, err)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
}
