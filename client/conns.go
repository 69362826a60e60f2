package client

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	idlePerWorker = fetchers
	idleAtMost    = 64 // of all workers
	idleFor       = time.Minute
	checkEvery    = time.Second
	checkTimeout  = time.Millisecond // for a connection to show that its worker closed it
)

// conns are connections to workers that wait for the next fetch. At most idleAtMost of them are kept, and each for
// idleFor at most; tend closes those that their worker has closed. The zero value has none; it is safe for
// concurrent use.
type conns struct {
	mu     sync.Mutex
	idle   []idleConn // the one that was used last is last
	closed bool
}

type idleConn struct {
	net.Conn
	peer           peer
	since, checked time.Time
}

// peer names the far end of a connection. Another certificate is another peer; without one the connection is not
// encrypted.
type peer struct{ address, pin string }

// get returns a connection, the one of that peer that was used last; nil if there is none.
func (c *conns) get(to peer) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, conn := range slices.Backward(c.idle) {
		if conn.peer == to {
			c.idle = slices.Delete(c.idle, i, i+1)
			return conn.Conn
		}
	}
	return nil
}

// put keeps a connection on which nothing is outstanding, or closes it, or an older one in its favour.
func (c *conns) put(to peer, conn net.Conn, now time.Time) {
	if drop := c.add(idleConn{conn, to, now, now}); drop != nil {
		_ = drop.Close() // all that was asked for has come
	}
}

// add keeps a connection and returns the one that has to go for it, nil if none has to.
func (c *conns) add(conn idleConn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	of := 0
	for i := range c.idle {
		if c.idle[i].peer == conn.peer {
			of++
		}
	}
	if c.closed || of >= idlePerWorker {
		return conn.Conn
	}
	c.idle = append(c.idle, conn)
	if len(c.idle) <= idleAtMost {
		return nil
	}
	oldest := c.idle[0].Conn
	c.idle = slices.Delete(c.idle, 0, 1)
	return oldest
}

// tend checks connections that have been idle for a while, until ctx ends. A worker that leaves closes its ends, which
// would show only at the next fetch from it, and that never comes.
func (c *conns) tend(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.check(now)
		}
	}
}

// check closes connections that are too old, or that their worker closed. A fetch cannot have a connection that is
// being checked, so they are checked one at a time.
func (c *conns) check(now time.Time) {
	for conn, ok := c.due(now); ok; conn, ok = c.due(now) {
		if now.Sub(conn.since) >= idleFor || !alive(conn.Conn) || !c.restore(conn) {
			_ = conn.Close() // no fetch waits for anything on it
		}
	}
}

// due takes one out that was neither used nor checked for a while.
func (c *conns) due(now time.Time) (conn idleConn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.idle, func(conn idleConn) bool { return now.Sub(conn.checked) >= checkEvery })
	if i < 0 {
		return idleConn{}, false
	}
	conn = c.idle[i]
	conn.checked = now
	c.idle = slices.Delete(c.idle, i, i+1)
	return conn, true
}

// restore puts a connection back before those that were used since. It reports false when conns is closed.
func (c *conns) restore(conn idleConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	at, _ := slices.BinarySearchFunc(c.idle, conn, func(a, b idleConn) int { return a.since.Compare(b.since) })
	c.idle = slices.Insert(c.idle, at, conn)
	return true
}

// alive reports whether the peer has neither closed a connection nor sent anything unasked.
func alive(conn net.Conn) bool {
	if err := conn.SetReadDeadline(time.Now().Add(checkTimeout)); err != nil {
		return false
	}
	var one [1]byte
	_, err := conn.Read(one[:])
	return errors.Is(err, os.ErrDeadlineExceeded) && conn.SetReadDeadline(time.Time{}) == nil
}

// len returns how many there are to a peer's address.
func (c *conns) len(address string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.idle {
		if c.idle[i].peer.address == address {
			n++
		}
	}
	return n
}

func (c *conns) close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.closed = nil, true
	c.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close() // no fetch waits for anything on it
	}
}
