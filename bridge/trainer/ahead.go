//go:build linux

package trainer

import (
	"context"
	"errors"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Bounds on what lies ready for the trainer beyond the batches that it took.
const (
	aheadBatches = 16
	aheadBytes   = 4 << 20
)

var errNoRoom = errors.New("enough lies ready")

// ahead is what lies ready for the trainer in shared memory and is not taken. It is a plain state machine:
// docs/BRIDGE.md describes it.
type ahead struct {
	on    bool
	next  schema.State // after the last batch that lies ready
	ready []offer      // oldest first
	bytes int
}

// offer is a batch that the trainer may take without asking.
type offer struct {
	batch uint64 // its number
	size  int
	prev  schema.State
}

// begin follows a batch that the trainer took by asking.
func (a *ahead) begin(next schema.State) { *a = ahead{on: true, next: next} }

// lapse has nothing more lie ready. What the trainer took before it heard of that counts all the same.
func (a *ahead) lapse() { a.on = false }

// end withdraws what lies ready. Its memory is the trainer's until the trainer says otherwise.
func (a *ahead) end() { *a = ahead{} }

func (a *ahead) room(size int) bool {
	return len(a.ready) < aheadBatches && size <= aheadBytes-a.bytes
}

func (a *ahead) add(o offer, next schema.State) {
	a.ready, a.bytes, a.next = append(a.ready, o), a.bytes+o.size, next
}

// has reports whether the batch after state is the first that lies ready.
func (a *ahead) has(state schema.State) bool {
	return a.on && len(a.ready) > 0 && follows(a.ready[0].prev, state)
}

// follows reports whether the batch after one state is the one asked for. A state without an origin is of any.
func follows(before, asked schema.State) bool {
	return before.Equal(asked) && (asked.Origin == "" || asked.Origin == before.Origin)
}

// taken returns the states before the batches with numbers up to batch, in order.
func (a *ahead) taken(batch uint64) (states []schema.State) {
	for i := range a.ready {
		if a.ready[i].batch > batch {
			break
		}
		states = append(states, a.ready[i].prev)
	}
	return states
}

// drop removes the first n batches.
func (a *ahead) drop(n int) {
	for _, o := range a.ready[:n] {
		a.bytes -= o.size
	}
	a.ready = a.ready[n:]
}

// readAhead prepares the next batches until the batcher is closed or the trainer ends.
func (b *batcher) readAhead() {
	for {
		more := b.prepare()
		select {
		case <-more:
		case <-b.wake:
		case <-b.open.Done():
			return
		}
	}
}

// prepare takes from the client the batches that the trainer took, and offers the trainer the next ones that are here.
// The channel is closed when the client may have another one; nil means that there is nothing to wait for.
func (b *batcher) prepare() <-chan struct{} {
	b.turn <- struct{}{}
	defer b.give()
	defer b.publish()
	b.settle(b.pause())
	for b.ahead.on {
		seen, more, err := b.b.Peek(b.ahead.next, b.offer)
		switch {
		case errors.Is(err, errNoRoom), errors.Is(err, bridge.ErrMemoryFull), err == nil && !seen:
			return more
		case err != nil: // the trainer's next take says what it is
			b.ahead.lapse()
			b.publish()
			b.s.send(uint64(0), "withdrawn", b.handle)
		}
	}
	return nil
}

// offer lays a batch ready.
func (b *batcher) offer(step client.Step[schema.Batch]) error {
	size := wire.EncodedSize(step.Batch)
	if !b.ahead.room(size) {
		return errNoRoom
	}
	place, err := b.share(step.Batch, size)
	if err != nil {
		return err
	}
	b.ahead.add(offer{place.batch, place.size, step.Prev}, step.Next)
	b.laid++
	b.entries = place.append(msgp.AppendArray(b.entries, 6), &step)
	var data []byte // of an empty state is nil
	if len(step.Next.Data) > 0 {
		data = step.Next.Data
	}
	b.entries = msgp.AppendBytes(b.entries, data)
	b.entries = b.appendAbout(b.entries, &step)
	return nil
}

// publish tells the trainer which batches the bridge has laid into shared memory since the last time.
func (b *batcher) publish() {
	if b.laid == 0 {
		return
	}
	b.frame = append(b.head("ready", 0, 4), msgp.AppendArray(nil, b.laid)...)
	b.frame = append(b.frame, b.entries...)
	b.laid, b.entries = 0, b.entries[:0]
	b.s.post(b.frame)
}

// settle takes from the service what the trainer took of what lay ready. What ctx leaves no time for is the next
// settling's; where a run failed meanwhile, the trainer's next take says so.
func (b *batcher) settle(ctx context.Context) {
	told := false
	for ctx.Err() == nil {
		states := b.ahead.taken(b.took.Load())
		if len(states) == 0 {
			break
		}
		n, err := b.b.TakeSeen(ctx, states...)
		if err != nil {
			var step client.Step[schema.Batch]
			if step, err = b.b.Take(ctx, states[n]); err == nil {
				step.Release()
			} else if ctx.Err() != nil {
				b.ahead.drop(n)
				break
			}
			n++
		}
		b.ahead.drop(n)
		told = true
	}
	if told { // the trainer reads before it takes again
		b.s.log.enter()
		b.s.log.leave()
	}
}

// hears notes up to which batch the trainer took what lay ready.
func (b *batcher) hears(batch uint64) {
	b.took.Store(batch)
	b.look()
}

// look has readAhead look again.
func (b *batcher) look() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
