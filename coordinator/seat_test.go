package coordinator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestOpenThenStart(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	opened := r.must(wire.ModeOpen, schema.State{})
	if opened.Phase != schema.PhaseStopped || opened.Gen != "" || opened.Seat == 0 {
		t.Fatalf("opened: %+v", opened)
	}
	if s := r.status(); s.Phase != schema.PhaseStopped || s.Reader != r.id || s.Fed != 0 {
		t.Fatalf("status: %+v", s)
	}
	started := r.must(wire.ModeStart, schema.State{})
	if !started.State.Equal(at(0)) || started.Position != 1 || started.Seat <= opened.Seat || started.Held {
		t.Fatalf("started: %+v", started)
	}
	// Nothing is known of the batches' size, so there is one in flight, whatever the window.
	r.waitJobs(1, 1)
	r.work(1)
	if s := r.status(); s.Fed != 1 || s.Window != 1 {
		t.Fatalf("status before the first batch was taken: %+v", s)
	}
	r.bytes = 8
	if got := r.credit(1); got.Window != 8 || got.Phase != schema.PhaseRunning || got.Reader != r.id {
		t.Fatalf("credit: %+v", got)
	}
	r.waitJobs(2, 9)
	if s := r.status(); s.Fed != 9 || s.Taken != 1 || s.BatchBytes != 8 {
		t.Fatalf("status: %+v", s)
	}
}

func TestSeekLooksUp(t *testing.T) {
	c := setup(t)
	h := new(hooks)
	c.coordinate(coordinator.Config{}, h)
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(3)
	r.waitJobs(4, 11)
	gen, calls := r.reply.Gen, h.calls.Load()

	forward := r.must(wire.ModeSeek, at(7))
	if !forward.Held || forward.Gen != gen || forward.Position != 8 || !forward.State.Equal(at(7)) {
		t.Fatalf("forward: %+v", forward)
	}
	r.waitJobs(8, 15) // what was skipped is cancelled, and the window moved
	if n := h.calls.Load() - calls; n != 4 {
		t.Fatalf("Next ran %d times for four more jobs", n)
	}

	back := r.must(wire.ModeSeek, at(1))
	if !back.Held || back.Gen != gen || back.Position != 2 || back.Seat <= forward.Seat {
		t.Fatalf("back: %+v", back)
	}
	// Results 2 and 3 are there; 4 to 7 were cancelled and are wanted again, no further than the window.
	r.waitJobs(4, 15)
	if done := r.work(12); done[0] < 4 {
		t.Fatalf("done again: %v", done)
	}
	if h.calls.Load()-calls != 4 {
		t.Fatal("a look-up iterates nothing")
	}
	if s := r.status(); s.Taken != 1 {
		t.Fatalf("status: %+v", s)
	}
}

func TestSkippedJobsBeyondTheWindowComeBack(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(1)
	for i := range 3 { // skip over three windows
		r.waitJobs(uint64(2+8*i), uint64(9+8*i))
		r.must(wire.ModeSeek, at(9+8*i))
	}
	r.waitJobs(26, 33)
	r.must(wire.ModeSeek, at(1))
	defer func() {
		if t.Failed() {
			t.Logf("jobs %v, results %v, status %+v", r.jobs(), r.results(), r.status())
		}
	}()
	for seq := uint64(2); seq <= 33; seq++ { // without a word about a late head
		natstest.Eventually(t, fmt.Sprintf("batch %d is there", seq), func() bool {
			r.work(len(r.jobs()))
			_, ok := r.result(seq)
			return ok
		})
		r.credit(seq)
	}
}

func TestSeekBeginsANewGeneration(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(1)
	before := r.reply
	got := r.must(wire.ModeSeek, at(1000))
	if got.Held || got.Gen == before.Gen || got.Position != 1 || got.Seat <= before.Seat || !got.State.Equal(at(1000)) {
		t.Fatalf("got %+v", got)
	}
	r.waitJobs(1, 8)
	natstest.Eventually(t, "the old generation is deleted", func() bool { return !c.stored(r.name, before.Gen) })
	// A start is always a new generation, a held state or not.
	if again := r.must(wire.ModeStart, at(1000)); again.Gen == got.Gen || again.Held {
		t.Fatalf("started again: %+v", again)
	}
}

