package client

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Waits of Take. The owner is asked from lookAgain on: by then a live message that was lost is not the
// likely reason any more.
const (
	firstLook = 200 * time.Millisecond
	lookAgain = time.Second
	firstWarn = 5 * time.Second
	silence   = 1500 * time.Millisecond // an owner that does not answer for so long may be gone
)

// patience is the timing of one wait of Take.
type patience struct {
	began, since time.Time // of the wait, and of what is being waited for now
	look, warn   time.Time
	straggle     time.Time // when the head is a straggler; zero for never
	timer        *time.Timer
}

func newPatience(now time.Time) *patience {
	return &patience{began: now, since: now, look: now.Add(firstLook), warn: now.Add(firstWarn)}
}

// reset begins with the looks anew, after a seat was asked for.
func (p *patience) reset() {
	p.since = time.Now()
	p.look = p.since.Add(firstLook)
}

// alarm is when the next thing is due.
func (p *patience) alarm() <-chan time.Time {
	next := p.look
	if p.warn.Before(next) {
		next = p.warn
	}
	if !p.straggle.IsZero() && p.straggle.Before(next) {
		next = p.straggle
	}
	if p.timer == nil {
		p.timer = time.NewTimer(time.Until(next))
	} else {
		p.timer.Reset(time.Until(next))
	}
	return p.timer.C
}

// dueLook reports whether to look into the store now, and whether the owner is to be asked, too.
func (p *patience) dueLook(now time.Time) (look, ask bool) {
	if now.Before(p.look) {
		return false, false
	}
	ask = p.look.Sub(p.since) >= lookAgain
	p.look = now.Add(lookAgain)
	if !ask {
		p.look = p.since.Add(lookAgain)
	}
	return true, ask
}

// dueStraggler reports whether the head is a straggler by now.
func (p *patience) dueStraggler(now time.Time) bool {
	return !p.straggle.IsZero() && !now.Before(p.straggle)
}

// dueWarning reports whether to log what is waited for: after 5, 10, 20 s and so on.
func (p *patience) dueWarning(now time.Time) bool {
	if now.Before(p.warn) {
		return false
	}
	p.warn = now.Add(now.Sub(p.began))
	return true
}

func (p *patience) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

// nag logs now and then what a request waits for, as Take does for batches.
type nag struct {
	log   *slog.Logger
	began time.Time
	next  time.Duration
}

func newNag(log *slog.Logger) *nag { return &nag{log: log, began: time.Now(), next: firstWarn} }

func (n *nag) say(what string) {
	if waited := time.Since(n.began); waited > n.next {
		n.next = 2 * waited
		n.log.Warn("still waiting", "for", what, "waited", waited.Round(time.Millisecond))
	}
}

// pause waits about d, unless one of the contexts ends before, or early does. It reports whether the wait became moot;
// with a nil moot it never does.
func pause(ctx, run context.Context, d time.Duration, early <-chan struct{}, moot func() (bool, <-chan struct{})) bool {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	for {
		var changed <-chan struct{}
		if moot != nil {
			var is bool
			if is, changed = moot(); is {
				return true
			}
		}
		select {
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		case <-run.Done():
			return false
		case <-early:
			return false
		case <-changed:
		}
	}
}
