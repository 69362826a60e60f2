package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// stop is Batcher.Stop.
func (r *reader) stop(ctx context.Context) error {
	if err := r.open(); err != nil {
		return err
	}
	r.mu.Lock()
	had := r.sticky
	r.mu.Unlock()
	if errors.Is(had, ErrSuperseded) {
		return had // the run is another's
	}
	var job *JobError
	errors.As(had, &job)
	again := errors.Is(had, ErrStopped)
	if !again {
		r.halt()
	}
	req := r.stopRequest(false)
	var reply wire.StopReply
	err := r.ask(ctx, r.ctx, "stop", req, requestTimeout, false, func(data []byte) (*schema.Fault, error) {
		reply = wire.StopReply{}
		err := json.Unmarshal(data, &reply)
		return reply.Fault, err
	})
	switch {
	case err != nil && !errors.Is(err, ErrStopped):
		return err
	case again:
		return nil // the first Stop has told
	case job != nil:
		return job
	case reply.Error != nil:
		return r.cfg.faultError(reply.Error)
	}
	return nil
}

// halt ends the run as far as this handle goes, in the place of a failure that it may have had.
func (r *reader) halt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sticky, r.started, r.failed, r.eof = nil, false, nil, false
	r.phase = schema.PhaseClosed
	r.failLocked(fmt.Errorf("batcher %s: %w", r.cfg.Name, ErrStopped))
}

// close is Batcher.Close.
func (r *reader) close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	superseded := errors.Is(r.sticky, ErrSuperseded)
	r.endSession()
	r.mu.Unlock()
	r.unregister()
	r.cancel()
	r.signal()
	r.data.Close()
	r.tasks.Wait()
	r.fetcher.close()
	if superseded {
		return nil
	}
	return r.leave(r.stopRequest(true))
}

// stopRequest ends the run or gives up the seat, with the last word on how far the trainer came.
func (r *reader) stopRequest(leave bool) *wire.StopRequest {
	id := r.nextRequest().String()
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.credit()
	return &wire.StopRequest{Batcher: r.cfg.Name, Request: id, Reader: r.id, Leave: leave, Last: &last}
}

func (r *reader) leave(req *wire.StopRequest) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("batcher %s: %w", r.cfg.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	msg, err := r.nc.RequestWithContext(ctx, wire.CoordinatorPrefix+".stop", body)
	if err != nil {
		return fmt.Errorf("batcher %s: leave: %w", r.cfg.Name, err)
	}
	var reply wire.StopReply
	if err := json.Unmarshal(msg.Data, &reply); err != nil {
		return fmt.Errorf("batcher %s: leave: %w", r.cfg.Name, err)
	}
	if f := reply.Fault; f != nil && f.Code != schema.CodeSuperseded && f.Code != schema.CodeStopped {
		return fmt.Errorf("batcher %s: leave: %w", r.cfg.Name, r.cfg.faultError(f))
	}
	return nil
}
