// Package client is what a trainer imports: it takes batches strictly in order, each with the state that
// follows it, from a service that makes them in parallel elsewhere.
//
//	nc, err := client.Connect(url)
//	b, err := client.Open[schema.Batch](ctx, nc, client.Config{Name: "train", Dataset: "ecg", Params: params})
//	defer b.Close()
//	for step, err := range b.All(ctx, saved) {
//		if err != nil { … }
//		train(step.Batch)
//		saved = step.Next // goes into the checkpoint
//		step.Release()
//	}
//
// What is taken from a state is the same, byte for byte and state for state, whatever happens to workers,
// coordinators and the broker meanwhile. A wait ends in a batch, io.EOF, a typed error or the caller's
// context, and a long one is logged with what it waits for. The package never starts a run of its own
// accord: only Start and Take do.
package client

import (
	"context"
	"iter"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/lend"
	"github.com/jetbatch/jetbatch/schema"
)

// Step is one batch and its place in the sequence.
type Step[B any] = schema.Step[B]

// Batcher is a handle on one named sequence of batches. One goroutine takes; Status, Stop and Close may be
// called from others.
type Batcher[B any] struct {
	r *reader
	s *sharing // nil but for one of several readers
}

// Open takes hold of the batcher that cfg names, without starting it: another process can no longer. It
// waits for a coordinator until ctx ends.
//
// Errors: ErrBadConfig, ErrInUse, ErrSpecMismatch, ErrUnknownDataset, ErrBadParams, ErrPermission, ErrJetStream, and
// ErrUnavailable when ctx ended first. nc stays the caller's; a second connection like it is opened for
// the batches.
func Open[B any](ctx context.Context, nc *nats.Conn, cfg Config) (*Batcher[B], error) {
	cfg.buffers = lend.From(ctx)
	_, tensors := any((*B)(nil)).(*schema.Batch)
	r, err := openReader(ctx, nc, cfg, tensors)
	if err != nil {
		return nil, err
	}
	b := &Batcher[B]{r: r}
	if cfg.Reader != "" {
		b.s = &sharing{cfg: cfg, nc: nc, align: tensors, main: r}
	}
	return b, nil
}

// Start begins at state, the zero State being the data set's first. On a running batcher it warns and
// changes nothing. After Stop or a failure it begins anew. Take starts by itself; Start only lets the
// first batches be made while the trainer still prepares.
func (b *Batcher[B]) Start(ctx context.Context, state schema.State) error {
	if b.s != nil {
		return b.s.start(ctx, state)
	}
	return b.r.start(ctx, state)
}

// Take returns the batch that follows state, and the state after it. In order:
//
//   - A failed run is an error, a *JobError where a job or the iterator is at fault, and stays one until
//     Start. With FailFast, the default, it is reported even while good batches before it are buffered.
//   - If state is not the one that the batch before left, Take warns and moves there. What the service
//     still holds is looked up, all else is made again.
//   - At the end of the data it returns io.EOF. Asked again for the same state it does so again, for another
//     state it moves there.
//
// On a batcher that was never started, Take starts it. When ctx ends first the error matches ErrUnavailable
// and ctx's cause and says what was waited for; nothing is lost, and the next Take goes on.
func (b *Batcher[B]) Take(ctx context.Context, state schema.State) (Step[B], error) {
	return b.TakeIf(ctx, state, nil)
}

// All takes from state on, following Next by itself, until the data ends. An error is yielded once, with a
// zero Step, and ends the sequence. Each range over the sequence begins at state.
func (b *Batcher[B]) All(ctx context.Context, state schema.State) iter.Seq2[Step[B], error] {
	return func(yield func(Step[B], error) bool) {
		for at := state; ; {
			step, err := b.Take(ctx, at)
			if isEnd(err) {
				return
			}
			if !yield(step, err) || err != nil {
				return
			}
			at = step.Next
		}
	}
}

// Status asks the service how the batcher stands.
func (b *Batcher[B]) Status(ctx context.Context) (schema.Status, error) { return b.r.status(ctx) }

// Stop ends the run: what is under way is dropped, and Take returns ErrStopped until Start. It returns the error that
// the run had, if it had one; after a Stop that ctx cut short, the next one does. One of several readers ends its own
// part in it alone. Stopping twice is fine.
func (b *Batcher[B]) Stop(ctx context.Context) error {
	if b.s != nil {
		return b.s.stop(ctx)
	}
	return b.r.stop(ctx)
}

// Close gives the batcher up, so that another process may hold it, and ends a Take that still waits with
// ErrClosed. The run is not stopped: a process that opens the batcher within IdleTimeout finds what was prepared. An
// error says that no coordinator heard of it, within 2 s while none answers, within 6 s while one that has just begun
// puts it off; the batcher is then free when its lease has run out.
// Closing twice is fine.
func (b *Batcher[B]) Close() error {
	if b.s != nil {
		return b.s.close()
	}
	return b.r.close()
}
