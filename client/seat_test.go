package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client/internal/life"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestOwnerMovesOn(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, log := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.moveOn(b)
	take(t, b, state, 10)
	if len(o.gens) != 2 || !log.has("the owner moved on") {
		t.Errorf("%d generations", len(o.gens))
	}
}

// Nobody has the seat when whoever took it over has left again: the reader before is superseded all the same.
func TestSupersededByAReaderThatLeft(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() { o.rec.Reader = ""; o.rec.Seat++ })
	o.notice()
	natstest.Eventually(t, "the reader knows", func() bool {
		return b.r.run.err() != nil
	})
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrSuperseded) {
		t.Fatalf("Take: %v, want ErrSuperseded", err)
	}
}

func TestRecordGone(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	o.locked(func() {
		o.quiet()
		o.rec = wire.Record{
			Wire: wire.Version, Batcher: o.name, Owner: "c1", Phase: schema.PhaseStopped, Reader: o.rec.Reader,
			Spec: wire.Spec{Dataset: "count"},
		}
	})
	o.listen()
	take(t, b, state, 10)
}

func TestSuperseded(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	if _, err := Open[[]byte](deadline(t), o.srv.Connect(), Config{Name: o.name, Dataset: "count"}); !errors.Is(err,
		ErrInUse) {
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

// TestLastWord ends a seat with how far the trainer came, whatever became of its credits: of a large window, these are
// few.
func TestLastWord(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *Batcher[[]byte]) error{
		"Stop":  func(t *testing.T, b *Batcher[[]byte]) error { return b.Stop(deadline(t)) },
		"Close": func(_ *testing.T, b *Batcher[[]byte]) error { return b.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOwner(t)
			o.window = 64
			b, _ := setup(t, o, nil)
			take(t, b, schema.State{}, 3)
			if err := end(t, b); err != nil {
				t.Fatal(err)
			}
			o.locked(func() {
				if o.last == nil || o.last.Taken != 3 || o.last.Gen != o.gens[0] || o.last.Bytes == 0 {
					t.Errorf("last word: %+v", o.last)
				}
			})
		})
	}
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
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.sess != nil
	})
	run := b.r.run.context()
	if err := b.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := context.Cause(run); !errors.Is(err, ErrStopped) {
		t.Errorf("what goes on for the run ends with %v", err)
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
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.sess != nil
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

func TestStartAfterTakeOver(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	take(t, b, schema.State{}, 1)
	second, _ := setup(t, o, func(c *Config) { c.TakeOver = true })
	take(t, second, schema.State{}, 1)
	o.notice()
	natstest.Eventually(t, "the first one knows", func() bool {
		_, err := b.Take(deadline(t), schema.State{})
		return errors.Is(err, ErrSuperseded)
	})
	// Only the winner may give it back.
	if err := b.Start(deadline(t), schema.State{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("%v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(deadline(t), stateOf(3)); err != nil {
		t.Fatal(err)
	}
	take(t, b, stateOf(3), 5)
}

// TestRefusedRepairEndsTheRun has a rank ask for its seat again when another rank has stopped the run. What it is told
// ends the run here as well: a Start that follows is not one on a running batcher.
func TestRefusedRepairEndsTheRun(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.onSeat = func(req *wire.SeatRequest) *wire.SeatReply {
		if req.Repair {
			return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeStopped, Message: "batcher was stopped"}}
		}
		return nil
	}
	b, _ := setup(t, o, func(c *Config) { c.World = &World{ID: "A", Size: 1} })
	state := take(t, b, schema.State{}, 3)
	b.r.run.suspect("the seat moved", life.Moved)
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	if err := b.r.run.err(); !errors.Is(err, ErrStopped) {
		t.Fatalf("the run has not ended: %v", err)
	}
	if err := b.Start(deadline(t), state); err != nil {
		t.Fatal(err)
	}
	take(t, b, state, 1)
}

// TestRankCannotDecode has a batch not decode at one rank. The others would wait for it, so that the owner is told.
func TestRankCannotDecode(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, err := Open[struct{ X []int }](deadline(t), o.srv.Connect(), Config{
		Name: o.name, Dataset: "count", World: &World{ID: "A", Size: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // the owner may be off the air by then
	if _, err := b.Take(deadline(t), schema.State{}); !errors.Is(err, ErrDecode) {
		t.Fatal(err)
	}
	natstest.Eventually(t, "the owner is told", func() (told bool) {
		o.locked(func() {
			for i := range o.credits {
				told = told || o.credits[i].Failed != nil && o.credits[i].Failed.Code == schema.CodeRankLost
			}
		})
		return told
	})
}

// TestStrandedWhileItMoves has the generation begun again while a rank waits for the others to move with it, by an
// owner whose record may be of before the rank's seat: it says where it is in the new one, so that the others can come
// there, and goes on waiting.
func TestStrandedWhileItMoves(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]uint64{"of its seat": 0, "of a seat before": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			strandsWhileItMoves(t, back, false)
		})
	}
	t.Run("at the end", func(t *testing.T) {
		t.Parallel()
		strandsWhileItMoves(t, 0, true)
	})
}

func strandsWhileItMoves(t *testing.T, back uint64, atEnd bool) {
	t.Helper()
	o := newOwner(t)
	if atEnd {
		o.end = 3
	}
	repaired := make(chan struct{}, 100)
	o.onSeat = func(req *wire.SeatRequest) *wire.SeatReply {
		switch {
		case req.Repair:
			repaired <- struct{}{}
		case req.Mode == wire.ModeSeek && len(req.State.Data) > 0 && bytes.Equal(req.State.Data, stateOf(90).Data):
			return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeUnavailable, Message: "waiting for rank 1"}}
		}
		return nil
	}
	b, _ := setup(t, o, func(c *Config) { c.World = &World{ID: "A", Size: 2, Parts: 1} })
	state := take(t, b, schema.State{}, 3)
	if atEnd {
		if _, err := b.Take(deadline(t), state); err != io.EOF { //nolint:errorlint // exactly io.EOF is the end
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error, 1)
	go func() {
		_, err := b.Take(ctx, stateOf(90))
		waited <- err
	}()
	natstest.Eventually(t, "it asks", func() bool { return b.r.line.credit(time.Now(), true).Asking != "" })
	o.locked(func() {
		o.rec.Seat -= back
		o.begin(1)
		o.feed()
	})
	o.notice()
	select {
	case <-repaired:
	case <-time.After(20 * time.Second):
		t.Error("it does not say where it is")
	}
	natstest.Eventually(t, "it asks once more", func() bool { return b.r.line.credit(time.Now(), true).Asking != "" })
	cancel()
	if err := <-waited; !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if !atEnd {
		return
	}
	// It is before the end again, and meets it again: counted twice, the end would put it before its last batch.
	for _, want := range []struct{ taken, holes uint64 }{{2, 0}, {3, 1}} {
		if c := b.r.line.credit(time.Now(), true); c.Taken != want.taken || c.Holes != want.holes {
			t.Errorf("it is past %d, of which %d left no state; want %+v", c.Taken, c.Holes, want)
		}
		if _, err := b.Take(deadline(t), state); err != io.EOF { //nolint:errorlint // exactly io.EOF is the end
			t.Fatal(err)
		}
	}
}

