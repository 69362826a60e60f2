package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// The floor of ranks is that of small batches with more listeners: each has a connection of its own, hears all results
// from the store's RePublish, and reads their numbers. The consumer alone gives credits.

type listenersArg struct {
	URL   string `json:"url"`
	Count int    `json:"count"`
}

// floorListener is one of them.
type floorListener struct {
	nc     *nats.Conn
	heard  atomic.Uint64 // the number of the last result; how many there were says less, the first came before it listened
	wanted atomic.Uint64
	there  chan struct{} // a hint that the one that is wanted was heard
	failed atomic.Pointer[error]
}

func (l *floorListener) hear(msg *nats.Msg) {
	seq, err := strconv.ParseUint(msg.Subject[len(livePrefix):], 10, 64)
	if err != nil {
		l.failed.Store(&err)
	}
	if l.heard.Store(seq); seq >= l.wanted.Load() {
		select {
		case l.there <- struct{}{}:
		default:
		}
	}
}

// wait returns when the result of that number was heard; the one worker stores them in order.
func (l *floorListener) wait(ctx context.Context, seq uint64) error {
	l.wanted.Store(seq)
	for l.heard.Load() < seq {
		select {
		case <-l.there:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func startFloorListeners(_ context.Context, _ *slog.Logger, arg listenersArg) (*role, any, error) {
	var all []*floorListener
	r := &role{close: func() {
		for _, l := range all {
			l.nc.Close()
		}
	}}
	for range arg.Count {
		nc, err := connectFloor(arg.URL)
		if err != nil {
			r.close()
			return nil, nil, err
		}
		l := &floorListener{nc: nc, there: make(chan struct{}, 1)}
		all = append(all, l)
		sub, err := nc.Subscribe(livePrefix+">", l.hear)
		if err == nil {
			err = errors.Join(sub.SetPendingLimits(-1, -1), nc.Flush())
		}
		if err != nil {
			r.close()
			return nil, nil, err
		}
	}
	total := uint64(0)
	r.ops = map[string]op{opTake: handle(func(ctx context.Context, arg takeArg) (takeAnswer, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, 4*takeTimeout, errLate)
		defer cancel()
		began := time.Now()
		total += uint64(arg.Warm + arg.Timed)
		for _, l := range all {
			if err := l.wait(ctx, total); err != nil {
				return takeAnswer{}, err
			}
		}
		return takeAnswer{Elapsed: time.Since(began)}, nil
	})}
	return r, nil, nil
}

// listening is an entry of as many listeners as ranks, of which the consumer is one. The value is results per second
// until the last listener has heard them.
func (b *bench) listening(ctx context.Context, n int, arg takeAllArg) (entry, error) {
	floor := floorArg{Window: smallWindow, Bytes: smallBytes}
	s, consumer, err := b.floorSmall(ctx, "floor of "+strconv.Itoa(n), floor)
	if err != nil {
		return entry{}, err
	}
	var url string
	if err := consumer.call(ctx, opWhere, nil, &url); err != nil {
		return entry{}, err
	}
	listeners, err := s.start(ctx, "floor listener", listenersArg{URL: url, Count: n - 1}, nil)
	if err != nil {
		return entry{}, err
	}
	take := takeArg{Warm: arg.Warm, Timed: arg.Timed}
	return entry{s, func(ctx context.Context) (outcome, error) {
		heard := make(chan error, 1)
		go func() { heard <- listeners.call(ctx, opTake, take, nil) }()
		var answer takeAnswer
		err := consumer.call(ctx, opTake, take, &answer)
		ended := time.Now()
		err = errors.Join(err, <-heard)
		took := answer.Elapsed + time.Since(ended) // the listeners may be behind
		return outcome{
			Value: per(float64(arg.Timed), took.Seconds()), Batches: arg.Warm + arg.Timed, Bytes: answer.Bytes,
		}, err
	}}, nil
}