func TestRepeatedRequests(t *testing.T) {
	c := setup(t)
	h := new(hooks)
	c.coordinate(coordinator.Config{}, h)
	r := c.reader("train")
	r.must(wire.ModeOpen, schema.State{})
	start := r.request(wire.ModeStart, at(0))
	first := r.try(start)
	if again := r.try(start); again.Gen != first.Gen || again.Seat != first.Seat || again.Position != 1 || !again.State.Equal(first.State) {
		t.Fatalf("answered %+v, then %+v", first, again)
	}
	r.must(wire.ModeSeek, at(5))
	expectFault(t, r.try(start).Fault, schema.CodeSuperseded)

	t.Run("after a stop", func(t *testing.T) {
		start := r.request(wire.ModeStart, at(0))
		r.try(start)
		r.stop(false)
		expectFault(t, r.try(start).Fault, schema.CodeSuperseded)
		if s := r.status(); s.Phase != schema.PhaseClosed {
			t.Fatalf("status: %+v", s)
		}
	})
	t.Run("after a failure", func(t *testing.T) {
		start := r.request(wire.ModeStart, at(0))
		r.try(start)
		r.credit(0, func(c *wire.Credit) { c.Failed = &schema.Fault{Code: schema.CodeMaterialize, Seq: 1} })
		expectFault(t, r.try(start).Fault, schema.CodeMaterialize)
	})
}

// A reader whose process has ended is not waited for. Who says so has its secret, which nobody else has.
func TestReaderThatEnded(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{ReaderLease: time.Hour}, new(hooks))
	r := c.reader("train")
	r.run(1)
	next := c.reader("train")
	open := next.request(wire.ModeOpen, schema.State{})
	for _, guess := range []string{r.id, next.secret, wire.NewSecret()} {
		open.Ended = guess
		expectFault(t, next.try(open).Fault, schema.CodeInUse)
	}
	open.Ended = r.secret
	if got := next.try(open); got.Fault != nil || got.Gen != r.reply.Gen || got.Seat <= r.reply.Seat {
		t.Fatalf("seat: %+v", got)
	}
	if got := next.must(wire.ModeSeek, at(1)); !got.Held {
		t.Fatalf("the run goes on: %+v", got)
	}
	open = r.request(wire.ModeOpen, schema.State{})
	open.Ended = r.secret
	expectFault(t, r.try(open).Fault, schema.CodeInUse)
}

func TestOneReader(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(1)
	r.waitJobs(2, 9)

	other := c.reader("train")
	expectFault(t, other.try(other.request(wire.ModeOpen, schema.State{})).Fault, schema.CodeInUse)
	expectFault(t, other.try(other.request(wire.ModeSeek, at(0))).Fault, schema.CodeSuperseded)
	differs := other.request(wire.ModeOpen, schema.State{})
	differs.Spec.Params, differs.TakeOver = []byte(`{"shift":1}`), true
	expectFault(t, other.try(differs).Fault, schema.CodeSpecMismatch)
	expectFault(t, other.stop(false).Fault, schema.CodeSuperseded)

	over := other.request(wire.ModeOpen, schema.State{})
	over.TakeOver = true
	if got := other.try(over); got.Fault != nil || got.Gen != r.reply.Gen || got.Seat <= r.reply.Seat {
		t.Fatalf("taken over: %+v", got)
	}
	if got := r.credit(4); got.Reader != other.id {
		t.Fatalf("the first reader hears %+v", got)
	}
	if s := r.status(); s.Taken != 1 {
		t.Fatalf("a displaced reader moved the window: %+v", s)
	}
	expectFault(t, r.try(r.request(wire.ModeSeek, at(0))).Fault, schema.CodeSuperseded)
	if got := other.must(wire.ModeSeek, at(1)); !got.Held {
		t.Fatalf("the run goes on: %+v", got)
	}
	if got := other.credit(2, func(c *wire.Credit) { c.Seat-- }); got.Seat != other.reply.Seat || r.status().Taken != 1 {
		t.Fatal("a credit of an old seat moved the window")
	}
}

