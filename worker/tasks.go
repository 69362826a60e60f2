package worker

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// tasks are the goroutines of a worker besides its slots. None begins once they have ended.
type tasks struct {
	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// run begins f unless the tasks have ended.
func (t *tasks) run(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.wg.Go(f)
	}
	return !t.ended
}

// end lets nothing new begin and waits for what runs.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.wg.Wait()
}

// bell asks the worker's loop, its only receiver, to announce the worker at once, and to see whether a drain is over.
type bell struct {
	ch       chan struct{}
	draining atomic.Bool
}

func newBell() *bell { return &bell{ch: make(chan struct{}, 1)} }

func (b *bell) ring() {
	select {
	case b.ch <- struct{}{}:
	default: // the loop has yet to hear the last ring
	}
}

// ended says that something has ended that a drain waits for.
func (b *bell) ended() {
	if b.draining.Load() {
		b.ring()
	}
}

// life is what all parts of a worker share of its Run. The contexts, the name and the logger are set before any other
// goroutine of the worker uses them.
type life struct {
	epoch  time.Time              // the instant 0 of now
	name   atomic.Pointer[string] // read by Status at any time
	log    *slog.Logger
	soft   context.Context // ends when Run's context does: nothing new begins
	hard   context.Context // ends when the drain is over: what runs is cut off
	cutOff context.CancelCauseFunc
}

// now is the worker's monotonic clock in nanoseconds.
func (l *life) now() int64 { return int64(time.Since(l.epoch)) }

func (l *life) worker() string { return *l.name.Load() }

// rename gives the worker its name, which is in all that it logs.
func (l *life) rename(name string, log *slog.Logger) {
	l.name.Store(&name)
	l.log = log.With("worker", name)
}

func (l *life) begin(ctx context.Context) {
	l.soft = ctx
	l.hard, l.cutOff = context.WithCancelCause(context.WithoutCancel(ctx))
}

// sleep waits for d, or for the end of ctx, whose cause it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
