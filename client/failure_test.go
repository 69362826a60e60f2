package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

// failAt makes a worker fail at one position.
func failAt(at uint64, code string) func(*owner, uint64) (*schema.Result, []byte) {
	return func(o *owner, seq uint64) (*schema.Result, []byte) {
		res, payload := o.batch(seq)
		if seq != at {
			return res, payload
		}
		res.Kind, res.Next, res.Size = schema.KindError, nil, 0
		res.Fault = &schema.Fault{Code: code, Message: "EOF", Stack: "goroutine 1", Attempts: 5}
		return res, nil
	}
}

func TestFailFast(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.window, o.make = 6, failAt(6, schema.CodeMaterialize)
	b, _ := setup(t, o, nil)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the error is here", func() bool {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		_, ok := b.r.buf.FirstError()
		return ok
	})
	_, err := b.Take(deadline(t), schema.State{})
	var job *JobError
	if !errors.As(err, &job) || errors.Is(err, io.EOF) || !errors.Is(err, ErrMaterialize) || errors.Is(err, ErrPoisonJob) {
		t.Fatalf("%v", err)
	}
	want := JobError{Dataset: "count", Batcher: "train", Gen: o.gens[0], Seq: 6, Worker: "w1", Attempts: 5, Message: "EOF", Stack: "goroutine 1", Code: schema.CodeMaterialize}
	if *job != want {
		t.Errorf("got %+v, want %+v", *job, want)
	}
	if _, again := b.Take(deadline(t), stateOf(3)); again != err {
		t.Errorf("the failure does not stay: %v", again)
	}
	if s, err := b.Status(deadline(t)); err != nil || s.Phase != schema.PhaseFailed {
		t.Errorf("status %+v, %v", s, err)
	}
	natstest.Eventually(t, "the owner was told", func() (told bool) {
		o.locked(func() { told = o.rec.Phase == schema.PhaseFailed && o.rec.Error.Seq == 6 })
		return told
	})
	// Start begins anew.
	o.locked(func() { o.make = nil })
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	take(t, b, schema.State{}, 10)
	if len(o.gens) != 2 {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestErrorInOrder(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.window, o.make = 6, failAt(6, schema.CodePoison)
	b, _ := setup(t, o, func(c *Config) { c.OnError = InOrder })
	state := take(t, b, schema.State{}, 5)
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrPoisonJob) {
		t.Fatalf("%v", err)
	}
	if err := b.Stop(deadline(t)); !errors.Is(err, ErrPoisonJob) {
		t.Errorf("Stop does not tell of the failure: %v", err)
	}
	if err := b.Stop(deadline(t)); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrStopped) {
		t.Errorf("after Stop: %v", err)
	}
}

func TestVerdictNeedsTheRecord(t *testing.T) {
	t.Parallel()
	for _, kind := range []schema.Kind{schema.KindEnd, schema.KindError} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			forged := false
			o.make = func(o *owner, seq uint64) (*schema.Result, []byte) {
				res, payload := o.batch(seq)
				if seq != 3 || forged {
					return res, payload
				}
				forged = true
				res.Kind, res.Next, res.Size = kind, nil, 0
				if kind == schema.KindError {
					res.Fault = &schema.Fault{Code: schema.CodeIterator, Message: "not so"}
				}
				return res, nil
			}
			b, log := setup(t, o, nil)
			take(t, b, schema.State{}, 8) // by a new generation: the forged record is stored
			if !log.has("is not in the batcher's record") {
				t.Error("not logged")
			}
		})
	}
}

func TestIteratorError(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*schema.Result, []byte) {
		res, payload := o.batch(seq)
		if seq != 3 {
			return res, payload
		}
		res.Kind, res.Next, res.Size, res.Worker = schema.KindError, nil, 0, "owner"
		res.Fault = &schema.Fault{Code: schema.CodeIteratorStalled, Message: "Next took 10 s"}
		o.verdict(seq, res.Fault)
		return res, nil
	}
	b, _ := setup(t, o, func(c *Config) { c.OnError = InOrder })
	state := take(t, b, schema.State{}, 2)
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrIteratorStalled) {
		t.Fatalf("%v", err)
	}
}

func TestBrokenChain(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*schema.Result, []byte) {
		res, payload := o.batch(seq)
		if len(o.gens) == 1 && seq == 4 {
			res.Prev = stateOf(77).Data
		}
		return res, payload
	}
	b, log := setup(t, o, nil)
	take(t, b, schema.State{}, 10)
	if len(o.gens) != 2 || !log.has("does not follow") {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestDigestMismatch(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 3 * schema.ChunkSize} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			o.make = func(o *owner, seq uint64) (*schema.Result, []byte) {
				n := o.base + seq - 1
				res, payload := result(seq, n, large(n, size))
				if len(o.gens) == 1 && seq == 3 {
					res.Digest[0]++
				}
				return res, payload
			}
			b, log := setup(t, o, nil)
			take(t, b, schema.State{}, 6)
			if len(o.gens) != 2 || !log.has("digest") {
				t.Errorf("%d generations", len(o.gens))
			}
		})
	}
}

