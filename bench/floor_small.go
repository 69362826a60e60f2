package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The floor of small batches is the least that a program must do with raw nats.go for one durable job and one durable
// result per batch, first write wins, taken in order within a window:
//
//   - The feeder publishes jobs in the server's flow-controlled batches, one answer each, as far as credits allow.
//   - The worker pulls many jobs with one request, publishes each result, and acks its job when the answer says that it is
//     stored. Batched, it publishes results in batches too, and acks their jobs when the one answer comes.
//   - The consumer hears results from the store's RePublish, puts them in order, gives credits, and purges the store.
//
// It is without all that makes a service: generations, states, digests, retries, leases, repair. One goroutine per
// process, no locks, subjects of a few bytes.
const (
	floorJobs    = "floor-jobs"
	floorResults = "floor-results"
	jobPrefix    = "j."
	resultPrefix = "r."
	livePrefix   = "l."
	creditsTo    = "c"

	floorConsumerName = "w"
	floorWaiting      = 4096 // requests for jobs, one of each worker

	batchMost = 64 // messages per answer

	// What a window of few batches does not come below: jobs pulled by one request, results dropped by one purge.
	floorLeastPull  = 32
	floorLeastPurge = 64
)

type floorArg struct {
	URL    string `json:"url"`
	Window int    `json:"window"`
	Bytes  int    `json:"bytes"`
	// Batched has results published in batches, which is the leanest of all; but a result that is there already ends such
	// a batch, so that a worker which must expect that has more to do than this one.
	Batched bool `json:"batched"`

	Servers  int `json:"servers"`  // of a cluster; 0 is one server
	Replicas int `json:"replicas"` // of jobs; 0 is one
}

func (b *bench) floorSmall(ctx context.Context, name string, arg floorArg) (s *side, consumer *process, err error) {
	s = b.side(name)
	if arg.URL, err = s.brokers(ctx, arg.Servers, brokerArg{}); err != nil {
		return nil, nil, err
	}
	for _, role := range []string{"floor consumer", "floor worker", "floor feeder"} { // the consumer makes the streams
		p, err := s.start(ctx, role, arg, nil)
		if err != nil {
			return nil, nil, err
		}
		if consumer == nil {
			consumer = p
		}
	}
	return s, consumer, nil
}

func connectFloor(url string) (*nats.Conn, error) {
	return nats.Connect(url, nats.MaxReconnects(0))
}

// floorStreams are of the storage that the service uses, and refuse a second message per subject as it does.
func floorStreams(ctx context.Context, nc *nats.Conn, replicas int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	once := jetstream.StreamConfig{
		Storage: jetstream.MemoryStorage, AllowBatchPublish: true,
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
	}
	jobs, results := once, once
	jobs.Name, jobs.Subjects, jobs.Retention = floorJobs, []string{jobPrefix + ">"}, jetstream.WorkQueuePolicy
	jobs.Replicas = replicas
	results.Name, results.Subjects = floorResults, []string{resultPrefix + ">"}
	results.RePublish = &jetstream.RePublish{Source: resultPrefix + ">", Destination: livePrefix + ">"}
	for _, cfg := range []jetstream.StreamConfig{jobs, results} {
		if _, err := js.CreateStream(ctx, cfg); err != nil {
			return err
		}
	}
	_, err = js.CreateConsumer(ctx, floorJobs, jetstream.ConsumerConfig{
		Durable: floorConsumerName, AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: -1, MaxAckPending: -1,
		MaxWaiting: floorWaiting,
	})
	return err
}

// fastPublisher publishes in the server's flow-controlled batches: the reply subject says which message of which batch
// it is, so there are no headers, and the last one's answer speaks for all of them.
type fastPublisher struct {
	nc    *nats.Conn
	inbox string // of answers, with a dot
	batch uint64
	seq   int // of the last message of the batch under way
	reply []byte
}

const (
	fastStart  = 0
	fastAppend = 1
	fastCommit = 2
)

// publish publishes; last ends the batch.
func (p *fastPublisher) publish(subject string, data []byte, last bool) error {
	op := fastAppend
	if p.seq == 0 {
		p.batch++
		op = fastStart
	}
	if last {
		op = fastCommit
	}
	p.seq++
	// <prefix>.<batch>.<most answers>.<gap mode>.<seq>.<op>.$FI
	r := append(p.reply[:0], p.inbox...)
	r = strconv.AppendUint(r, p.batch, 36)
	r = append(r, ".1000.fail."...)
	r = strconv.AppendInt(r, int64(p.seq), 10)
	r = append(r, '.', byte('0'+op))
	p.reply = append(r, ".$FI"...)
	if last {
		p.seq = 0
	}
	return p.nc.PublishRequest(subject, string(p.reply), data)
}

// fastAnswer is the server's: a sign of flow control, which has a type, or the end of a batch.
type fastAnswer struct {
	Type  string          `json:"type"`
	Batch string          `json:"batch"`
	Count int             `json:"count"`
	Error json.RawMessage `json:"error"`
}

