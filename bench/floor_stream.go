package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The floor of large batches over JetStream: one process publishes a batch's bytes to a memory stream, in the server's
// flow-controlled batches; another hears them by the stream's RePublish, copies them into a reused buffer, gives
// credits and purges. There are no jobs, and no second worker whose batches would have to be put in order.
const (
	streamName   = "floor-bytes"
	streamPrefix = "b."
	streamLive   = "m."

	// streamChunk is the size of a message: of 128 KiB to 1 MiB, the fastest.
	streamChunk = 512 << 10
	// streamAnswer is how many bytes one answer of the server speaks for.
	streamAnswer = 4 << 20
)

type streamArg struct {
	URL    string `json:"url"`
	Bytes  int    `json:"bytes"`  // of a batch
	Window int    `json:"window"` // batches
}

func (a streamArg) chunks() int { return (a.Bytes + streamChunk - 1) / streamChunk }

// streamAhead bounds the bytes under way: above 64 MB the server takes the consumer for too slow.
const streamAhead = 32 << 20

// window is how many messages may be under way.
func (a streamArg) window() uint64 {
	return uint64(min(a.Window*a.chunks(), streamAhead/min(a.Bytes, streamChunk)))
}

func (b *bench) floorStream(ctx context.Context, name string, arg streamArg) (s *side, consumer *process, err error) {
	s = b.side(name)
	var broker brokerAnswer
	if _, err = s.start(ctx, "broker", struct{}{}, &broker); err != nil {
		return nil, nil, err
	}
	arg.URL = broker.URL
	if consumer, err = s.start(ctx, "stream consumer", arg, nil); err != nil { // it makes the stream
		return nil, nil, err
	}
	_, err = s.start(ctx, "stream publisher", arg, nil)
	return s, consumer, err
}

func startStreamPublisher(ctx context.Context, log *slog.Logger, arg streamArg) (*role, any, error) {
	body := filled(arg.Bytes)
	most := max(1, streamAnswer/min(arg.Bytes, streamChunk)) // messages per answer
	var sent uint64                                          // messages
	return feeding(ctx, log, arg.URL, arg.window(), func(pub *fastPublisher, limit uint64) error {
		for ; sent < limit; sent++ {
			k := int(sent % uint64(arg.chunks()))
			part := body[k*streamChunk : min((k+1)*streamChunk, len(body))]
			last := pub.seq == most-1 || sent == limit-1
			if err := pub.publish(streamPrefix+strconv.FormatUint(sent, 10), part, last); err != nil {
				return err
			}
		}
		return nil
	}, func(int) error { return nil })
}

// streamConsumer takes batches. Only one goroutine uses it.
type streamConsumer struct {
	nc    *nats.Conn
	arg   streamArg
	live  chan *nats.Msg
	buf   []byte
	heard uint64 // messages
}

func startStreamConsumer(ctx context.Context, _ *slog.Logger, arg streamArg) (*role, any, error) {
	nc, err := connectFloor(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{streamPrefix + ">"}, Storage: jetstream.MemoryStorage, AllowBatchPublish: true,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		RePublish: &jetstream.RePublish{Source: streamPrefix + ">", Destination: streamLive + ">"},
	})
	if err != nil {
		return nil, nil, err
	}
	c := &streamConsumer{nc: nc, arg: arg, live: make(chan *nats.Msg, floorBuffer), buf: make([]byte, arg.Bytes)}
	if _, err := nc.ChanSubscribe(streamLive+">", c.live); err != nil {
		return nil, nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, nil, err
	}
	return &role{close: nc.Close, ops: map[string]op{
		opTake: handle(func(ctx context.Context, arg takeArg) (takeAnswer, error) { return timed(ctx, arg, c.take) }),
	}}, nil, nil
}

func (c *streamConsumer) take(ctx context.Context) (int, error) {
	n := 0
	for range c.arg.chunks() {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("message %d: %w", c.heard+1, context.Cause(ctx))
		case msg := <-c.live: // in the order of storage, which one publisher makes that of the bytes
			n += copy(c.buf[n:], msg.Data)
		}
		c.heard++
		if err := c.give(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// give lets the publisher go on, and drops what was heard from the store.
func (c *streamConsumer) give() error {
	window := c.arg.window()
	if c.heard%max(1, window/16) == 0 {
		if err := c.nc.Publish(creditsTo, binary.BigEndian.AppendUint64(nil, c.heard)); err != nil {
			return err
		}
	}
	if c.heard%max(1, window/4) == 0 {
		return c.nc.PublishRequest("$JS.API.STREAM.PURGE."+streamName, "ignored", fmt.Appendf(nil, `{"seq":%d}`, c.heard+1))
	}
	return nil
}