func TestDamageThatStays(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*schema.Result, []byte) {
		res, payload := o.batch(seq)
		res.Digest[0]++
		return res, payload
	}
	b, _ := setup(t, o, nil)
	if _, err := b.Take(deadline(t), schema.State{}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%v", err)
	}
}

func TestChunkLostThenMadeAgain(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual = true
	b, _ := setup(t, o, nil)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	o.locked(func() {
		// Position 1 keeps the reader from fetching 2 before its chunks are gone.
		res, payload := result(2, 1, large(1, 3<<20))
		res.Chunks = 6
		body, err := schema.AppendResult(nil, res, payload)
		if err != nil {
			t.Fatal(err)
		}
		subject := schema.ResultSubject(o.name, o.rec.Gen, 2)
		o.store(subject, body) // without chunks: an attempt whose chunks were removed
	})
	natstest.Eventually(t, "the record is dropped again", func() bool {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		return b.r.buf.Len() == 0
	})
	o.locked(func() {
		o.erase(schema.ResultSubject(o.name, o.rec.Gen, 2))
		o.publish(result(2, 1, large(1, 3<<20)))
		o.publish(result(1, 0, content(0)))
	})
	take(t, b, schema.State{}, 2)
	if len(o.gens) != 1 {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestStoreLost(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() {
		stream := "jetbatch-results-train-" + o.rec.Gen
		if err := o.js.DeleteStream(t.Context(), stream); err != nil {
			t.Error(err)
		}
	})
	// The owner notices nothing; the reader does.
	take(t, b, state, 20)
	if len(o.gens) != 2 || !log.has(errStoreGone.Error()) {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	o := newOwnerOn(t, srv)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	srv.Restart()
	natstest.Eventually(t, "the owner is back", o.nc.IsConnected)
	take(t, b, state, 20)
}

func TestOwnerMovesOn(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() { // as after a lost store: a new generation for the same reader
		o.rec.Seat++
		o.begin(1)
		o.rec.Taken = 0
		o.feed()
	})
	o.notice()
	natstest.Eventually(t, "the reader knows", func() bool {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		return b.r.doubt != ""
	})
	take(t, b, state, 10)
	if len(o.gens) != 2 || !log.has("the owner moved on") {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestLeaseRanOut(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() { o.rec.Reader = ""; o.rec.Seat++ })
	o.notice()
	natstest.Eventually(t, "the reader knows", func() bool {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		return b.r.doubt != ""
	})
	take(t, b, state, 10)
	if len(o.gens) != 1 {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestRecordGone(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() {
		o.quiet()
		o.rec = schema.Record{Batcher: o.name, Phase: schema.PhaseStopped, Reader: o.rec.Reader}
	})
	o.listen()
	take(t, b, state, 10)
}

func TestOwnerAwayForAWhile(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.quiet()
	short, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var err error
	for err == nil {
		var step Step[[]byte]
		if step, err = b.Take(short, state); err == nil {
			state = step.Next
		}
	}
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no coordinator answers") {
		t.Errorf("%v", err)
	}
	o.listen()
	take(t, b, state, 10)
}

func TestSuperseded(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	if _, err := Open[[]byte](deadline(t), o.srv.Connect(), Config{Name: o.name, Dataset: "count"}); !errors.Is(err, ErrInUse) {
		t.Fatalf("second Open: %v", err)
	}
	second, _ := setup(t, o, func(c *Config) { c.TakeOver = true })
	state = take(t, second, state, 3)
	o.notice()
	natstest.Eventually(t, "the first one knows", func() bool {
		_, err := b.Take(deadline(t), stateOf(0))
		return errors.Is(err, ErrSuperseded)
	})
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrSuperseded) {
		t.Errorf("not for good: %v", err)
	}
	if err := b.Stop(deadline(t)); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Stop: %v", err)
	}
	take(t, second, state, 5)
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	take(t, second, state, 5)
}

func TestWaitNamesWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual, o.workers = true, 0
	b, log := setup(t, o, nil)
	short, cancel := context.WithTimeoutCause(t.Context(), 2500*time.Millisecond, errors.New("out of patience"))
	defer cancel()
	_, err := b.Take(short, schema.State{})
	var wait *WaitError
	if !errors.As(err, &wait) || !errors.Is(err, ErrUnavailable) || wait.Waited < time.Second {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"batch 1 of generation " + o.gens[0], "not committed", "no worker serves data set count", "out of patience"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if !log.has("no worker serves") {
		t.Error("no warning")
	}
	late := false
	o.locked(func() {
		for _, c := range o.credits {
			late = late || c.Late && strings.Contains(c.Waiting, "batch 1")
		}
	})
	if !late {
		t.Error("the owner was not asked to look")
	}
	// Nothing is lost: the next Take goes on, on the same seat.
	o.locked(func() { o.manual = false; o.feed() })
	take(t, b, schema.State{}, 3)
	if n := o.count(schema.ModeSeek) + o.count(schema.ModeStart); n != 1 {
		t.Errorf("%d seats", n)
	}
}

