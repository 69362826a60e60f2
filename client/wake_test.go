package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

// TestNewsReachesAll has two wait for the same news: neither can take it from the other.
func TestNewsReachesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n news
		var woken sync.WaitGroup
		for range 2 {
			woken.Go(func() { <-n.wait() })
		}
		synctest.Wait()
		n.tell()
		woken.Wait() // or the bubble is deadlocked
		select {
		case <-n.wait():
			t.Error("news of before")
		default:
		}
	})
}

// TestWakeUpsAreNotStolen has Status and Stop wait for the coordinator, which is away, while Take waits for batches,
// which arrive all the same.
func TestWakeUpsAreNotStolen(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	b, _ := setup(t, o, nil)
	state := take(t, b, schema.State{}, 1)
	var fed uint64
	o.locked(func() { o.manual, fed = true, o.fed })
	state = take(t, b, state, int(fed-1))
	o.quiet()
	ctx, cancel := context.WithCancel(t.Context())
	var polls sync.WaitGroup
	for range 4 {
		polls.Go(func() {
			for ctx.Err() == nil {
				_, _ = b.Status(ctx) // nobody answers
			}
		})
	}
	defer polls.Wait()
	defer cancel()
	var late []time.Duration
	for range 7 {
		type result struct {
			at   time.Time
			step Step[[]byte]
			err  error
		}
		took := make(chan result, 1)
		go func() {
			step, err := b.Take(deadline(t), state)
			took <- result{time.Now(), step, err}
		}()
		// The store is looked into after 0.2 s, and then once a second: what arrives in between wakes Take, or comes late.
		waited := time.NewTimer(firstLook * 3 / 2)
		select {
		case r := <-took:
			t.Fatalf("nothing is there to take: %+v", r)
		case <-waited.C:
		}
		stored := time.Now()
		o.locked(func() { o.fed++; o.publish(o.batch(o.fed)) })
		r := <-took
		if r.err != nil {
			t.Fatal(r.err)
		}
		state = r.step.Next
		late = append(late, r.at.Sub(stored))
	}
	slices.Sort(late)
	if late[len(late)/2] > firstLook {
		t.Errorf("Take returned so long after the batch was stored: %v", late)
	}
}

// TestWaitingForATurn has a second Take wait for the first: it ends with its context, and with Close.
func TestWaitingForATurn(t *testing.T) {
	t.Parallel()
	o := newOwner(t)
	o.manual = true
	b, _ := setup(t, o, nil)
	first := make(chan error, 1)
	go func() {
		_, err := b.Take(deadline(t), schema.State{})
		first <- err
	}()
	natstest.Eventually(t, "the first one is under way", func() bool { return len(b.r.turn) == 1 })
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := b.Take(short, schema.State{}); !errors.Is(err, ErrUnavailable) || !errors.Is(err,
		context.DeadlineExceeded) {
		t.Errorf("Take: %v", err)
	}
	second := make(chan error, 1)
	go func() { second <- b.Start(deadline(t), schema.State{}) }()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, ended := range []chan error{first, second} {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestWaitingForATurnWhenBothHaveEnded asks often: which of the two ends is met first is up to chance.
func TestWaitingForATurnWhenBothHaveEnded(t *testing.T) {
	t.Parallel()
	b, _ := setup(t, newOwner(t), nil)
	b.r.turn <- struct{}{}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		_, take := b.Take(over, schema.State{})
		_, seen := b.TakeSeen(over, schema.State{})
		for _, err := range []error{take, seen, b.Start(over, schema.State{})} {
			if !errors.Is(err, ErrClosed) {
				t.Fatalf("%v", err)
			}
		}
	}
}

// TestWaitCountsFromTheTake has the caller's patience end while the reader asks for its seat, after it waited for a
// batch.
func TestWaitCountsFromTheTake(t *testing.T) {
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
	ctx, cancel := context.WithCancel(deadline(t))
	began := time.Now()
	took := make(chan error, 1)
	go func() {
		_, err := b.Take(ctx, state)
		took <- err
	}()
	natstest.Eventually(t, "the reader asks for its seat", func() bool {
		asked := false
		o.locked(func() { asked = len(o.requests) > seats })
		return asked
	})
	waited := time.Since(began) - time.Second // for Take to begin
	cancel()
	var wait *WaitError
	if err := <-took; !errors.As(err, &wait) || wait.Waited < waited {
		t.Errorf("after %v: %v", waited, err)
	}
}
