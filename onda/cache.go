package onda

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// byteCache keeps the byte slices that were used last, up to a number of
// bytes in all. Of several callers that miss the same key at once, one loads
// and the others wait. It is safe for concurrent use.
type byteCache struct {
	limit int64

	mu      sync.Mutex
	held    int64
	recent  *list.List // of *cacheEntry, most recently used first
	entries map[string]*cacheEntry
}

type cacheEntry struct {
	key  string
	done chan struct{} // closed when data and err are set
	data []byte
	err  error
	at   *list.Element // nil while loading
}

func newByteCache(limit int64) *byteCache {
	return &byteCache{limit: limit, recent: list.New(), entries: map[string]*cacheEntry{}}
}

// fits reports whether a value of size bytes may be kept at all.
func (c *byteCache) fits(size int64) bool { return size <= c.limit }

// get returns the value of key, loading it if it is not held. A failed load is
// not kept. A load that ended because its caller's context did is tried again
// by one of those that waited for it.
func (c *byteCache) get(ctx context.Context, key string, load func() ([]byte, error)) ([]byte, error) {
	for {
		e, mine := c.claim(key)
		if mine {
			return c.fill(e, load)
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !errors.Is(e.err, context.Canceled) && !errors.Is(e.err, context.DeadlineExceeded) {
			return e.data, e.err
		}
	}
}

// claim returns the entry of key, and whether the caller has to fill it.
func (c *byteCache) claim(key string) (*cacheEntry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		if e.at != nil {
			c.recent.MoveToFront(e.at)
		}
		return e, false
	}
	e := &cacheEntry{key: key, done: make(chan struct{})}
	c.entries[key] = e
	return e, true
}

func (c *byteCache) fill(e *cacheEntry, load func() ([]byte, error)) ([]byte, error) {
	// Also when load panics, nobody may be left waiting.
	e.err = errors.New("onda: loading was cut short")
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(e.done)
		if e.err != nil {
			delete(c.entries, e.key)
			return
		}
		e.at = c.recent.PushFront(e)
		c.held += int64(len(e.data))
		for c.held > c.limit {
			last := c.recent.Remove(c.recent.Back()).(*cacheEntry)
			delete(c.entries, last.key)
			c.held -= int64(len(last.data))
		}
	}()
	e.data, e.err = load()
	return e.data, e.err
}
