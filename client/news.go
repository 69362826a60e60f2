package client

import (
	"context"
	"sync"
)

// news wakes all who wait for a change. Each waits on a channel that the next tell closes, so that no waiter can take
// another's wake-up: ask for the channel first, look at what may have changed, then wait. The zero value is ready.
type news struct {
	mu   sync.Mutex
	next chan struct{} // nil without a waiter
}

// wait returns a channel that is closed at the next tell.
func (n *news) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}

// tell wakes all who wait.
func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}

// hint is a channel with one receiver: what it is to look at is there, and one hint is as good as several.
type hint chan struct{}

func newHint() hint { return make(hint, 1) }

// give never waits.
func (h hint) give() {
	select {
	case h <- struct{}{}:
	default:
	}
}

// turn lets Take and Start go one at a time. It is no lock: a caller that waits for it heeds its context.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// get waits for the turn, or returns the cause of the context that ended first.
func (t turn) get(ctx, handle context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	default:
	}
	select {
	case t <- struct{}{}:
		return nil
	case <-handle.Done():
		return context.Cause(handle)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// give lets the next one.
func (t turn) give() { <-t }
