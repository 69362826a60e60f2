package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	uploadTries = 3

	// How long a worker may take to store a payload: so long, and what it takes at so many bytes a second.
	uploadTimeout = time.Second
	uploadRate    = 32 << 20
)

// uploads has workers store payloads that could not be fetched from them. It is safe for concurrent use.
type uploads struct {
	cfg    *Config
	nc     *nats.Conn
	run    *run
	silent avoided // those that did not answer: each of many payloads would wait for as long as the first
}

// uploadLimit is how long storing so many bytes may take.
func uploadLimit(size uint64) time.Duration {
	seconds, rest := min(size, wire.MaxPayload)/uploadRate, size%uploadRate
	return uploadTimeout + time.Duration(seconds)*time.Second + time.Duration(rest)*time.Second/uploadRate
}

// ask has a worker store a payload, and returns when it has, or why it has not. A worker that has just let a request
// pass without an answer is not asked.
func (u *uploads) ask(ctx context.Context, res *wire.Result, avoid time.Duration) error {
	subject := wire.UploadSubject(res.Worker)
	body, err := json.Marshal(wire.Upload{Attempt: res.Attempt, Avoid: int64(avoid)})
	if err != nil {
		return err
	}
	if u.silent.has(res.Worker, time.Now()) {
		return errSilent
	}
	for try := 1; ; try++ {
		limited, cancel := context.WithTimeout(ctx, uploadLimit(res.Size))
		msg, err := u.nc.RequestWithContext(limited, subject, body)
		cancel()
		var reply wire.UploadReply
		if err == nil {
			err = readAnswer(subject, msg.Data, &reply)
		}
		switch {
		case err != nil:
			if denied := refusal(u.nc, subject); denied != nil && ctx.Err() == nil && !errors.Is(err, nats.ErrNoResponders) {
				u.run.end(fmt.Errorf("batcher %s: %w", u.cfg.Name, denied))
			}
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				u.silent.add(res.Worker, stallAvoid, time.Now())
			}
			return err
		case reply.Fault == nil:
			return nil
		case reply.Fault.Code == wire.CodeNotKept:
			return errNotKept
		case try == uploadTries:
			return reply.Fault
		}
	}
}
