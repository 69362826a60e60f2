package worker

import (
	"encoding/json"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/schedule"
)

// stage is what parts of a worker need of the others when they are tested alone.
type stage struct {
	*life
	nc    *nats.Conn
	clock int64 // of the publisher
	pub   *publisher
	tally *tally
	bell  *bell
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := natstest.RunInProcess(t)
	g := &stage{life: &life{epoch: time.Now()}, nc: s.Connect(), bell: newBell(), tally: newTally(map[string]*kind.Kind{"plain": {Name: "plain"}})}
	g.rename("w1", slog.New(slog.DiscardHandler))
	g.life.begin(t.Context())
	g.pub = newPublisher(func() int64 { return g.clock })
	if err := g.pub.open(g.nc); err != nil {
		t.Fatal(err)
	}
	return g
}

// lane is one of a data set "plain" that nobody announces.
func (g *stage) lane(batcher string) *lane {
	return newLane(g.hard, &wire.Record{Batcher: batcher, Gen: "GEN"}, &kind.Kind{Name: "plain"}, "")
}

// delivered is a delivery of n jobs from seq on.
func delivered(l *lane, seq uint64, n int, deliveries uint64) *delivery {
	d := &delivery{lane: l, subject: wire.JobSubject("plain-v1-w1", l.batcher, l.gen, seq, n), reply: "acks." + l.batcher, deliveries: deliveries, open: n}
	for i := range n {
		d.jobs = append(d.jobs, &job{delivery: d, seq: seq + uint64(i), index: -1})
	}
	return d
}

// A publication that was sent twice may be answered twice: its token is no other publication's, or the second answer
// would pass for that one's, and a job be acked before its record is stored.
func TestTokenOfAResentPublicationIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	g := newStage(t)
	requests, err := g.nc.SubscribeSync("store.*")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 9)
	send := func(name string) {
		g.pub.send(&publication{stream: "S", subject: "store." + name, done: func(a *pubAck) { answered <- name + " " + strconv.FormatUint(a.Seq, 10) }})
	}
	next := func() *nats.Msg {
		t.Helper()
		msg, err := requests.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	answer := func(msg *nats.Msg, seq int) {
		t.Helper()
		if err := msg.Respond([]byte(`{"stream":"S","seq":` + strconv.Itoa(seq) + `}`)); err != nil {
			t.Fatal(err)
		}
	}
	send("a")
	first := next()
	g.pub.resend(false)
	if n, _, _ := requests.Pending(); n > 0 {
		t.Fatal("a publication is sent again before it is due")
	}
	g.clock += int64(answerTimeout)
	g.pub.resend(false)
	second := next()
	answer(first, 1)
	if got := <-answered; got != "a 1" {
		t.Fatal(got)
	}
	send("b")
	third := next()
	if third.Reply == second.Reply {
		t.Fatal("the token of a publication that was sent twice is used again")
	}
	answer(second, 1)
	answer(third, 2)
	if got := <-answered; got != "b 2" {
		t.Fatal(got)
	}
	send("c") // one that was sent once is answered once: its token is free
	if fourth := next(); fourth.Reply != third.Reply {
		t.Error("tokens are not used again")
	}
	g.clock += int64(answerTimeout)
	for range maxTries {
		g.pub.resend(true)
	}
	if got := <-answered; got != "c 0" {
		t.Fatalf("in vain: %s", got)
	}
}

// An answer that comes while its publication is being sent again waits until the data is not read any more.
func TestAnswerWaitsForTheSend(t *testing.T) {
	t.Parallel()
	g := newStage(t)
	var got *pubAck
	x := &publication{stream: "S", subject: "store.a", done: func(a *pubAck) { got = a }}
	g.pub.mu.Lock()
	x.token = 1
	g.pub.pending[1] = x
	g.pub.begin(x)
	g.pub.mu.Unlock()
	if g.pub.answered(1, &pubAck{Stream: "S", Seq: 7}) != nil || got != nil {
		t.Fatal("the data may be reused while it is read")
	}
	if !g.pub.publish(x) || got == nil || got.Seq != 7 {
		t.Fatalf("answered with %+v", got)
	}
	if g.pub.answered(1, &pubAck{Stream: "S", Seq: 8}) != nil {
		t.Fatal("answered twice")
	}
}

func TestGateHoldsBackAndLetsGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate(maxOutstandingBytes)
		if !g.enter(2 * maxOutstandingBytes) { // the first may have any size
			t.Fatal("closed")
		}
		entered := make(chan bool, 2)
		go func() { entered <- g.enter(1) }()
		synctest.Wait()
		if len(entered) > 0 {
			t.Fatal("entered beside a record that takes all room")
		}
		g.leave(2 * maxOutstandingBytes)
		if !<-entered || g.bytes() != 1 {
			t.Fatal("there is room")
		}
		for range maxOutstanding - 1 {
			g.enter(1)
		}
		go func() { entered <- g.enter(1) }()
		synctest.Wait()
		if len(entered) > 0 {
			t.Fatal("entered beside as many as may be outstanding")
		}
		g.close()
		if <-entered {
			t.Fatal("entered a closed gate")
		}
	})
}

// A delivery is acked when its last job has ended, unless one was released; what is handed back is not acked.
func TestHeldAnswersOnce(t *testing.T) {
	t.Parallel()
	g := newStage(t)
	h := &held{life: g.life, nc: g.nc, tasks: new(tasks), tally: g.tally, bell: g.bell}
	acks, err := g.nc.SubscribeSync("acks.*")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want ...string) {
		t.Helper()
		if err := g.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		for _, body := range want {
			msg, err := acks.NextMsg(10 * time.Second)
			if err != nil || string(msg.Data) != body {
				t.Fatalf("%v %v, want %q", msg, err, body)
			}
		}
		if n, _, _ := acks.Pending(); n > 0 {
			t.Fatalf("%d more", n)
		}
	}
	l := g.lane("train")
	d := delivered(l, 1, 3, 1)
	h.hold(d)
	if !h.has(l, 2) || h.has(l, 4) || h.has(g.lane("other"), 2) {
		t.Fatal("held are other jobs")
	}
	h.ack(d.jobs[1])
	h.ack(d.jobs[1]) // twice is once
	h.ack(d.jobs[0])
	expect()
	h.ack(d.jobs[2])
	expect("")
	if n, _ := h.counts(); n != 0 {
		t.Fatalf("%d are held", n)
	}
	d = delivered(l, 1, 2, 1)
	h.hold(d)
	h.release(d.jobs[0])
	h.ack(d.jobs[1])
	expect()
	d = delivered(l, 1, 1, 1)
	h.hold(d)
	h.giveBack(d.jobs[0], time.Second)
	h.giveBack(d.jobs[0], 0)
	h.ack(d.jobs[0])
	expect(`-NAK {"delay":1000000000}`)
	d = delivered(l, 1, 1, 1)
	d.beaten = h.now()
	h.hold(d)
	h.tick(true, time.Hour)
	expect() // it came just now
	d.beaten -= int64(beatenLately)
	h.tick(true, time.Hour)
	expect("+WPI")
	d.beaten -= int64(beatenLately)
	h.tick(false, time.Hour)
	expect()
	h.begin(d.jobs[0], h.now()-2, 1, func(error) {})
	if cut, lost := h.tick(true, time.Hour); len(cut) != 1 || len(lost) != 0 || h.mine(d.jobs[0]) {
		t.Fatalf("cut off: %v, lost: %v", cut, lost)
	}
	if cut, lost := h.tick(true, 0); len(cut) != 0 || len(lost) != 1 {
		t.Fatalf("cut off: %v, lost: %v", cut, lost)
	}
	expect() // no heartbeat after the deadline
}

