//go:build linux

package trainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/schema"
)

// openRequest is what open is asked with.
type openRequest struct {
	Name        string  `msgpack:"name"`
	Dataset     string  `msgpack:"dataset"`
	Params      string  `msgpack:"params"` // JSON, empty for none
	Window      int     `msgpack:"window"`
	WindowBytes int64   `msgpack:"window_bytes"`
	Retain      int     `msgpack:"retain"`
	IdleTimeout float64 `msgpack:"idle_timeout"` // seconds
	TakeOver    bool    `msgpack:"take_over"`
	Accept      bool    `msgpack:"accept_change"`
	InOrder     bool    `msgpack:"in_order"`
	Timeout     float64 `msgpack:"timeout"` // seconds, 0 for no end
	World       *world  `msgpack:"world"`   // nil for none
}

// world is client.World as it travels.
type world struct {
	ID       string   `msgpack:"id"`
	Rank     int      `msgpack:"rank"`
	Size     int      `msgpack:"size"`
	Part     int      `msgpack:"part"`
	Parts    int      `msgpack:"parts"`
	Whole    []string `msgpack:"whole"`
	Even     bool     `msgpack:"even"`
	Patience float64  `msgpack:"patience"` // seconds
}

func (r *openRequest) config() client.Config {
	cfg := client.Config{
		Name: r.Name, Dataset: r.Dataset, Window: r.Window, WindowBytes: r.WindowBytes, Retain: r.Retain,
		IdleTimeout: seconds(r.IdleTimeout), TakeOver: r.TakeOver, AcceptChange: r.Accept,
	}
	if r.Params != "" {
		cfg.Params = json.RawMessage(r.Params)
	}
	if r.InOrder {
		cfg.OnError = client.InOrder
	}
	if w := r.World; w != nil {
		cfg.World = &client.World{
			ID: w.ID, Rank: w.Rank, Size: w.Size, Part: w.Part, Parts: w.Parts, Whole: w.Whole, Even: w.Even,
			Patience: seconds(w.Patience),
		}
	}
	return cfg
}

// seconds is a time of the trainer's. One that a Duration cannot hold, such as inf, is the longest.
func seconds(s float64) time.Duration {
	if ns := s * float64(time.Second); ns < math.MaxInt64 {
		return time.Duration(max(ns, math.MinInt64))
	}
	return math.MaxInt64
}

// request reads a frame and begins to answer it. An error says that the trainer does not speak the protocol. A call
// whose fields do not decode is answered: other batchers of the trainer are no part of it.
func (s *server) request(frame []byte) error {
	s.frame.Reset(frame)
	s.dec.Reset(&s.frame)
	dec := s.dec
	if _, err := bridge.Array(dec, 3); err != nil {
		return err
	}
	id, err := dec.DecodeUint64()
	if err != nil {
		return fmt.Errorf("%w: %w", bridge.ErrFrame, err)
	}
	op, err := dec.DecodeString()
	if err != nil {
		return fmt.Errorf("%w: %w", bridge.ErrFrame, err)
	}
	err = s.dispatch(id, op, dec)
	if err == nil {
		return nil
	}
	if id == 0 || errors.Is(err, bridge.ErrFrame) || s.pass(frame, op) != nil {
		return fmt.Errorf("%w: %s: %w", bridge.ErrFrame, op, err)
	}
	s.send(id, "error", faultOf(fmt.Errorf("%w: %s: %w", client.ErrBadRequest, op, err)))
	return nil
}

// pass reads to the end of a call that is not answered as it asks. What the trainer frees with it is free all the same.
// An error says that it is no frame.
func (s *server) pass(frame []byte, op string) error {
	s.frame.Reset(frame)
	s.dec.Reset(&s.frame)
	n, err := s.dec.DecodeArrayLen()
	for i := 0; i < n && err == nil; i++ {
		if op == "take" && i == 5 {
			err = s.free(s.dec)
		} else {
			err = s.dec.Skip()
		}
	}
	if err == nil && s.frame.Len() > 0 {
		err = fmt.Errorf("%d bytes behind its end", s.frame.Len())
	}
	return err
}

func (s *server) dispatch(id uint64, op string, dec *msgpack.Decoder) error {
	switch op {
	case "take", "start":
		return s.stated(id, op, dec)
	case "took":
		return s.took(dec)
	case "free":
		return s.free(dec)
	case "cancel":
		return s.give(dec)
	case "open":
		var req openRequest
		if err := dec.Decode(&req); err != nil {
			return err
		}
		before, done := s.queue(req.Name)
		s.call(id, seconds(req.Timeout), func(ctx context.Context) {
			defer done()
			select {
			case <-before:
			case <-ctx.Done(): // as open says
			}
			s.open(ctx, id, &req)
			<-before
		})
		return nil
	case "status", "stop", "close":
		return s.simple(id, op, dec)
	}
	return fmt.Errorf("%w: unknown request", bridge.ErrFrame)
}

// simple reads a request that has a handle and a time, and nothing else.
func (s *server) simple(id uint64, op string, dec *msgpack.Decoder) error {
	b, timeout, err := s.target(dec)
	if err != nil {
		return err
	}
	s.call(id, timeout, func(ctx context.Context) {
		if b == nil {
			s.answer(id, errNoHandle)
			return
		}
		switch op {
		case "status":
			b.counted(ctx)
			st, err := b.b.Status(ctx)
			text, _ := json.Marshal(st) // of a struct that marshals
			s.answer(id, err, string(text))
		case "stop":
			b.counted(ctx)
			err := b.b.Stop(ctx)
			b.withdraw()
			s.answer(id, err)
		default:
			s.forget(b)
			s.answer(id, b.close())
		}
	})
	return nil
}

