package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sees looks at the batch after state, waiting for it, and returns the state after it.
func sees(t *testing.T, b *Batcher[[]byte], state schema.State) (next schema.State) {
	t.Helper()
	ctx := deadline(t)
	for {
		seen, more, err := b.Peek(state, func(step Step[[]byte]) error {
			if at := number(state); !bytes.Equal(step.Batch, content(at)) || !step.Prev.Equal(state) || step.Seq != at+1 {
				t.Errorf("at %d: %+v", at, step)
			}
			next = step.Next
			return nil
		})
		if err != nil {
			t.Fatalf("Peek at %v: %v", state, err)
		}
		if seen {
			return next
		}
		select {
		case <-more:
		case <-ctx.Done():
			t.Fatalf("nothing comes after %v", state)
		}
	}
}

// What Peek shows is not taken, and what Take returns next.
func TestPeek(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	unforeseen := func(state schema.State) error {
		_, _, err := b.Peek(state, func(Step[[]byte]) error { return nil })
		return err
	}
	if err := unforeseen(schema.State{}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("before the run: %v", err)
	}
	state := take(t, b, schema.State{}, 1)
	ahead := state
	for range 4 { // the window
		ahead = sees(t, b, ahead)
	}
	o.locked(func() { o.manual = true })
	seen, more, err := b.Peek(ahead, func(Step[[]byte]) error { return nil })
	if seen || err != nil {
		t.Fatalf("beyond the window: %v, %v", seen, err)
	}
	_, err = b.Status(deadline(t)) // which says how far the trainer is
	o.locked(func() {
		if err != nil || o.rec.Taken != 1 {
			t.Errorf("%d are taken, %v", o.rec.Taken, err)
		}
	})
	o.locked(func() {
		o.manual = false
		o.fed++
		o.publish(o.batch(o.fed))
	})
	<-more
	ahead = sees(t, b, ahead)
	state = take(t, b, state, 5)
	if !state.Equal(ahead) {
		t.Fatalf("Take is at %v, Peek at %v", state, ahead)
	}
	for _, other := range []schema.State{
		{Dataset: "count", Version: 2, Data: state.Data}, {Dataset: "other", Version: 1, Data: state.Data},
	} {
		if err := unforeseen(other); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("%v, of another data set or version: %v", other, err)
		}
		if n, err := b.TakeSeen(deadline(t), other); n != 0 || !errors.Is(err, ErrUnavailable) {
			t.Fatalf("%v, of another data set or version: %d are taken, %v", other, n, err)
		}
	}
	wrong := errors.New("see says so")
	sees(t, b, state)
	if _, _, err := b.Peek(state, func(Step[[]byte]) error { return wrong }); err != wrong {
		t.Fatalf("the error of see: %v", err)
	}
	if err := b.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := unforeseen(state); !errors.Is(err, ErrStopped) {
		t.Fatalf("stopped: %v", err)
	}
}

// A failure that FailFast brings forward ends what can be seen, and wakes who waits for more.
func TestPeekSeesFailures(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = failAt(9, schema.CodeMaterialize)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 4)
	var more <-chan struct{}
	natstest.Eventually(t, "batch 8 is here, and Peek waits for the one after it", func() bool {
		seen, m, err := b.Peek(stateOf(8), func(Step[[]byte]) error { return nil })
		more = m
		return !seen && err == nil
	})
	take(t, b, state, 1)
	<-more
	natstest.Eventually(t, "the failure is seen", func() bool {
		_, _, err := b.Peek(stateOf(5), func(Step[[]byte]) error { return nil })
		return errors.Is(err, ErrUnavailable)
	})
	if _, err := b.Take(deadline(t), stateOf(5)); !errors.Is(err, ErrMaterialize) {
		t.Fatalf("Take: %v", err)
	}
}