// A run whose jobs the owner has queued by themselves is acked, and is delivered again when the owner does not say so
// of one. The worker publishes no job.
func TestRunIsAckedWhenItsJobsAreQueued(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string][2]string{
		"all":     {`{"queued":true}`, `{"queued":true}`},
		"not one": {`{"queued":true}`, `{"stream":"jetbatch-jobs","seq":1}`},
	} {
		g := newStage(t)
		h := &held{life: g.life, nc: g.nc, tasks: new(tasks), tally: g.tally, bell: g.bell}
		acks, err := g.nc.SubscribeSync("acks.*")
		if err != nil {
			t.Fatal(err)
		}
		asked, err := g.nc.SubscribeSync(wire.ReportPrefix + ".train")
		if err != nil {
			t.Fatal(err)
		}
		queue, err := g.nc.SubscribeSync(wire.JobPrefix + ".>")
		if err != nil {
			t.Fatal(err)
		}
		d := delivered(g.lane("train"), 5, 2, 1)
		h.hold(d)
		for i, j := range d.jobs {
			h.giveBack(j, 0)
			if _, separating := h.counts(); separating != 1 {
				t.Fatalf("%d jobs leave their run", separating)
			}
			msg, err := asked.NextMsg(10 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			var report wire.Report
			if err := json.Unmarshal(msg.Data, &report); err != nil || report.Gen != "GEN" || len(report.Apart) != 1 || report.Apart[0] != j.seq {
				t.Fatalf("asked %s, %v", msg.Data, err)
			}
			if err := msg.Respond([]byte(answers[i])); err != nil {
				t.Fatal(err)
			}
			natstest.Eventually(t, "the job has left its run", func() bool { _, n := h.counts(); return n == 0 })
		}
		if err := g.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if n, _, _ := acks.Pending(); (n == 1) != (name == "all") {
			t.Errorf("%s are queued: %d acks", name, n)
		}
		if n, _, _ := queue.Pending(); n != 0 {
			t.Errorf("the worker published %d jobs", n)
		}
	}
}

// A job that was not heartbeat for an AckWait may be another worker's, and stays so.
func TestMissedHeartbeat(t *testing.T) {
	t.Parallel()
	g := newStage(t)
	h := &held{life: g.life, nc: g.nc, tasks: new(tasks), tally: g.tally, bell: g.bell}
	d := delivered(g.lane("train"), 1, 1, 1)
	d.beaten = h.now() - int64(topology.AckWait) - 1
	h.hold(d)
	h.begin(d.jobs[0], h.now(), time.Hour, func(error) {})
	h.tick(true, time.Hour)
	h.tick(true, time.Hour)
	if h.mine(d.jobs[0]) {
		t.Fatal("a heartbeat that came too late counts")
	}
}

// A job that is set aside waits for its neighbours and runs alone, and the slot that it left is free.
func TestSlotsSetAside(t *testing.T) {
	t.Parallel()
	g := &life{epoch: time.Now()}
	s := newSlots(2, g, newBell())
	l := &lane{batcher: "train"}
	s.open(l)
	ask := func([]schedule.Ask[*lane]) {}
	if !s.arrive(delivered(l, 1, 3, 1), false, 0) {
		t.Fatal("refused")
	}
	first := s.next(nil, 0, ask)
	if !s.ranAlone(first) {
		t.Error("the first runs beside others")
	}
	second := s.next(nil, 0, ask)
	if s.ranAlone(first) || s.ranAlone(second) {
		t.Error("two run, each alone")
	}
	if !s.setAside(second) {
		t.Fatal("not set aside")
	}
	if j := s.next(first, 1, ask); j != second || !s.ranAlone(j) {
		t.Fatalf("job %d runs", j.seq)
	}
	third := s.next(second, 1, ask)
	if third.seq != 3 || !s.lose(third) || s.lose(third) || !s.isLost(third) {
		t.Fatal("the third is not lost once")
	}
	if _, slots, lost := s.load(); slots != 1 || lost != 1 {
		t.Fatalf("%d slots, %d lost", slots, lost)
	}
	s.stop()
	if j := s.next(third, 1, ask); j != nil {
		t.Fatalf("job %d runs", j.seq)
	}
	if _, slots, lost := s.load(); slots != 2 || lost != 0 {
		t.Fatalf("%d slots, %d lost", slots, lost)
	}
	if s.setAside(first); s.close(l) == nil {
		t.Error("a closed lane's jobs are not returned")
	}
	if s.setAside(first) {
		t.Error("a job of a closed lane waits")
	}
}

