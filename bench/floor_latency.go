package main

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// A round trip has two floors. One is that of small batches with a window of one: a credit lets out the next job, by
// way of a feeder. The other is without a feeder, and so with two legs of six through the broker less than any service
// that has a coordinator: the one who waits publishes the durable job itself and hears the durable result by RePublish.
// The floor of moving to another place is one request by core NATS to another process, and its answer.

const echoTo = "e"

func (b *bench) floorLatency(ctx context.Context, name string) (s *side, asker *process, err error) {
	s = b.side(name)
	var broker brokerAnswer
	if _, err = s.start(ctx, "broker", struct{}{}, &broker); err != nil {
		return nil, nil, err
	}
	arg := floorArg{URL: broker.URL, Window: 64}
	if asker, err = s.start(ctx, "floor asker", arg, nil); err != nil { // it makes the streams
		return nil, nil, err
	}
	if _, err = s.start(ctx, "floor worker", arg, nil); err != nil {
		return nil, nil, err
	}
	_, err = s.start(ctx, "floor echo", arg, nil)
	return s, asker, err
}

// startFloorEcho answers with what it is asked.
func startFloorEcho(_ context.Context, _ *slog.Logger, arg floorArg) (*role, any, error) {
	nc, err := connectFloor(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	if _, err := nc.Subscribe(echoTo, func(msg *nats.Msg) { _ = msg.Respond(msg.Data) }); err != nil { // the asker sees that nothing comes
		return nil, nil, err
	}
	return &role{close: nc.Close}, nil, nc.Flush()
}

// asker waits for one result at a time.
type asker struct {
	nc      *nats.Conn
	live    chan *nats.Msg
	answers chan *nats.Msg
	inbox   string
	body    []byte
	asked   uint64
}

// opEcho asks for round trips by core NATS.
const opEcho = "echo"

func startFloorAsker(ctx context.Context, _ *slog.Logger, arg floorArg) (*role, any, error) {
	nc, err := connectFloor(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	if err := floorStreams(ctx, nc, 1); err != nil {
		return nil, nil, err
	}
	a := &asker{nc: nc, live: make(chan *nats.Msg, floorBuffer), answers: make(chan *nats.Msg, floorBuffer), inbox: nats.NewInbox(), body: filled(latencyBytes)}
	if _, err := nc.ChanSubscribe(livePrefix+">", a.live); err != nil {
		return nil, nil, err
	}
	if _, err := nc.ChanSubscribe(a.inbox, a.answers); err != nil {
		return nil, nil, err
	}
	return &role{close: nc.Close, ops: map[string]op{
		opTimes: handle(func(ctx context.Context, arg timesArg) ([]time.Duration, error) { return times(ctx, arg.N, a.job) }),
		opEcho:  handle(func(ctx context.Context, arg timesArg) ([]time.Duration, error) { return timesOf(ctx, arg.N, a.echo) }),
	}}, nil, nil
}

// job is a round trip of a job and its result; the answer to the job is read when the result is here, since it was sent
// before.
func (a *asker) job(ctx context.Context) error {
	a.asked++
	if err := a.nc.PublishRequest(jobPrefix+strconv.FormatUint(a.asked, 10), a.inbox, a.body); err != nil {
		return err
	}
	for _, from := range []chan *nats.Msg{a.live, a.answers} {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-from:
		}
	}
	if a.asked%64 == 0 {
		return a.nc.PublishRequest("$JS.API.STREAM.PURGE."+floorResults, "ignored", nil)
	}
	return nil
}

func (a *asker) echo(ctx context.Context) error {
	msg, err := a.nc.RequestWithContext(ctx, echoTo, a.body)
	if err == nil && len(msg.Data) != len(a.body) {
		return errors.New("the answer is another")
	}
	return err
}
