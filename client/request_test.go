package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

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
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(),
		"no coordinator answers") {
		t.Errorf("%v", err)
	}
	o.listen()
	take(t, b, state, 10)
}

// TestHeadArrivesDuringARequest has a new owner feed the run while the reader waits for the answer of the one before.
func TestHeadArrivesDuringARequest(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	var seats, left int
	o.locked(func() {
		o.silent, o.manual = true, true
		seats, left = len(o.requests), int(o.fed)-3
	})
	state = take(t, b, state, left)
	took := make(chan error, 1)
	go func() {
		_, err := b.Take(deadline(t), state)
		took <- err
	}()
	natstest.Eventually(t, "the reader asks for its seat", func() bool {
		asked := false
		o.locked(func() { asked = len(o.requests) > seats })
		return asked
	})
	o.locked(func() {
		o.fed++
		o.publish(o.batch(o.fed))
	})
	published := time.Now()
	if err := <-took; err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(published); waited > repairTimeout*3/4 {
		t.Errorf("the head was there for %v before it was taken", waited)
	}
}

// TestNewOwnerHearsHowFarItIs has an owner say that it is there while the beat waits for the one before.
func TestNewOwnerHearsHowFarItIs(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 3)
	o.locked(func() { o.silent = true })
	if err := b.r.credits.nc.Flush(); err != nil { // what it said by itself is out
		t.Fatal(err)
	}
	heard, err := o.nc.SubscribeSync(wire.ReaderPrefix + "." + o.name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = heard.Unsubscribe() }()
	if err := o.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	o.notice()
	limit := deadline(t)
	for {
		m, err := heard.NextMsgWithContext(limit)
		if err != nil {
			t.Fatal(err)
		}
		var c wire.Credit
		if err := json.Unmarshal(m.Data, &c); err != nil {
			t.Fatal(err)
		}
		if m.Reply == "" { // a beat wants an answer
			if c.Taken != 3 {
				t.Errorf("%d taken, want 3", c.Taken)
			}
			return
		}
	}
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
	for _, want := range []string{"batch 1 of generation " + o.gens[0], "not committed",
		"no worker serves data set count", "out of patience"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	natstest.Eventually(t, "it is said, once it has stayed true for a while",
		func() bool { return log.has("no worker serves the data set") })
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
	if n := o.count(wire.ModeSeek) + o.count(wire.ModeStart); n != 1 {
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

// TestRequestLargerThanAMessage is not retried: no later attempt can send it.
func TestRequestLargerThanAMessage(t *testing.T) {
	t.Parallel()
	srv := natstest.Run(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })
	_, err := Open[[]byte](deadline(t), srv.Connect(), Config{Name: "train", Dataset: "count",
		Params: map[string]string{"x": strings.Repeat("x", 64<<10)}})
	if !errors.Is(err, ErrBadRequest) || !strings.Contains(err.Error(), "at most 65536") {
		t.Fatalf("%v", err)
	}
}

func TestUnavailableIsAskedAgain(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	refusals := 3
	o.onSeat = func(*wire.SeatRequest) *wire.SeatReply {
		if refusals--; refusals < 0 {
			return nil
		}
		return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeUnavailable, Message: "changing hands"}}
	}
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 2)
	o.locked(func() {
		if len(o.requests) != 5 || o.requests[0].Request != o.requests[3].Request ||
			o.requests[3].Request == o.requests[4].Request {
			t.Errorf("%d requests: %+v", len(o.requests), o.requests)
		}
	})
}

// Stop ends the run here before it asks, and must not take that for the end of its own wait.
func TestStopIsAskedAgain(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 2)
	o.locked(func() { o.refusals = 2 })
	if err := b.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	o.locked(func() {
		if o.rec.Phase != schema.PhaseClosed {
			t.Errorf("phase %v", o.rec.Phase)
		}
	})
}

