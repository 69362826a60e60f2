//go:build linux

package trainer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jetbatch/jetbatch/bridge"
	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/lend"
	"github.com/jetbatch/jetbatch/internal/msgp"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// batcher is one that the trainer has open.
type batcher struct {
	s      *server
	handle uint64
	b      *client.Batcher[schema.Batch] // of views of what came
	name   string
	ranked bool   // it is of a rank of a world
	opened uint64 // the call that opened it

	// Of the goroutine that reads requests: the newest take, which has ended or was given up when another comes.
	last context.Context
	call uint64

	unseen []uint64 // takes that the trainer gave up: it sees no answer to them. Under server.mu.

	// turn is held by a take, or by readAhead between two takes, since a take that was given up may not be over yet. Its
	// holder alone uses the fields up to about.
	turn         chan struct{}
	given        *handed       // the batch that answered the newest take, which the trainer may not have seen
	ahead        ahead         // what lies ready for the trainer
	laid         int           // how many of those the trainer does not know yet
	entries      []byte        // and what it will be told of them
	frame, about []byte        // for encoding
	took         atomic.Uint64 // up to which number the trainer took what lay ready
	wake         chan struct{} // a hint for readAhead
	open         context.Context
	ends         context.CancelFunc

	mu        sync.Mutex
	between   context.Context // ends when a take comes: it goes before what is done between two
	interrupt context.CancelFunc
}

// place is where a batch is that the trainer may see.
type place struct {
	batch  uint64 // its number
	offset int64
	size   int
}

// take is a request for a batch.
type take struct {
	id    uint64
	state schema.State
	ctx   context.Context
	done  func()
}

// handed is a batch that the client has given out, and that answered a take.
type handed struct {
	step  client.Step[schema.Batch]
	asked schema.State // by the take
	call  uint64       // the take that it answered
	at    place        // where it was then
	over  bool         // no other take may have it
}

func (s *server) open(ctx context.Context, id uint64, req *openRequest) {
	cfg := req.config()
	cfg.Domain, cfg.Logger = s.domain, s.log.logger
	if cfg.World == nil { // a rank has parts of payloads
		ctx = lend.With(ctx, lender{s.memory})
	}
	opened, err := client.Open[schema.Batch](ctx, s.nc, cfg)
	if err != nil {
		s.answer(id, err)
		return
	}
	b := &batcher{s: s, b: opened, name: cfg.Name, ranked: cfg.World != nil, opened: id}
	b.turn, b.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	b.open, b.ends = context.WithCancel(s.ctx)
	b.renew()
	s.mu.Lock()
	late := errors.Is(context.Cause(ctx), errCancelled)
	if !late { // from here on a trainer that gives the call up has the batcher closed
		s.handles++
		b.handle = s.handles
		s.batchers[b.handle] = b
	}
	s.mu.Unlock()
	if late {
		s.answer(id, errors.Join(errCancelled, opened.Close()))
		return
	}
	s.tasks.Go(b.readAhead)
	if cfg.World == nil {
		s.answer(id, nil, b.handle)
	} else {
		s.answer(id, nil, b.handle, cfg.World.Rank)
	}
}

func (s *server) forget(b *batcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.batchers, b.handle)
}

// close leaves the batcher, and ends a take that waits.
func (b *batcher) close() error {
	ctx, cancel := context.WithTimeout(b.open, lastWords)
	b.counted(ctx)
	cancel()
	b.ends()
	err := b.b.Close()
	b.turn <- struct{}{}
	defer b.give()
	b.ahead.end()
	return err
}

func (b *batcher) give() { <-b.turn }

// asked ends what is done between two takes.
func (b *batcher) asked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.interrupt()
}

// renew begins what is done between two takes.
func (b *batcher) renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.interrupt != nil {
		b.interrupt()
	}
	b.between, b.interrupt = context.WithCancel(b.open)
}

func (b *batcher) pause() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.between
}

// counted returns when the client has counted what the trainer took, when a take comes, which does that, or with ctx.
func (b *batcher) counted(ctx context.Context) {
	between := b.pause()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(between, cancel)()
	select {
	case b.turn <- struct{}{}:
		defer b.give()
		b.settle(ctx)
	case <-ctx.Done():
	}
}

// withdraw ends reading ahead until the trainer takes again, which is given nothing that was taken before.
func (b *batcher) withdraw() {
	b.turn <- struct{}{}
	defer b.give()
	b.ahead.end()
	if b.given != nil {
		b.given.over = true
	}
}

func (b *batcher) take(t take) {
	b.turn <- struct{}{}
	defer b.give()
	b.settle(t.ctx)
	if errors.Is(context.Cause(t.ctx), errCancelled) { // while it waited for its turn
		b.ahead.end() // as the trainer does that hears of an error
		t.done()
		b.s.answer(t.id, errCancelled)
		return
	}
	if g := b.given; b.unseenBefore(t.id) && b.stands(g, t.state) && b.s.has(g.at) {
		b.ahead.end()
		t.done()
		b.hand(t, g.at, &g.step)
		return
	}
	if b.ahead.has(t.state) { // and the trainer did not see it when it asked
		b.renew()
		t.done()
		b.s.send(t.id, "ready")
		b.look()
		return
	}
	b.ahead.end()
	var at place
	step, err := b.b.TakeIf(t.ctx, t.state, func(batch schema.Batch) (err error) {
		if errors.Is(context.Cause(t.ctx), errCancelled) {
			return errCancelled // it came just too late
		}
		at, err = b.share(batch, wire.EncodedSize(batch))
		return err
	})
	t.done()
	if errors.Is(err, bridge.ErrMemoryFull) {
		err = fmt.Errorf("the trainer keeps arrays of earlier batches: %w; "+
			"let go of them, copy what is to be kept, or raise memory", err)
	}
	if err != nil {
		b.s.answer(t.id, err)
		return
	}
	step.Release()
	b.hand(t, at, &step)
}

