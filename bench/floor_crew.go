package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// The floor of many workers is that of small batches with a crew in the place of its worker: each has a connection of
// its own, asks for as many jobs as it has slots, holds each job for as long as it takes, publishes the result, acks
// the job when it is stored, and asks for another one. They share a process and nothing else.

type floorCrewArg struct {
	URL     string        `json:"url"`
	Workers int           `json:"workers"`
	Slots   int           `json:"slots"` // of each
	Sleep   time.Duration `json:"sleep"` // how long a job takes
}

// floorHand is one of a crew.
type floorHand struct {
	nc     *nats.Conn
	answer string // prefix of subjects of answers, with a dot
	inbox  string // of jobs
	sleep  time.Duration
	failed *atomic.Pointer[error] // of the crew
}

func startFloorCrew(_ context.Context, log *slog.Logger, arg floorCrewArg) (*role, any, error) {
	var failed atomic.Pointer[error]
	var crew []*floorHand
	r := &role{close: func() {
		for _, h := range crew {
			h.nc.Close()
		}
		if err := failed.Load(); err != nil {
			closing(log, *err)
		}
	}}
	for range arg.Workers {
		nc, err := connectFloor(arg.URL)
		if err != nil {
			r.close()
			return nil, nil, err
		}
		h := &floorHand{nc: nc, answer: nats.NewInbox() + ".", inbox: nats.NewInbox(), sleep: arg.Sleep, failed: &failed}
		crew = append(crew, h)
		_, err = nc.Subscribe(h.answer+">", h.stored)
		if err == nil {
			_, err = nc.Subscribe(h.inbox, h.begin)
		}
		if err = errors.Join(err, h.ask(arg.Slots)); err != nil {
			r.close()
			return nil, nil, err
		}
	}
	return r, nil, nil
}

func (h *floorHand) ask(n int) error {
	const next = "$JS.API.CONSUMER.MSG.NEXT." + floorJobs + "." + floorConsumerName
	return h.nc.PublishRequest(next, h.inbox, fmt.Appendf(nil, `{"batch":%d}`, n))
}

// begin takes a job, which ends by itself.
func (h *floorHand) begin(job *nats.Msg) {
	if job.Header != nil { // the server says something of a request
		h.fail(fmt.Errorf("request for jobs: %v", job.Header))
		return
	}
	time.AfterFunc(h.sleep, func() { // where the ack goes travels in the reply subject
		h.fail(h.nc.PublishRequest(resultPrefix+job.Subject[len(jobPrefix):], h.answer+job.Reply, job.Data))
	})
}

// stored acks a job whose result is stored, and asks for another one.
func (h *floorHand) stored(msg *nats.Msg) {
	if !bytes.HasPrefix(msg.Data, storedBegin) {
		h.fail(fmt.Errorf("not stored: %s", msg.Data))
		return
	}
	h.fail(errors.Join(h.nc.Publish(msg.Subject[len(h.answer):], ack), h.ask(1)))
}

// fail keeps the crew's first error for the log: the consumer will say that no result comes. That a connection is closed
// is no error, since jobs may end after the role.
func (h *floorHand) fail(err error) {
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		h.failed.CompareAndSwap(nil, &err)
	}
}

// floorCrowd is an entry of a crew of raw NATS, for one sequence.
func (b *bench) floorCrowd(ctx context.Context, c crowd, arg takeArg) (entry, error) {
	s := b.side("raw " + c.String())
	url, err := s.brokers(ctx, 0, brokerArg{})
	if err != nil {
		return entry{}, err
	}
	floor := floorArg{URL: url, Window: 2*c.workers*c.slots + 1, Bytes: floorCrewBytes}
	consumer, err := s.start(ctx, "floor consumer", floor, nil) // it makes the streams
	if err != nil {
		return entry{}, err
	}
	crew := floorCrewArg{URL: url, Workers: c.workers, Slots: c.slots, Sleep: c.sleep()}
	if _, err := s.start(ctx, "floor crew", crew, nil); err != nil {
		return entry{}, err
	}
	if _, err := s.start(ctx, "floor feeder", floor, nil); err != nil {
		return entry{}, err
	}
	return entry{s, func(ctx context.Context) (outcome, error) {
		var answer takeAnswer
		err := consumer.call(ctx, opTake, arg, &answer)
		return outcome{
			Value: per(float64(arg.Timed), answer.Elapsed.Seconds()), Batches: arg.Warm + arg.Timed, Bytes: answer.Bytes,
		}, err
	}}, nil
}

// floorCrewBytes is the size of jobs and results, about that of the service's for a batch that says nothing.
const floorCrewBytes = 128