// TestCloseIsAskedAgain has a coordinator that has just begun wait for the lease of the one before it.
func TestCloseIsAskedAgain(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 2)
	o.locked(func() { o.refusals = 6 }) // which takes longer than Close waits for a first answer
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	o.locked(func() {
		if o.rec.Reader != "" || o.refusals > 0 {
			t.Errorf("reader %q, %d refusals left", o.rec.Reader, o.refusals)
		}
	})
}

// closesSoon closes a batcher of a coordinator that is away.
func closesSoon(t *testing.T, b *Batcher[[]byte]) {
	t.Helper()
	began := time.Now()
	err := b.Close()
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "no coordinator answers") {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > leaveDeaf+leaveDeaf/2 {
		t.Errorf("after %v", took)
	}
}

// TestCloseWithoutACoordinator says that nobody heard of it, and soon: where nobody listens, and where somebody who
// listens does not answer. Pauses between requests are of random length, so that several are closed.
func TestCloseWithoutACoordinator(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*owner){
		"gone":  func(o *owner) { o.quiet() },
		"stuck": func(o *owner) { o.locked(func() { o.mute = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			var all []*Batcher[[]byte]
			for i := range 8 {
				b, _ := setup(t, o, func(c *Config) { c.Name, c.TakeOver = fmt.Sprint("train", i), true })
				all = append(all, b)
			}
			away(o)
			var closing sync.WaitGroup
			for _, b := range all {
				closing.Go(func() { closesSoon(t, b) })
			}
			closing.Wait()
		})
	}
}

