package client

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// TestHolesAreNamed has the data be holes from some position on: the wait says so.
func TestHolesAreNamed(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		res, payload := o.batch(seq)
		if seq == 1 {
			return res, payload
		}
		res.Kind, res.Size, res.Digest, res.Fault = wire.KindHole, 0, wire.Digest{}, &schema.Fault{Message: "no label"}
		o.manual = seq == 9
		return res, nil
	}
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := b.Take(short, state)
	if want := "the data set makes only holes since batch 2, 8 of them (the last: no label); batch 10 of generation"; !errors.Is(err,
		ErrUnavailable) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say: %s", err, want)
	}
}

// weary is a context that ends when it has been asked so often.
type weary struct {
	context.Context
	left int
}

func (w *weary) Err() error {
	if w.left--; w.left >= 0 {
		return nil
	}
	return context.DeadlineExceeded
}

// TestEndlessHoles has a data set of nothing but holes, which are here before they are passed: Take ends with its
// context all the same.
func TestEndlessHoles(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.window = 32
	o.make = func(o *owner, seq uint64) (*wire.Result, []byte) {
		res, payload := o.batch(seq)
		if seq == 32 {
			return res, payload
		}
		res.Kind, res.Size, res.Digest = wire.KindHole, 0, wire.Digest{}
		return res, nil
	}
	b, _ := setup(t, o, nil)
	if err := b.Start(deadline(t), schema.State{}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "all are here", func() bool {
		b.r.line.mu.Lock()
		defer b.r.line.mu.Unlock()
		return b.r.line.buf.Len() == 32
	})
	_, err := b.Take(&weary{deadline(t), 8}, schema.State{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "makes only holes since batch 1, ") {
		t.Fatalf("%v", err)
	}
	// The owner keeps the state that the trainer has: a process that comes in its place has no other.
	b.r.line.mu.Lock()
	taken, past := b.r.line.taken, b.r.line.past
	b.r.line.mu.Unlock()
	if c := b.r.line.credit(time.Now(), true); taken == 0 || past != taken || c.Holes != past {
		t.Errorf("%d of %d positions left no state, and the credit says %d", past, taken, c.Holes)
	}
	asked := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.requests)
	}
	before := asked()
	step, err := b.Take(deadline(t), schema.State{})
	if err != nil || step.Seq != 32 {
		t.Errorf("%d, %v", step.Seq, err)
	}
	// The trainer has no other state, and is where it was: a rank that asked to move would wait for all others to.
	if n := asked() - before; n > 0 {
		t.Errorf("%d seats were asked for", n)
	}
	if c := b.r.line.credit(time.Now(), true); c.Holes != 0 {
		t.Errorf("%d holes behind the batch", c.Holes)
	}
}
