package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// failAt makes a worker fail at one position.
func failAt(at uint64, code string) func(*owner, uint64) (*wire.Result, []byte) {
	return func(o *owner, seq uint64) (*wire.Result, []byte) {
		res, payload := o.batch(seq)
		if seq != at {
			return res, payload
		}
		res.Kind, res.Next, res.Size = wire.KindError, nil, 0
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
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		_, ok := b.r.line.buf.FirstError()
		return ok
	})
	_, err := b.Take(deadline(t), schema.State{})
	var job *JobError
	if !errors.As(err, &job) || errors.Is(err, io.EOF) || !errors.Is(err, ErrMaterialize) || errors.Is(err, ErrPoisonJob) {
		t.Fatalf("%v", err)
	}
	want := JobError{Dataset: "count", Batcher: "train", Gen: o.gens[0], Seq: 6, Worker: "w1", Attempts: 5,
		Message: "EOF", Stack: "goroutine 1", Code: schema.CodeMaterialize}
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

// stopsTwice stops a batcher, first with a context that has ended: the Stop that the owner answers returns the run's
// error, and the next one does not.
func stopsTwice(t *testing.T, b *Batcher[[]byte], want error) {
	t.Helper()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Stop(over); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a Stop that is cut short: %v", err)
	}
	if err := b.Stop(deadline(t)); !errors.Is(err, want) {
		t.Errorf("the Stop after it: %v, want %v", err, want)
	}
	if err := b.Stop(deadline(t)); err != nil {
		t.Errorf("one more: %v", err)
	}
}

func TestStopThatWasCutShort(t *testing.T) {
	t.Parallel()
	failed := &schema.Fault{Code: schema.CodeMaterialize}
	for name, fail := range map[string]func(*owner, *Batcher[[]byte]) error{
		"job": func(_ *owner, b *Batcher[[]byte]) error {
			return b.r.run.blame(b.r.cfg.faultError(failed), failed)
		},
		"no job":              func(_ *owner, b *Batcher[[]byte]) error { return b.r.run.blame(ErrCorrupt, nil) },
		"known to owner only": func(o *owner, _ *Batcher[[]byte]) error { o.rec.Error = failed; return ErrMaterialize },
		"end":                 func(_ *owner, b *Batcher[[]byte]) error { _ = b.r.run.finish(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			b, _ := setup(t, o, nil)
			take(t, b, schema.State{}, 1)
			var want error
			o.locked(func() { want = fail(o, b) })
			stopsTwice(t, b, want)
		})
	}
}

func TestVerdictNeedsTheRecord(t *testing.T) {
	t.Parallel()
	for _, kind := range []wire.Kind{wire.KindEnd, wire.KindError} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			forged := false
			o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
				res, payload := o.batch(seq)
				if seq != 3 || forged {
					return res, payload
				}
				forged = true
				res.Kind, res.Next, res.Size = kind, nil, 0
				if kind == wire.KindError {
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
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		res, payload := o.batch(seq)
		if seq != 3 {
			return res, payload
		}
		res.Kind, res.Next, res.Size, res.Worker = wire.KindError, nil, 0, "owner"
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
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
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
	for _, size := range []int{10, 3 * wire.ChunkSize} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
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
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
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
		body, err := wire.AppendResult(nil, res, payload)
		if err != nil {
			t.Fatal(err)
		}
		subject := wire.ResultSubject(o.name, o.rec.Gen, 2)
		o.store(subject, body) // without chunks: an attempt whose chunks were removed
	})
	natstest.Eventually(t, "the record is dropped again", func() bool {
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.buf.Len() == 0
	})
	o.locked(func() {
		o.erase(wire.ResultSubject(o.name, o.rec.Gen, 2))
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
	natstest.Reconnected(t, o.nc)
	take(t, b, state, 20)
}

func TestStaleLiveMessages(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 3)
	first := o.gens[0]
	take(t, b, stateOf(50), 1)
	o.locked(func() {
		for _, gen := range []string{first, o.rec.Gen} {
			for seq := uint64(1); seq < 12; seq++ { // a resurrected worker's, a duplicate, and one that is not stored
				res, payload := result(seq, 900+seq, content(900+seq))
				if seq > 1 && gen != first {
					res, payload = o.batch(seq)
				}
				body, err := wire.AppendResult(nil, res, payload)
				if err == nil {
					err = o.nc.Publish(wire.LiveSubject(o.name, gen), body)
				}
				if err != nil {
					t.Error(err)
				}
			}
		}
	})
	take(t, b, stateOf(51), 20)
	if len(o.gens) != 2 {
		t.Errorf("%d generations", len(o.gens))
	}
}

func TestMalformedRecord(t *testing.T) {
	t.Parallel()
	for what, body := range map[string][]byte{"empty": nil, "noise": []byte("\xdd\xff\xff\xff\xff"),
		"another position": nil} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			spoilt := false
			o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
				res, payload := o.batch(seq)
				if seq == 2 && !spoilt {
					spoilt = true
					if what == "another position" {
						res.Seq = 9
						body, _ = wire.AppendResult(nil, res, payload)
						res.Seq = 2
					}
					o.store(wire.ResultSubject(o.name, o.rec.Gen, 2), body)
				}
				return res, payload // refused by the store where the other one is
			}
			b, _ := setup(t, o, nil)
			take(t, b, schema.State{}, 6)
			if len(o.gens) != 2 {
				t.Errorf("%d generations", len(o.gens))
			}
		})
	}
}

func TestDisconnectedForGood(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	o.locked(func() { o.manual = true })
	b.r.intake.data.Close()
	natstest.Eventually(t, "Take says so", func() bool {
		step, err := b.Take(deadline(t), state)
		if err == nil {
			state = step.Next
		}
		return errors.Is(err, ErrDisconnected)
	})
}
