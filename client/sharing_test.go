package client

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// sentAside opens a reader that the owner sends aside, to a batcher that gets no answer to one kind of request. The
// channel is closed at the first one.
func sentAside(t *testing.T, stuckAtOpen bool) (*owner, *Batcher[[]byte], <-chan struct{}) {
	t.Helper()
	o := newOwner(t)
	stuck, once := make(chan struct{}), sync.Once{}
	o.onSeat = func(req *wire.SeatRequest) *wire.SeatReply {
		opens := req.Mode == wire.ModeOpen
		switch {
		case req.Batcher == o.name && opens:
			return nil
		case req.Batcher == o.name:
			return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeElsewhere}}
		case opens && !stuckAtOpen:
			return &wire.SeatReply{Seat: 1, Phase: schema.PhaseStopped}
		}
		once.Do(func() { close(stuck) })
		return &wire.SeatReply{Fault: &schema.Fault{Code: schema.CodeUnavailable}}
	}
	b, _ := setup(t, o, func(c *Config) { c.Reader = "b" })
	return o, b, stuck
}

// TestReaderEndsWhileItGoesAside has the handle end in the shared batcher while the one beside keeps the reader
// waiting.
func TestReaderEndsWhileItGoesAside(t *testing.T) {
	t.Parallel()
	calls := map[string]func(context.Context, *Batcher[[]byte]) error{
		"Take": func(ctx context.Context, b *Batcher[[]byte]) error {
			_, err := b.Take(ctx, schema.State{})
			return err
		},
		"Start": func(ctx context.Context, b *Batcher[[]byte]) error { return b.Start(ctx, schema.State{}) },
	}
	ends := map[error]func(context.Context, *owner, *Batcher[[]byte]){
		ErrClosed:  func(_ context.Context, _ *owner, b *Batcher[[]byte]) { _ = b.Close() },
		ErrStopped: func(ctx context.Context, _ *owner, b *Batcher[[]byte]) { _ = b.Stop(ctx) },
		ErrSuperseded: func(_ context.Context, o *owner, _ *Batcher[[]byte]) {
			o.locked(func() { o.rec.Reader, o.rec.Seat = "another", o.rec.Seat+1 })
			o.notice()
		},
	}
	for name, call := range calls {
		for want, end := range ends {
			for where, atOpen := range map[string]bool{"Open": true, "seat": false} {
				t.Run(name+" at "+where+": "+want.Error(), func(t *testing.T) {
					t.Parallel()
					ctx := deadline(t)
					o, b, stuck := sentAside(t, atOpen)
					ended := make(chan error, 1)
					go func() { ended <- call(t.Context(), b) }()
					<-stuck
					end(ctx, o, b)
					natstest.Eventually(t, name+" returns", func() bool { return len(ended) == 1 })
					if err := <-ended; !errors.Is(err, want) {
						t.Errorf("%v", err)
					}
				})
			}
		}
	}
}

// goesAside has a reader go aside, where Take then waits for a seat.
func goesAside(t *testing.T) (*owner, *Batcher[[]byte]) {
	t.Helper()
	o, b, stuck := sentAside(t, false)
	ctx, cancel := context.WithCancel(deadline(t))
	go func() {
		<-stuck
		cancel()
	}()
	if _, err := b.Take(ctx, schema.State{}); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	return o, b
}

// TestStopTellsOfTheRunBeside though the first Stop, which gives the reader beside up, is cut short.
func TestStopTellsOfTheRunBeside(t *testing.T) {
	t.Parallel()
	_, b := goesAside(t)
	b.s.beside().run.end(ErrCorrupt)
	stopsTwice(t, b, ErrCorrupt)
}

// TestCloseBesideWithoutACoordinator takes no longer for two batchers than for one, nor where the one beside is being
// left.
func TestCloseBesideWithoutACoordinator(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*sharing){
		"beside": func(*sharing) {}, "leaving": func(s *sharing) { s.leave(s.beside()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, b := goesAside(t)
			o.quiet()
			before(b.s)
			closesSoon(t, b)
		})
	}
}