func TestNoCoordinator(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Open[[]byte](short, srv.Connect(), Config{Name: "train", Dataset: "count"})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "no coordinator answers") {
		t.Fatalf("%v", err)
	}
}

func TestUnavailableIsAskedAgain(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	refusals := 3
	o.onSeat = func(*schema.SeatRequest) *schema.SeatReply {
		if refusals--; refusals < 0 {
			return nil
		}
		return &schema.SeatReply{Fault: &schema.Fault{Code: schema.CodeUnavailable, Message: "changing hands"}}
	}
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 2)
	o.locked(func() {
		if len(o.requests) != 5 || o.requests[0].Request != o.requests[3].Request || o.requests[3].Request == o.requests[4].Request {
			t.Errorf("%d requests: %+v", len(o.requests), o.requests)
		}
	})
}

func TestStopWhileTaking(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual = true
	b, _ := setup(t, o, nil)
	got := make(chan error)
	go func() {
		_, err := b.Take(deadline(t), schema.State{})
		got <- err
	}()
	natstest.Eventually(t, "Take waits", func() bool {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		return b.r.sess != nil
	})
	if err := b.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, ErrStopped) {
		t.Fatalf("%v", err)
	}
	for range 2 {
		if err := b.Stop(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	o.locked(func() { o.manual = false })
	if err := b.Start(deadline(t), stateOf(4)); err != nil {
		t.Fatal(err)
	}
	take(t, b, stateOf(4), 5)
}

func TestStoppedByAnother(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() { o.rec.Phase = schema.PhaseClosed })
	o.notice()
	natstest.Eventually(t, "Take says so", func() bool {
		step, err := b.Take(deadline(t), state)
		if err == nil {
			state = step.Next
		}
		return errors.Is(err, ErrStopped)
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual = true
	b, _ := setup(t, o, nil)
	got := make(chan error)
	go func() {
		_, err := b.Take(deadline(t), schema.State{})
		got <- err
	}()
	natstest.Eventually(t, "Take waits", func() bool {
		b.r.mu.Lock()
		defer b.r.mu.Unlock()
		return b.r.sess != nil
	})
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Fatalf("%v", err)
	}
	o.locked(func() {
		if o.rec.Reader != "" || o.rec.Phase != schema.PhaseRunning {
			t.Errorf("reader %q, phase %s", o.rec.Reader, o.rec.Phase)
		}
	})
	_, err := b.Take(deadline(t), schema.State{})
	_, statusErr := b.Status(deadline(t))
	for _, err := range []error{err, statusErr, b.Start(deadline(t), schema.State{}), b.Stop(deadline(t))} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	// What was left running is joined, not made again.
	o.locked(func() { o.manual = false })
	second, _ := setup(t, o, nil)
	take(t, second, schema.State{}, 5)
	if len(o.gens) != 1 {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestPermission(t *testing.T) {
	t.Parallel()
	deny := func(subject string) natstest.Option {
		return func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "service", Password: "service"},
				{Username: "trainer", Password: "trainer", Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Deny: []string{subject}}, Subscribe: &server.SubjectPermission{Deny: []string{subject}},
				}},
			}
		}
	}
	for _, subject := range []string{"jetbatch.coordinator.seat", "jetbatch.reader.>", "jetbatch.live.>", "$JS.API.DIRECT.>"} {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Run(t, deny(subject))
			o := newOwnerOn(t, srv, nats.UserInfo("service", "service"))
			quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
			b, err := Open[[]byte](deadline(t), srv.Connect(nats.UserInfo("trainer", "trainer"), quiet), Config{Name: o.name, Dataset: "count"})
			if err == nil {
				defer b.Close()
				o.locked(func() { o.manual = true })
				_, err = b.Take(deadline(t), schema.State{})
			}
			var denied *PermissionError
			if !errors.As(err, &denied) || !errors.Is(err, ErrPermission) || !strings.HasPrefix(denied.Subject, strings.TrimRight(subject, ">")) {
				t.Fatalf("%v", err)
			}
		})
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	good := Config{Name: "train", Dataset: "count"}
	for what, change := range map[string]func(*Config){
		"no name":       func(c *Config) { c.Name = "" },
		"dotted name":   func(c *Config) { c.Name = "a.b" },
		"wildcard":      func(c *Config) { c.Dataset = "*" },
		"window":        func(c *Config) { c.Window = -1 },
		"window bytes":  func(c *Config) { c.WindowBytes = -1 },
		"retain":        func(c *Config) { c.Retain = -2 },
		"idle timeout":  func(c *Config) { c.IdleTimeout = -1 },
		"on error":      func(c *Config) { c.OnError = 7 },
		"no parameters": func(c *Config) { c.Params = func() {} },
	} {
		cfg := good
		change(&cfg)
		if _, err := cfg.resolve(); !errors.Is(err, ErrBadConfig) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := good.resolve(); err != nil {
		t.Error(err)
	}
}

func TestDecodeError(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, err := Open[struct{ X []int }](deadline(t), o.srv.Connect(), Config{Name: o.name, Dataset: "count"})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Take(deadline(t), schema.State{}); !errors.Is(err, ErrDecode) || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}
