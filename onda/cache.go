package onda

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// cache keeps decompressed or fetched content up to a number of bytes, of which
// loads under way are a part. What is held stays while it is used: content that
// is drawn at random from more than fits is best kept as it is, since an entry
// that took another's place would be drawn no sooner. Of several callers that
// miss the same key at once, one loads and the others wait. It is safe for
// concurrent use.
type cache struct {
	limit int64
	// patience is the number of claims without one of an entry after which the
	// entry makes room for others.
	patience int64
	// others, if set, counts bytes that are not this cache's and that its limit
	// bounds as well, besides those of a key. It may make room by removing them.
	others func(key string, over int64) int64

	mu      sync.Mutex
	clock   int64      // claims
	held    int64      // bytes of all entries
	recent  *list.List // of *cacheEntry, most recently claimed first
	entries map[string]*cacheEntry
}

type cacheEntry struct {
	key   string
	size  int64
	used  int64 // clock of the last claim
	users int
	at    *list.Element
	done  chan struct{} // closed when value and err are set
	value held
	err   error
}

// held is content that a cache keeps.
type held interface {
	// read gives the bytes, which nobody may write.
	read(from, length int64) ([]byte, error)
	// drop removes it.
	drop()
}

func newCache(limit, patience int64) *cache {
	return &cache{limit: limit, patience: patience, recent: list.New(), entries: map[string]*cacheEntry{}}
}

// read gives bytes of the content of key, which is size bytes long and loaded
// if it is not held. If there is no room for it, ok is false. A failed load is
// not kept. A load that ended because its caller's context did is tried again
// by one of those that waited for it.
func (c *cache) read(ctx context.Context, key string, size, from, length int64, load func() (held, error)) (
	data []byte, ok bool, err error,
) {
	for {
		e, mine := c.claim(key, size)
		if e == nil {
			return nil, false, nil
		}
		if mine {
			c.fill(e, load)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			c.release(e)
			return nil, true, ctx.Err()
		}
		if e.err == nil {
			data, err = e.value.read(from, length)
			c.release(e)
			return data, true, err
		}
		c.release(e)
		if mine || !errors.Is(e.err, context.Canceled) && !errors.Is(e.err, context.DeadlineExceeded) {
			return nil, true, e.err
		}
	}
}

// claim returns the entry of key, and whether the caller has to fill it; nil if
// there is no room.
func (c *cache) claim(key string, size int64) (*cacheEntry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	if e, ok := c.entries[key]; ok {
		c.recent.MoveToFront(e.at)
		e.used, e.users = c.clock, e.users+1
		return e, false
	}
	if !c.makeRoom(key, size) {
		return nil, false
	}
	e := &cacheEntry{key: key, size: size, used: c.clock, users: 1, done: make(chan struct{})}
	e.at = c.recent.PushFront(e)
	c.entries[key] = e
	c.held += size
	return e, true
}

func (c *cache) makeRoom(key string, size int64) bool {
	if size > c.limit {
		return false
	}
	var others int64
	if c.others != nil {
		others = c.others(key, c.held+size-c.limit)
	}
	for at := c.recent.Back(); at != nil && c.held+others+size > c.limit; {
		e := at.Value.(*cacheEntry)
		at = at.Prev()
		if c.clock-e.used <= c.patience {
			break
		}
		if e.users == 0 {
			c.remove(e)
		}
	}
	return c.held+others+size <= c.limit
}

func (c *cache) remove(e *cacheEntry) {
	if c.entries[e.key] != e {
		return
	}
	delete(c.entries, e.key)
	c.recent.Remove(e.at)
	c.held -= e.size
	if e.value != nil {
		e.value.drop()
	}
}

func (c *cache) fill(e *cacheEntry, load func() (held, error)) {
	// Also when load panics, nobody may be left waiting.
	e.err = errors.New("onda: loading was cut short")
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if e.err != nil {
			c.remove(e)
		}
		close(e.done)
	}()
	e.value, e.err = load()
}

func (c *cache) release(e *cacheEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
}

// forget drops an entry whose content is gone.
func (c *cache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		select {
		case <-e.done:
			c.remove(e)
		default:
		}
	}
}

// inMemory is content of size bytes in memory, in pieces of pieceBytes and a
// shorter last one, which are allocated as bytes come: the size is what a table
// says.
type inMemory struct {
	size   int64
	pieces [][]byte
}

const pieceBytes = 1 << 20

// Write adds to the content, up to its size.
func (m *inMemory) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		last := len(m.pieces) - 1
		if last < 0 || len(m.pieces[last]) == pieceBytes {
			left := m.size - int64(len(m.pieces))*pieceBytes
			m.pieces = append(m.pieces, make([]byte, 0, max(0, min(left, pieceBytes))))
			last++
		}
		take := min(len(p), pieceBytes-len(m.pieces[last]))
		m.pieces[last] = append(m.pieces[last], p[:take]...)
		p = p[take:]
	}
	return n, nil
}

func (m *inMemory) read(from, length int64) ([]byte, error) {
	i, at := from/pieceBytes, from%pieceBytes
	if length == 0 {
		return nil, nil
	}
	if at+length <= pieceBytes {
		return m.pieces[i][at : at+length : at+length], nil
	}
	out := make([]byte, 0, length)
	for ; int64(len(out)) < length; i, at = i+1, 0 {
		piece := m.pieces[i][at:]
		out = append(out, piece[:min(int64(len(piece)), length-int64(len(out)))]...)
	}
	return out, nil
}

func (m *inMemory) drop() {}
