package coordinator

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// line ends the calls to JetStream under way when the connection breaks: what was asked before is not answered after,
// so that waiting for it is of no use.
type line struct {
	mu            sync.Mutex
	ctx           context.Context // ends when the connection breaks, and is then another; nil before the first call
	fail          context.CancelFunc
	cutAt, backAt time.Time // when the connection broke last, and was there again
}

// settles is how long after its return NATS may be the reason that something failed.
const settles = time.Second

// away reports whether the connection is away, or has been back for a moment only: one who logs the connection has said
// so, and what fails meanwhile is no news.
func (l *line) away(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cutAt.IsZero() && (l.backAt.Before(l.cutAt) || now.Sub(l.backAt) < settles)
}

// warns is the level at which to log what failed and is tried once more: debug where the connection explains it.
func (l *line) warns(now time.Time) slog.Level {
	if l.away(now) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

func (l *line) back() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.backAt = time.Now()
}

func (l *line) context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.ctx, l.fail = context.WithCancel(context.Background())
	}
	return l.ctx
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAt = time.Now()
	if l.ctx != nil {
		l.fail()
		l.ctx = nil
	}
}

// follow gives calls up when the connection breaks, and looks after every batcher when it is back: the server may have
// come back with nothing. It does so until the returned function is called.
func (c *Coordinator) follow(ctx context.Context) (stop func()) {
	status := c.nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING)
	ctx, cancel := context.WithCancel(ctx)
	var follower sync.WaitGroup
	follower.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-status:
				c.lineChanged(s)
			}
		}
	})
	return func() {
		cancel()
		follower.Wait()
		c.nc.RemoveStatusListener(status)
	}
}

func (c *Coordinator) lineChanged(s nats.Status) {
	c.readiness.forget() // the server may come back with nothing
	if s != nats.CONNECTED {
		c.line.cut()
		return
	}
	c.line.back()
	c.fleet.pardon(time.Now())
	c.askWorkers()
	for _, b := range c.actors.all() {
		b.hint(b.reconnected)
	}
}