// TestMovedWhileStranded has all ranks moved while one of them, which asked for that, says where it is in a generation
// begun again. That is no place of it any more: it hears of the move, and asks for the state that it was moved to.
func TestMovedWhileStranded(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	repaired, moved := make(chan struct{}, 100), false
	o.onSeat = func(req *wire.SeatRequest) *wire.SeatReply {
		fault := &schema.Fault{Code: schema.CodeUnavailable, Message: "waiting for rank 1"}
		switch {
		case req.Repair:
			repaired <- struct{}{}
			return &wire.SeatReply{Fault: fault}
		case !moved && req.Mode == wire.ModeSeek && bytes.Equal(req.State.Data, stateOf(90).Data):
			return &wire.SeatReply{Fault: fault}
		}
		return nil
	}
	b, _ := setup(t, o, func(c *Config) { c.World = &World{ID: "A", Size: 2, Parts: 1} })
	take(t, b, schema.State{}, 3)
	waited := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	go func() {
		_, err := b.Take(ctx, stateOf(90))
		waited <- err
	}()
	natstest.Eventually(t, "it asks", func() bool { return b.r.line.credit(time.Now(), true).Asking != "" })
	o.locked(func() {
		o.begin(1)
		o.feed()
	})
	o.notice()
	<-repaired
	o.locked(func() {
		moved = true
		o.rec.Seat++
		o.begin(90)
		o.feed()
	})
	o.notice()
	if err := <-waited; err != nil {
		t.Error(err)
	}
}
