package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// A coordinator whose process ended has no connection any more, which the server knows at once and its lease only
// after Config.Lease. How busy a machine is makes no difference: a process that runs late keeps its connection.
const (
	pingEvery   = beat / 4
	pingTimeout = pingEvery * 4 / 5
	goneAfter   = 3 * pingEvery // a connection that was lost is made anew within less
	maxPinged   = 8             // coordinators that one of them pings
)

// presence is what the server says of other coordinators' connections.
type presence struct {
	there  map[string]bool      // it had a connection since this coordinator's own was last made
	absent map[string]time.Time // since when it has none
}

// note takes what became of one ping. It reports whether the coordinator has been away for long enough to count as
// dead. One that was not there since this coordinator connected may be about to connect, too, or is where the
// server does not know of it.
func (p *presence) note(id string, there bool, now time.Time) (gone bool) {
	if there {
		p.there[id] = true
		delete(p.absent, id)
		return false
	}
	if !p.there[id] {
		return false
	}
	since, ok := p.absent[id]
	if !ok {
		p.absent[id], since = now, now
	}
	return now.Sub(since) >= goneAfter
}

// callers are the coordinators that have pinged this one. They are pinged, too: the lease of one that has just begun
// may not have been read. Its lock guards the table.
type callers struct {
	mu sync.Mutex
	at map[string]time.Time // of the last ping, by name
}

// callerFor is for how long a caller is pinged: its lease is read within that time.
const callerFor = 2 * beat

// note takes a ping. What names no coordinator is ignored, and so is one too many.
func (c *callers) note(id string, now time.Time) {
	if wire.CheckName("coordinator", id) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == nil {
		c.at = make(map[string]time.Time)
	}
	if _, known := c.at[id]; known || len(c.at) < maxPinged {
		c.at[id] = now
	}
}

// join returns ids, and the callers that are not among them.
func (c *callers) join(ids []string, now time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, at := range c.at {
		if now.Sub(at) > callerFor {
			delete(c.at, id)
		} else if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// forget begins anew, with a new connection.
func (p *presence) forget() { p.there, p.absent = make(map[string]bool), make(map[string]time.Time) }

// pings finds out which other coordinators have a connection, until ctx ends. It begins with the first look at their
// leases, so that the others hear at once that this coordinator has come.
func (m *membership) pings(ctx context.Context) {
	if looked := m.leases.next(); len(m.leases.known()) == 0 {
		select {
		case <-looked:
		case <-ctx.Done():
		}
	}
	var p presence
	p.forget()
	connects := m.nc.Stats().Reconnects
	m.every(ctx, pingEvery, nil, func() {
		if n := m.nc.Stats().Reconnects; n != connects || !m.nc.IsConnected() {
			if n != connects { // others may have taken this one for dead
				m.doubt()
			}
			connects = n
			p.forget()
			return
		}
		m.pingOthers(ctx, &p)
	})
}

// pingOthers pings once.
func (m *membership) pingOthers(ctx context.Context, p *presence) {
	ids := ring(m.callers.join(m.leases.known(), time.Now()), m.cfg.Name)
	there := make([]bool, len(ids))
	var pinged sync.WaitGroup
	for i, id := range ids {
		pinged.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, pingTimeout)
			defer cancel()
			_, err := m.nc.RequestWithContext(ctx, wire.CoordinatorSubject(id, opPing), []byte(m.cfg.Name))
			there[i] = !errors.Is(err, nats.ErrNoResponders)
		})
	}
	pinged.Wait()
	if ctx.Err() != nil {
		return
	}
	gone := make(map[string]bool)
	now := time.Now()
	for i, id := range ids {
		if p.note(id, there[i], now) {
			gone[id] = true
		}
	}
	for _, id := range m.leases.disconnected(gone) {
		m.log.Info("a coordinator has no connection any more: its batchers are taken over", "from", id)
	}
}

// ring returns the ids that follow one's own, in the order of a ring, as many as are pinged: each is pinged by as many
// others.
func ring(ids []string, self string) []string {
	slices.Sort(ids)
	at, found := slices.BinarySearch(ids, self)
	if found {
		ids = slices.Delete(ids, at, at+1)
	}
	ids = slices.Concat(ids[at:], ids[:at])
	return ids[:min(len(ids), maxPinged)]
}
