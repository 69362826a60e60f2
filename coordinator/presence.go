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

// forget begins anew, with a new connection.
func (p *presence) forget() { p.there, p.absent = make(map[string]bool), make(map[string]time.Time) }

// pings finds out which other coordinators have a connection, until ctx ends.
func (m *membership) pings(ctx context.Context) {
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
	ids := ring(m.leases.known(), m.cfg.Name)
	there := make([]bool, len(ids))
	var pinged sync.WaitGroup
	for i, id := range ids {
		pinged.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, pingTimeout)
			defer cancel()
			_, err := m.nc.RequestWithContext(ctx, wire.CoordinatorSubject(id, opPing), nil)
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
