package client

import (
	"bytes"
	"errors"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
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
	if err := unforeseen(schema.State{Dataset: "count", Version: 2, Data: state.Data}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("a state of another version: %v", err)
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