// ended reads an answer; done is false for flow control. An error is one of the store, which a floor does not mend.
func ended(msg *nats.Msg) (batch uint64, count int, done bool, err error) {
	var a fastAnswer
	if err := json.Unmarshal(msg.Data, &a); err != nil {
		return 0, 0, false, fmt.Errorf("answer %q: %w", msg.Data, err)
	}
	if a.Error != nil || a.Type == "err" || a.Type == "gap" {
		return 0, 0, false, fmt.Errorf("not stored: %s", msg.Data)
	}
	if a.Type != "" {
		return 0, 0, false, nil
	}
	batch, err = strconv.ParseUint(a.Batch, 36, 64)
	return batch, a.Count, true, err
}

// looping runs a floor's loop until the role is closed. What ends it before is logged: the consumer will say that
// nothing comes.
func looping(ctx context.Context, log *slog.Logger, nc *nats.Conn, loop func(ctx context.Context) error) *role {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		closing(log, loop(ctx))
	}()
	return &role{close: func() {
		cancel()
		<-done
		nc.Close()
	}}
}

// opWhere asks for the server's address.
const opWhere = "where"

// floorBuffer is how many messages wait for a floor's loop at most: more than a window and all answers to it.
const floorBuffer = 1 << 14

// feeding publishes what credits and a window allow, until the role is closed: publish sends all up to a limit, stored
// hears how many messages a batch had.
func feeding(
	ctx context.Context, log *slog.Logger, url string, window uint64, publish func(pub *fastPublisher, limit uint64) error, stored func(n int) error,
) (*role, any, error) {
	nc, err := connectFloor(url)
	if err != nil {
		return nil, nil, err
	}
	credits, answers := make(chan *nats.Msg, floorBuffer), make(chan *nats.Msg, floorBuffer)
	if _, err := nc.ChanSubscribe(creditsTo, credits); err != nil {
		return nil, nil, err
	}
	pub := &fastPublisher{nc: nc, inbox: nats.NewInbox() + "."}
	if _, err := nc.ChanSubscribe(pub.inbox+">", answers); err != nil {
		return nil, nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, nil, err
	}
	return looping(ctx, log, nc, func(ctx context.Context) error {
		limit := window
		for {
			if err := publish(pub, limit); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case msg := <-credits:
				limit = max(limit, binary.BigEndian.Uint64(msg.Data)+window)
			case msg := <-answers:
				_, n, _, err := ended(msg)
				if err == nil {
					err = stored(n)
				}
				if err != nil {
					return err
				}
			}
		}
	}), nil, nil
}

func startFloorFeeder(ctx context.Context, log *slog.Logger, arg floorArg) (*role, any, error) {
	body := filled(arg.Bytes)
	var fed, stored uint64
	return feeding(ctx, log, arg.URL, uint64(arg.Window), func(pub *fastPublisher, limit uint64) error {
		for fed < limit {
			fed++
			last := fed == limit || fed%batchMost == 0
			if err := pub.publish(jobPrefix+strconv.FormatUint(fed, 10), body, last); err != nil {
				return err
			}
		}
		return nil
	}, func(n int) error {
		if stored += uint64(n); stored > fed {
			return fmt.Errorf("%d jobs stored of %d", stored, fed)
		}
		return nil
	})
}

// floorWorker turns jobs into results. Only one goroutine uses it.
type floorWorker struct {
	nc      *nats.Conn
	jobs    chan *nats.Msg
	answers chan *nats.Msg
	pub     *fastPublisher
	batched bool
	unacked map[uint64][]string // by batch of results, the subjects of acks
}

func startFloorWorker(ctx context.Context, log *slog.Logger, arg floorArg) (*role, any, error) {
	nc, err := connectFloor(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	w := &floorWorker{
		nc: nc, jobs: make(chan *nats.Msg, floorBuffer), answers: make(chan *nats.Msg, floorBuffer),
		pub: &fastPublisher{nc: nc, inbox: nats.NewInbox() + "."}, batched: arg.Batched, unacked: make(map[uint64][]string),
	}
	inbox := nats.NewInbox()
	if _, err := nc.ChanSubscribe(inbox, w.jobs); err != nil {
		return nil, nil, err
	}
	if _, err := nc.ChanSubscribe(w.pub.inbox+">", w.answers); err != nil {
		return nil, nil, err
	}
	return looping(ctx, log, nc, func(ctx context.Context) error { return w.loop(ctx, inbox, max(arg.Window/2, floorLeastPull)) }), nil, nil
}

// loop asks for n jobs at a time, again whenever no more than n are to come.
func (w *floorWorker) loop(ctx context.Context, inbox string, n int) error {
	pull := fmt.Appendf(nil, `{"batch":%d}`, n)
	for asked := 0; ; {
		if asked <= n {
			asked += n
			if err := w.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+floorJobs+"."+floorConsumerName, inbox, pull); err != nil {
				return err
			}
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case job := <-w.jobs:
			if job.Header != nil { // the server says something of a request
				return fmt.Errorf("request for jobs: %v", job.Header)
			}
			asked--
			err = w.run(job)
		case answer := <-w.answers:
			err = w.answered(answer)
		}
		if err != nil {
			return err
		}
	}
}