// What a record says of a generation.
func TestStanding(t *testing.T) {
	t.Parallel()
	rec := func(phase schema.Phase) *wire.Record {
		return &wire.Record{Wire: wire.Version, Gen: "GEN", Phase: phase}
	}
	for _, test := range []struct {
		name string
		rec  *wire.Record
		gen  string
		want error
	}{
		{"none", nil, "GEN", errOver},
		{"another", rec(schema.PhaseRunning), "OLD", errOver},
		{"no generation", rec(schema.PhaseRunning), "", errOver},
		{"running", rec(schema.PhaseRunning), "GEN", nil},
		{"closed", rec(schema.PhaseClosed), "GEN", errOver},
		{"failed", rec(schema.PhaseFailed), "GEN", errOver},
		{"done", rec(schema.PhaseDone), "GEN", errDone},
		{"stopped", rec(schema.PhaseStopped), "GEN", errNotServed},
		{"wire", &wire.Record{Wire: wire.Version + 1, Gen: "GEN", Phase: schema.PhaseRunning}, "GEN", errNotServed},
	} {
		if got := standing(test.rec, test.gen); !errors.Is(got, test.want) || got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// Reads of a silent owner's record become rare, until the owner is heard again.
func TestLooksBecomeRare(t *testing.T) {
	t.Parallel()
	l := new(lane)
	after := func(n int) int64 { return int64(n+1) * 10 }
	l.announced(100, wire.Lane{}, after)
	for _, step := range []struct {
		now  int64
		want bool
	}{{110, false}, {111, true}, {131, false}, {132, true}, {162, false}, {163, true}} {
		if got := l.looksDue(step.now, after); got != step.want {
			t.Errorf("at %d: %v", step.now, got)
		}
	}
	l.announced(200, wire.Lane{}, after)
	if l.looksDue(210, after) || !l.looksDue(211, after) {
		t.Error("an announcement changes nothing")
	}
}

// Markers take the first free place, and the one whose answer was lost is not stored twice.
func TestMarksTakeFreePlaces(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	o := newOwner(t, s, "train", "plain")
	g := newStage(t)
	nc := s.Connect()
	pub := newPublisher(g.now)
	if err := pub.open(nc); err != nil {
		t.Fatal(err)
	}
	store := &store{life: g.life, conns: &conns{control: nc, data: nc}}
	m := &marks{life: g.life, pub: pub, store: store, tally: g.tally}
	l := newLane(g.hard, &wire.Record{Batcher: "train", Gen: o.gen}, &kind.Kind{Name: "plain"}, "")
	j := delivered(l, 1, 1, 1).jobs[0]
	for i, attempt := range []string{"x", "x", "y", "z"} { // the second is the first, said again
		j.attempt = attempt
		m.timeout(t.Context(), j, time.Second, i > 1)
	}
	history, err := m.timeouts(t.Context(), j)
	if err != nil || len(history) != 3 || history[1].Attempt != "y" || convict(history) != nil {
		t.Fatalf("%+v, %v", history, err)
	}
	j.attempt = "u"
	m.timeout(t.Context(), j, time.Second, true)
	if history, err = m.timeouts(t.Context(), j); err != nil || len(history) != 4 {
		t.Fatalf("%+v, %v", history, err)
	}
	var convicted *convictedError
	if err := convict(history); !errors.As(err, &convicted) || convicted.code != schema.CodeJobTimeout {
		t.Fatalf("%v", err)
	}
}