// A batch that is not accepted is not taken: the next Take returns it, or the end of its run.
func TestTakeIf(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 3)
	full := errors.New("there is no room")
	decline := func() {
		t.Helper()
		_, err := b.TakeIf(deadline(t), state, func(batch []byte) error {
			if want := content(number(state)); !bytes.Equal(batch, want) {
				t.Errorf("%q, not %q", batch, want)
			}
			return full
		})
		if err != full {
			t.Fatalf("the error of accept: %v", err)
		}
		if _, err = b.Status(deadline(t)); err != nil { // which says how far the trainer is
			t.Fatal(err)
		}
		o.locked(func() {
			if o.rec.Taken != number(state) {
				t.Errorf("%d are taken, not %d", o.rec.Taken, number(state))
			}
		})
	}
	decline()
	state = take(t, b, state, 1)
	step, err := b.TakeIf(deadline(t), state, func([]byte) error { return nil })
	if err != nil || step.Seq != 5 {
		t.Fatalf("accepted: %+v, %v", step, err)
	}
	state = step.Next
	decline()
	if err := b.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Take(deadline(t), state); !errors.Is(err, ErrStopped) {
		t.Fatalf("stopped: %v", err)
	}
}

// What Peek showed is taken together, and the owner hears of it once.
func TestTakeSeen(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	for ahead, n := state, 0; n < 4; n++ { // the window
		ahead = sees(t, b, ahead)
	}
	heard, err := o.nc.SubscribeSync(b.r.credits.subject)
	if err == nil {
		err = o.nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	o.locked(func() { o.manual = true })
	if n, err := b.TakeSeen(deadline(t), state, stateOf(2), stateOf(3)); n != 3 || err != nil {
		t.Fatalf("%d are taken: %v", n, err)
	}
	for {
		msg, err := heard.NextMsgWithContext(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		var credit wire.Credit
		if err := json.Unmarshal(msg.Data, &credit); err != nil {
			t.Fatal(err)
		}
		if credit.Taken == 4 {
			break
		}
		if credit.Taken != 1 { // of a beat in between
			t.Fatalf("the owner hears of %d", credit.Taken)
		}
	}
	if n, err := b.TakeSeen(deadline(t), stateOf(4), stateOf(5)); n != 1 || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("of one batch that is here and one that is not, %d are taken: %v", n, err)
	}
	if n, err := b.TakeSeen(deadline(t), stateOf(2)); n != 0 || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("of a state that is elsewhere %d are taken: %v", n, err)
	}
	o.locked(func() {
		o.manual = false
		for o.fed < 9 {
			o.fed++
			o.publish(o.batch(o.fed))
		}
	})
	take(t, b, stateOf(5), 1)
	if err := b.Stop(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if n, err := b.TakeSeen(deadline(t), stateOf(6)); n != 0 || !errors.Is(err, ErrStopped) {
		t.Fatalf("%d are taken of a batcher that is stopped: %v", n, err)
	}
}

// Holes before a batch that was shown are passed over, as Take does, and a failure that FailFast brings forward is left
// to Take.
func TestTakeSeenPassesHoles(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		res, payload := o.batch(seq)
		switch seq {
		case 2, 3:
			res.Kind, res.Size, res.Digest = wire.KindHole, 0, wire.Digest{}
			return res, nil
		case 7:
			return failAt(7, schema.CodeMaterialize)(o, seq)
		}
		return res, payload
	}
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	natstest.Eventually(t, "batch 4 is shown", func() bool {
		seen, _, err := b.Peek(state, func(step Step[[]byte]) error {
			if step.Seq != 4 {
				t.Errorf("batch %d is shown", step.Seq)
			}
			return nil
		})
		return seen && err == nil
	})
	if n, err := b.TakeSeen(deadline(t), state); n != 1 || err != nil {
		t.Fatalf("%d are taken: %v", n, err)
	}
	natstest.Eventually(t, "the failure is seen", func() bool {
		_, _, err := b.Peek(stateOf(4), func(Step[[]byte]) error { return nil })
		return errors.Is(err, ErrUnavailable)
	})
	if n, err := b.TakeSeen(deadline(t), stateOf(4)); n != 0 || !errors.Is(err, ErrUnavailable) {
		t.Fatalf("%d are taken before the failure: %v", n, err)
	}
	if _, err := b.Take(deadline(t), stateOf(4)); !errors.Is(err, ErrMaterialize) {
		t.Fatalf("Take: %v", err)
	}
}