func TestPermission(t *testing.T) {
	t.Parallel()
	deny := func(subject string) natstest.Option {
		return func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "service", Password: "service"},
				{Username: "trainer", Password: "trainer", Permissions: &server.Permissions{
					Publish:   &server.SubjectPermission{Deny: []string{subject}},
					Subscribe: &server.SubjectPermission{Deny: []string{subject}},
				}},
			}
		}
	}
	for _, subject := range []string{"jetbatch.coordinator.seat", "jetbatch.reader.>", "jetbatch.live.>",
		"$JS.API.DIRECT.>"} {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			srv := natstest.Run(t, deny(subject))
			o := newOwnerOn(t, srv, nats.UserInfo("service", "service"))
			quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
			b, err := Open[[]byte](deadline(t), srv.Connect(nats.UserInfo("trainer", "trainer"), quiet), Config{Name: o.name,
				Dataset: "count"})
			if err == nil {
				defer b.Close()
				o.locked(func() { o.manual = true })
				_, err = b.Take(deadline(t), schema.State{})
			}
			var denied *schema.PermissionError
			if !errors.As(err, &denied) || !errors.Is(err, ErrPermission) || !strings.HasPrefix(denied.Subject,
				strings.TrimRight(subject, ">")) {
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
		"idle for long": func(c *Config) { c.IdleTimeout = 30*24*time.Hour + 1 },
		"on error":      func(c *Config) { c.OnError = 7 },
		"no parameters": func(c *Config) { c.Params = func() {} },
	} {
		cfg := good
		change(&cfg)
		if _, err := cfg.resolve(true); !errors.Is(err, ErrBadConfig) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := good.resolve(true); err != nil {
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

func TestLoneWorker(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.workers = 1
	b, log := setup(t, o, nil)
	take(t, b, schema.State{}, 1)
	o.notice()
	natstest.Eventually(t, "it is said", func() bool { return log.has("only one worker") })
}

func TestJobErrorSaysWhere(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]JobError{
		"batcher train: data set ecg: batch 3 on w1 after 5 attempts: materialization failed": {Seq: 3, Worker: "w1", Attempts: 5},
		"batcher train: data set ecg: materialization failed":                                 {}, // before any batch
	} {
		if e.Dataset, e.Batcher, e.Code = "ecg", "train", schema.CodeMaterialize; !strings.HasPrefix(e.Error(), want) {
			t.Errorf("%q, want %q", e.Error(), want)
		}
	}
}

func TestJobErrorMatchesItsCodeOnly(t *testing.T) {
	t.Parallel()
	for code, sentinel := range sentinels {
		err := error(&JobError{Dataset: "count", Batcher: "train", Seq: 3, Code: code, Message: io.EOF.Error()})
		if !errors.Is(err, sentinel) || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", code, err)
		}
		for other, not := range sentinels {
			if other != code && errors.Is(err, not) {
				t.Errorf("%s matches %v", code, not)
			}
		}
	}
}

func TestRequestIdsGrow(t *testing.T) {
	t.Parallel()
	a := new(asker)
	if err := a.last.SetTime(uint64(time.Now().Add(time.Hour).UnixMilli())); err != nil { // then the clock was set back
		t.Fatal(err)
	}
	last := a.last.String()
	for range 100 {
		id := a.newID()
		if id <= last {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
}

// A seat with a coordinator of another wire version is none: what its workers store would look damaged.
func TestCoordinatorOfAnotherWireVersion(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.foreign = true
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	cfg := Config{Name: o.name, Dataset: "count", Logger: slog.New(slog.DiscardHandler)}
	_, err := Open[[]byte](short, o.srv.Connect(), cfg)
	says := fmt.Sprintf("coordinator speaks wire version 1 and this trainer %d", wire.Version)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), says) {
		t.Fatalf("%v", err)
	}
	o.locked(func() { o.foreign = false }) // replaced
	b, _ := setup(t, o, func(cfg *Config) { cfg.TakeOver = true })
	take(t, b, schema.State{}, 3)
}

// The warning that no worker serves a data set says why those that have it do not.
func TestNoWorkerIsSaidWithItsReason(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	take(t, b, schema.State{}, 1)
	const why = "no worker can make batches of data set count: b: cannot open count: no such folder /data (1 of 1 worker)"
	o.locked(func() { o.workers, o.trouble = 0, why })
	natstest.Eventually(t, "the warning has the reason", func() bool {
		return log.has("no worker serves the data set") && log.has(why)
	})
}

// While a batch does not come, the wait says what became of its job so far, as the workers left it in the store.
func TestWaitSaysWhatBecameOfTheJob(t *testing.T) {
	t.Parallel()
	slow := func(worker string) any {
		return wire.TimeoutMark{Worker: worker, Attempt: worker, After: 10 * time.Minute, Alone: true}
	}
	failed := wire.FailureMark{Worker: "a", Text: "bad\x1b[31m sample\n5"}
	for name, c := range map[string]struct {
		timeouts, failures []any
		want               string
	}{
		"deadlines": {[]any{slow("a"), slow("b")}, nil, "; its job ran into its deadline of 10m twice, on a, b"},
		"a failure": {nil, []any{failed}, "; its job failed on worker a and waits for another: bad"},
		"both":      {[]any{slow("a")}, []any{failed}, "; its job ran into its deadline of 10m once, on a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			o.manual = true
			b, _ := setup(t, o, nil)
			if err := b.Start(t.Context(), schema.State{}); err != nil {
				t.Fatal(err)
			}
			mark := func(at func(batcher, gen string, seq uint64, k int) string, marks []any) {
				for i, m := range marks {
					body, err := json.Marshal(m)
					if err != nil {
						t.Fatal(err)
					}
					o.store(at(o.name, o.gens[0], 1, i+1), body)
				}
			}
			mark(wire.TimeoutSubject, c.timeouts)
			mark(wire.FailureSubject, c.failures)
			short, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
			defer cancel()
			_, err := b.Take(short, schema.State{})
			var wait *WaitError
			if !errors.As(err, &wait) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%v", err)
			}
			told := false
			o.locked(func() {
				for _, c2 := range o.credits {
					told = told || strings.Contains(c2.Waiting, c.want)
				}
			})
			if !told {
				t.Error("the owner, and so the status, is not told")
			}
			o.locked(func() {
				o.manual = false
				o.feed()
			})
			take(t, b, schema.State{}, 1)
		})
	}
}