func TestSilentReader(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{ReaderLease: time.Nanosecond}, new(hooks))
	r := c.reader("train")
	r.run(1)
	other := c.reader("train")
	if got := other.must(wire.ModeOpen, schema.State{}); got.Phase != schema.PhaseRunning || got.Gen != r.reply.Gen {
		t.Fatalf("opened after the lease: %+v", got)
	}
	// With other parameters it is another run, and says so.
	third := c.reader("train")
	third.params = []byte(`{"shift":1}`)
	if got := third.must(wire.ModeOpen, schema.State{}); got.Phase != schema.PhaseStopped || got.Gen != "" || len(got.Warnings) != 1 {
		t.Fatalf("opened with other parameters: %+v", got)
	}
	natstest.Eventually(t, "the old generation is deleted", func() bool { return !c.stored(r.name, r.reply.Gen) })
}

func TestStop(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(2)
	gen := r.reply.Gen
	for range 2 {
		if got := r.stop(false); got.Fault != nil || got.Error != nil {
			t.Fatalf("stop: %+v", got)
		}
	}
	if s := r.status(); s.Phase != schema.PhaseClosed || s.Gen != "" {
		t.Fatalf("status: %+v", s)
	}
	natstest.Eventually(t, "the generation is deleted", func() bool { return !c.stored(r.name, gen) })

	other := c.reader("train") // need not wait for the lease of a reader that stopped
	other.start(5)
	if got := other.stop(true); got.Fault != nil {
		t.Fatalf("leave: %+v", got)
	}
	if s := other.status(); s.Phase != schema.PhaseRunning || s.Reader != "" {
		t.Fatalf("after leaving: %+v", s)
	}
	third := c.reader("train")
	third.must(wire.ModeOpen, schema.State{})
	if got := third.must(wire.ModeSeek, at(5)); !got.Held || got.Gen != other.reply.Gen {
		t.Fatalf("the run that was left goes on: %+v", got)
	}
}

// TestLastWord records how far the trainer came, although no credit was heard before it ended its seat.
func TestLastWord(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	fed := func(s schema.Status) bool { return s.Fed > 0 }
	end := func(leave bool, gen string, seat uint64) {
		t.Helper()
		req := wire.StopRequest{
			Batcher: r.name, Request: ulid.Make().String(), Reader: r.id, Secret: r.secret, Leave: leave,
			Last: &wire.Credit{Gen: gen, Seat: seat, Reader: r.id, Taken: 1},
		}
		if got := ask[wire.StopReply](c, "stop", req); got.Fault != nil {
			t.Fatalf("%+v", got)
		}
	}
	expect := func(taken uint64) {
		t.Helper()
		if rec, _ := r.record(); rec.Taken != taken {
			t.Errorf("%d taken, as the record has it; want %d", rec.Taken, taken)
		}
		if s := r.status(); s.Taken != taken {
			t.Errorf("%d taken, says the owner; want %d", s.Taken, taken)
		}
	}
	r.run(0)
	r.wait("the first job is out", fed)
	end(true, r.reply.Gen, r.reply.Seat)
	expect(1)

	r.run(0) // anew
	r.wait("the first job is out", fed)
	end(true, r.reply.Gen, r.reply.Seat-1)
	expect(0)

	r.run(0)
	r.wait("the first job is out", fed)
	end(false, r.reply.Gen, r.reply.Seat)
	expect(1)
}