// hand answers a take with a batch that lies where the trainer sees it.
func (b *batcher) hand(t take, at place, step *client.Step[schema.Batch]) {
	b.given = &handed{step: *step, asked: t.state, call: t.id, at: at}
	b.given.step.Batch = nil // it was released
	b.deliver(t.id, at, step)
	b.ahead.begin(step.Next)
	b.renew()
	b.look()
}

// stands reports whether a batch that was taken, and that the trainer has not seen, may answer a take of a state: the
// client goes on behind it, and has neither stopped nor lost the batcher.
func (b *batcher) stands(h *handed, state schema.State) bool {
	if h.over || !follows(h.asked, state) && !follows(h.step.Prev, state) {
		return false
	}
	_, _, err := b.b.Peek(h.step.Next, func(client.Step[schema.Batch]) error { return nil })
	// ErrUnavailable is of the batch after this one: the client does not know which that will be.
	return err == nil || errors.Is(err, client.ErrUnavailable)
}

// share has a batch, whose payload has that size, lie where the trainer sees it: it is there, or copied. The trainer
// has it until the trainer frees it by its number.
func (b *batcher) share(batch schema.Batch, size int) (at place, err error) {
	at.size = size
	if at.size > LargeBatch && b.s.large != nil {
		b.s.large()
	}
	lies, offset, ok, err := lender{b.s.memory}.holds(batch, size)
	if err != nil {
		return at, err
	}
	if ok {
		b.lend(&at, lies, offset)
		return at, nil
	}
	offset, slot, err := b.s.memory.Alloc(at.size)
	if err != nil {
		return at, err
	}
	if _, err := wire.AppendBatch(slot[:0], batch); err != nil { // within the slot, which has room for it
		return at, errors.Join(err, b.s.memory.Free(offset))
	}
	b.lend(&at, offset, offset)
	return at, nil
}

// lend gives the trainer the batch that lies in a slot.
func (b *batcher) lend(at *place, slot, offset int64) {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.numbers++
	at.batch, at.offset = b.s.numbers, offset
	b.s.lent[at.batch] = slot
}

// unseenBefore reports whether the batch that was given last answered a take that the trainer gave up before this one.
func (b *batcher) unseenBefore(take uint64) bool {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	unseen := b.given != nil && slices.Contains(b.unseen, b.given.call)
	b.unseen = slices.DeleteFunc(b.unseen, func(call uint64) bool { return call < take })
	return unseen
}

// has reports whether the trainer has a batch still.
func (s *server) has(at place) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, lent := s.lent[at.batch]
	return lent
}

// deliver answers a take.
func (b *batcher) deliver(id uint64, at place, step *client.Step[schema.Batch]) {
	frame := at.append(b.head("step", id, 9), step)
	frame, err := msgp.Append(frame, step.Next)
	if err != nil {
		b.s.answer(id, err)
		return
	}
	b.frame = b.appendAbout(frame, step)
	b.s.post(b.frame)
}

// head begins a frame of so many elements with its first three.
func (b *batcher) head(word string, id uint64, elements int) []byte {
	frame := msgp.AppendUint(msgp.AppendArray(b.frame[:0], elements), id)
	return msgp.AppendUint(msgp.AppendString(frame, word), b.handle)
}

// append appends the batch's number and where it is, and its place in the sequence.
func (p place) append(dst []byte, step *client.Step[schema.Batch]) []byte {
	for _, n := range [...]uint64{p.batch, uint64(p.offset), uint64(p.size), step.Seq} {
		dst = msgp.AppendUint(dst, n)
	}
	return dst
}

// appendAbout appends what a trainer may want to know of a batch, as bytes that it need not decode.
func (b *batcher) appendAbout(dst []byte, step *client.Step[schema.Batch]) []byte {
	b.about = about(b.about[:0], step)
	return msgp.AppendBytes(dst, b.about)
}

// about appends where the time of a batch went, in the order of the fields of schema.Timing, who made it, and which
// rows came.
func about(dst []byte, step *client.Step[schema.Batch]) []byte {
	t := &step.Timing
	dst = msgp.AppendArray(msgp.AppendArray(dst, 6), 12)
	for _, d := range [...]time.Duration{
		t.Iterate, t.Queue, t.Materialize, t.Transfer, t.Wait, t.Trainer,
		t.WaitIterate, t.WaitQueue, t.WaitMaterialize, t.WaitTransfer, t.WaitRanks, t.WaitOther,
	} {
		dst = msgp.AppendInt(dst, int64(d))
	}
	dst = msgp.AppendString(msgp.AppendString(dst, step.Worker), step.Attempt)
	dst = msgp.AppendString(msgp.AppendUint(dst, step.Deliveries), step.Trace)
	dst = msgp.AppendArray(dst, 3)
	for _, row := range [...]int{step.Rows.From, step.Rows.To, step.Rows.Of} {
		dst = msgp.AppendUint(dst, uint64(row))
	}
	return dst
}