// stated reads a request that has a state, and for take what the trainer has released.
func (s *server) stated(id uint64, op string, dec *msgpack.Decoder) error {
	b, timeout, err := s.target(dec)
	if err != nil {
		return err
	}
	var state schema.State
	if err := state.DecodeMsgpack(dec); err != nil {
		return err
	}
	if op == "take" {
		if err := s.free(dec); err != nil {
			return err
		}
	}
	if b == nil {
		s.answer(id, errNoHandle)
		return nil
	}
	if op == "start" {
		s.call(id, timeout, func(ctx context.Context) {
			b.counted(ctx)
			err := b.b.Start(ctx, state)
			b.withdraw()
			s.answer(id, err)
		})
		return nil
	}
	if b.last != nil && b.last.Err() == nil {
		s.answer(id, errTwoTakes)
		return nil
	}
	b.asked()
	ctx, done := s.begin(id, timeout)
	b.last, b.call = ctx, id
	s.tasks.Go(func() { b.take(take{id: id, state: state, ctx: ctx, done: done}) })
	return nil
}

var (
	errNoHandle = fmt.Errorf("no batcher is open by that handle: %w", client.ErrClosed)
	errTwoTakes = fmt.Errorf("%w: two takes at a time on one batcher: one thread takes, "+
		"the others may ask for the status and stop", client.ErrBadRequest)
)

// target reads the handle and the time of a request. The batcher is nil if it is not open.
func (s *server) target(dec *msgpack.Decoder) (*batcher, time.Duration, error) {
	handle, err := dec.DecodeUint64()
	if err != nil {
		return nil, 0, err
	}
	timeout, err := dec.DecodeFloat64()
	if err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batchers[handle], seconds(timeout), nil
}

// took reads which batches the trainer took of what lay ready, and what it has released.
func (s *server) took(dec *msgpack.Decoder) error {
	handle, err := dec.DecodeUint64()
	if err != nil {
		return err
	}
	batch, err := dec.DecodeUint64()
	if err != nil {
		return err
	}
	err = s.free(dec)
	s.mu.Lock()
	b := s.batchers[handle]
	s.mu.Unlock()
	if b != nil {
		b.hears(batch)
	}
	return err
}

// free reads a list of batches, by number, that the trainer uses no longer. Ones that are not lent are ignored: an
// interrupted trainer may say it twice.
func (s *server) free(dec *msgpack.Decoder) error {
	n, err := dec.DecodeArrayLen()
	if err != nil {
		return err
	}
	for range n {
		batch, err := dec.DecodeUint64()
		if err != nil {
			return err
		}
		s.mu.Lock()
		offset, lent := s.lent[batch]
		delete(s.lent, batch)
		s.mu.Unlock()
		if !lent {
			continue
		}
		if err := s.memory.Free(offset); err != nil {
			return err
		}
	}
	return nil
}

// give reads which call the trainer has given up, and ends it. The bridge may have answered that call already: then a
// batch may answer the next take, too, and a batcher that was opened is closed.
func (s *server) give(dec *msgpack.Decoder) error {
	call, err := dec.DecodeUint64()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[call]; cancel != nil {
		cancel(errCancelled)
	}
	for _, b := range s.batchers {
		switch call {
		case b.call:
			b.unseen = append(b.unseen, call)
		case b.opened:
			delete(s.batchers, b.handle)
			_, done := s.queueLocked(b.name)
			s.tasks.Go(func() {
				defer done()
				_ = b.close() // nobody waits for it
			})
		}
	}
	return nil
}

// queue has the opens of one name wait for one another: one that follows an open which the trainer gave up must not
// find the batcher in use by that. before is closed when the earlier ones are over; done says that this one is.
func (s *server) queue(name string) (before <-chan struct{}, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queueLocked(name)
}

func (s *server) queueLocked(name string) (before <-chan struct{}, done func()) {
	before, waits := s.queued[name]
	if !waits {
		none := make(chan struct{})
		close(none)
		before = none
	}
	over := make(chan struct{})
	s.queued[name] = over
	return before, func() {
		close(over)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.queued[name] == over {
			delete(s.queued, name)
		}
	}
}

// begin returns the context of a call, which ends after timeout, when the trainer gives it up, or with the trainer.
func (s *server) begin(id uint64, timeout time.Duration) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	stop := context.CancelFunc(func() {})
	if timeout > 0 {
		ctx, stop = context.WithTimeout(ctx, timeout)
	}
	s.mu.Lock()
	s.calls[id] = cancel
	s.mu.Unlock()
	s.log.enter()
	return ctx, func() {
		s.log.leave()
		// The context ends first: a trainer's cancel that finds no call may be followed at once by the next take, which
		// must find this one over.
		stop()
		cancel(nil)
		s.mu.Lock()
		delete(s.calls, id)
		s.mu.Unlock()
	}
}

// call runs f in a goroutine of its own.
func (s *server) call(id uint64, timeout time.Duration, f func(context.Context)) {
	ctx, done := s.begin(id, timeout)
	s.tasks.Go(func() {
		defer done()
		f(ctx)
	})
}