func TestRefusals(t *testing.T) {
	c := setup(t)
	h := &hooks{
		open: func(p params) error {
			switch p.Shift {
			case 7:
				return errors.New("no such bucket")
			case 8:
				panic("bad index")
			}
			return nil
		},
		start: func() error { return errors.New("no listing") },
	}
	c.coordinate(coordinator.Config{}, h)
	for name, test := range map[string]struct {
		change func(*wire.SeatRequest)
		code   string
		says   string
	}{
		"unknown data set": {
			func(q *wire.SeatRequest) { q.Spec.Dataset = "lost" }, schema.CodeUnknownDataset, "only count@1",
		},
		"bad name":          {func(q *wire.SeatRequest) { q.Batcher = "a.b" }, schema.CodeBadRequest, "a.b"},
		"unknown mode":      {func(q *wire.SeatRequest) { q.Mode = "stand" }, schema.CodeBadRequest, "stand"},
		"unknown parameter": {func(q *wire.SeatRequest) { q.Spec.Params = []byte(`{"m":1}`) }, schema.CodeBadParams, `"m"`},
		"open fails":        {func(q *wire.SeatRequest) { q.Spec.Params = []byte(`{"shift":7}`) }, schema.CodeBadParams, "no such bucket"},
		"open panics":       {func(q *wire.SeatRequest) { q.Spec.Params = []byte(`{"shift":8}`) }, schema.CodeIterator, "bad index"},
		"another data set":  {func(q *wire.SeatRequest) { q.State.Dataset = "other" }, schema.CodeWrongState, "other"},
		"another version":   {func(q *wire.SeatRequest) { q.State.Version = 2 }, schema.CodeWrongState, "version 2"},
		"Start fails":       {func(q *wire.SeatRequest) { q.State = schema.State{} }, schema.CodeIterator, "no listing"},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.reader("r" + strings.ToLower(ulid.Make().String()))
			req := r.request(wire.ModeStart, at(0))
			test.change(&req)
			got := r.try(req)
			expectFault(t, got.Fault, test.code)
			if !strings.Contains(got.Fault.Message, test.says) {
				t.Fatalf("%q does not say %q", got.Fault.Message, test.says)
			}
		})
	}
	t.Run("not a request", func(t *testing.T) {
		m, err := c.nc.Request(wire.CoordinatorPrefix+".seat", []byte("{"), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var got wire.SeatReply
		if err := json.Unmarshal(m.Data, &got); err != nil {
			t.Fatal(err)
		}
		expectFault(t, got.Fault, schema.CodeBadRequest)
	})
	t.Run("no such batcher", func(t *testing.T) {
		expectFault(t, ask[wire.StatusReply](c, "status", wire.StatusRequest{Batcher: "nobody"}).Fault, schema.CodeStopped)
		expectFault(t, ask[wire.StopReply](c, "stop", c.reader("nobody").stopRequest(false)).Fault, schema.CodeStopped)
	})
}

// TestConcurrentFirstRequests finds a record between its creation and its actor, which made a second actor of it.
func TestConcurrentFirstRequests(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	req := r.request(wire.ModeStart, at(0))
	data, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	const n, apart = 16, 4
	for i := range n {
		if i < apart {
			data = append(data, ' ') // which keeps it from joining the one before
		}
		if err := c.nc.PublishRequest(wire.CoordinatorPrefix+".seat", sub.Subject, data); err != nil {
			t.Fatal(err)
		}
	}
	for left := n; left > 0; {
		m, err := sub.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var got wire.SeatReply
		if err := json.Unmarshal(m.Data, &got); err != nil {
			t.Fatal(err)
		}
		if got.Fault != nil && got.Fault.Code == schema.CodeUnavailable { // JetStream was slow: ask again, as a client does
			if err := c.nc.PublishRequest(wire.CoordinatorPrefix+".seat", sub.Subject, data); err != nil {
				t.Fatal(err)
			}
			continue
		}
		left--
		if got.Fault != nil || r.reply.Gen != "" && got.Gen != r.reply.Gen {
			t.Fatalf("got %+v, %+v before", got, r.reply)
		}
		r.reply = got
	}
}