func (w *floorWorker) run(job *nats.Msg) error {
	subject := resultPrefix + job.Subject[len(jobPrefix):]
	if !w.batched { // where the ack goes travels in the reply subject
		return w.nc.PublishRequest(subject, w.pub.inbox+job.Reply, job.Data)
	}
	last := len(w.jobs) == 0 || w.pub.seq == batchMost-1
	if err := w.pub.publish(subject, job.Data, last); err != nil {
		return err
	}
	w.unacked[w.pub.batch] = append(w.unacked[w.pub.batch], job.Reply)
	return nil
}

var (
	ack         = []byte("+ACK")
	storedBegin = []byte(`{"stream":"` + floorResults + `",`)
)

func (w *floorWorker) answered(msg *nats.Msg) error {
	if !w.batched {
		if !bytes.HasPrefix(msg.Data, storedBegin) {
			return fmt.Errorf("not stored: %s", msg.Data)
		}
		return w.nc.Publish(msg.Subject[len(w.pub.inbox):], ack)
	}
	batch, n, done, err := ended(msg)
	if err != nil || !done {
		return err
	}
	if n != len(w.unacked[batch]) {
		return fmt.Errorf("%d results stored of %d", n, len(w.unacked[batch]))
	}
	for _, reply := range w.unacked[batch] {
		if err := w.nc.Publish(reply, ack); err != nil {
			return err
		}
	}
	delete(w.unacked, batch)
	return nil
}

// result is one that waits for its turn.
type result struct {
	data   []byte
	stored uint64 // its place in the store
}

// floorConsumer takes results in order. Only one goroutine uses it.
type floorConsumer struct {
	nc    *nats.Conn
	live  chan *nats.Msg
	ring  []result // by number modulo the window
	taken uint64
	last  uint64 // place in the store of the last result that came
	lost  atomic.Bool
}

func startFloorConsumer(ctx context.Context, _ *slog.Logger, arg floorArg) (*role, any, error) {
	nc, err := connectFloor(arg.URL)
	if err != nil {
		return nil, nil, err
	}
	if err := floorStreams(ctx, nc, arg.Replicas); err != nil {
		return nil, nil, err
	}
	c := &floorConsumer{nc: nc, live: make(chan *nats.Msg, floorBuffer), ring: make([]result, arg.Window)}
	nc.SetErrorHandler(func(*nats.Conn, *nats.Subscription, error) { c.lost.Store(true) })
	if _, err := nc.ChanSubscribe(livePrefix+">", c.live); err != nil {
		return nil, nil, err
	}
	if err := nc.Flush(); err != nil {
		return nil, nil, err
	}
	return &role{close: nc.Close, ops: map[string]op{
		opTake:  handle(func(ctx context.Context, arg takeArg) (takeAnswer, error) { return timed(ctx, arg, c.take) }),
		opWhere: handle(func(context.Context, struct{}) (string, error) { return arg.URL, nil }),
		opTimes: handle(func(ctx context.Context, arg timesArg) ([]time.Duration, error) {
			return times(ctx, arg.N, func(ctx context.Context) error {
				_, err := c.take(ctx)
				return err
			})
		}),
	}}, nil, nil
}

func (c *floorConsumer) take(ctx context.Context) (int, error) {
	window := uint64(len(c.ring))
	head := &c.ring[(c.taken+1)%window]
	for head.data == nil {
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("result %d: %w (dropped by the client library: %v)", c.taken+1, context.Cause(ctx), c.lost.Load())
		case msg := <-c.live:
			seq, err := strconv.ParseUint(msg.Subject[len(livePrefix):], 10, 64)
			if err != nil {
				return 0, err
			}
			if c.last, err = strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
				return 0, err
			}
			c.ring[seq%window] = result{msg.Data, c.last}
		}
	}
	n := len(head.data)
	*head = result{}
	c.taken++
	if c.taken%max(1, window/16) == 0 {
		if err := c.nc.Publish(creditsTo, binary.BigEndian.AppendUint64(nil, c.taken)); err != nil {
			return 0, err
		}
	}
	if c.taken%max(window/4, floorLeastPurge) == 0 {
		return n, c.purge()
	}
	return n, nil
}

// purge removes what was stored before all that waits for its turn or is to come.
func (c *floorConsumer) purge() error {
	first := c.last + 1
	for _, r := range c.ring {
		if r.data != nil {
			first = min(first, r.stored)
		}
	}
	return c.nc.PublishRequest("$JS.API.STREAM.PURGE."+floorResults, "ignored", fmt.Appendf(nil, `{"seq":%d}`, first))
}
