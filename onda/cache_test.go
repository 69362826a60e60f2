package onda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

func testReader(t testing.TB, src Source, limit int64) *reader {
	t.Helper()
	r, err := newReader(src, "", limit, 1)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Loads under way and what is held come to the limit at most, whatever is asked
// for by how many at once; and all are given what they ask for.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1000
		c := newCache(limit, rapid.Int64Range(0, 20).Draw(t, "patience"))
		var loading, most, around atomic.Int64
		sizes := rapid.SliceOfN(rapid.Int64Range(1, 1200), 1, 8).Draw(t, "sizes")
		keys := rapid.SliceOfN(rapid.IntRange(0, len(sizes)-1), 1, 60).Draw(t, "keys")
		var wg sync.WaitGroup
		for _, k := range keys {
			wg.Go(func() {
				data, ok, err := c.read(context.Background(), fmt.Sprint(k), sizes[k], 0, sizes[k], func() (held, error) {
					now := loading.Add(sizes[k])
					defer loading.Add(-sizes[k])
					for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
					}
					whole := make([]byte, sizes[k])
					whole[0] = byte(k)
					return inPieces(whole), nil
				})
				if !ok {
					around.Add(1)
				} else if err != nil || int64(len(data)) != sizes[k] || data[0] != byte(k) {
					t.Errorf("%d: %d bytes, %v", k, len(data), err)
				}
			})
		}
		wg.Wait()
		held := int64(0)
		for _, e := range c.entries {
			held += e.size
			if e.users != 0 {
				t.Errorf("%s has %d users", e.key, e.users)
			}
		}
		if c.held != held || held > limit || most.Load() > limit || c.recent.Len() != len(c.entries) {
			t.Fatalf("%d of %d bytes held in %d entries, %d loading", held, c.held, len(c.entries), most.Load())
		}
	})
}

// What is used stays, and what is not makes room.
func TestCacheKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	c := newCache(100, 4)
	loads := map[string]int{}
	get := func(key string) bool {
		t.Helper()
		_, ok, err := c.read(t.Context(), key, 50, 0, 50, func() (held, error) {
			loads[key]++
			return inPieces(make([]byte, 50)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for range 5 {
		if !get("a") || !get("b") || get("c") {
			t.Fatal("a and b are held, and c takes no place")
		}
	}
	for range 4 {
		get("a")
	}
	if !get("c") || loads["a"] != 1 || loads["b"] != 1 || loads["c"] != 1 || c.entries["b"] != nil {
		t.Errorf("loads %v", loads)
	}
	// What can never fit takes nobody's place, however long the others rest.
	for range 10 {
		if _, ok, err := c.read(t.Context(), "huge", 101, 0, 1, nil); ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
	}
	if c.held != 100 {
		t.Errorf("%d bytes are held", c.held)
	}
}

// Of those who wait for a load, none suffers for the one whose context ended.
func TestCacheAfterCancel(t *testing.T) {
	t.Parallel()
	c := newCache(100, 0)
	get := func(ctx context.Context, load func() (held, error)) (string, error) {
		data, _, err := c.read(ctx, "k", 1, 0, 1, load)
		return string(data), err
	}
	loading, release := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		_, err := get(t.Context(), func() (held, error) {
			close(loading)
			<-release
			return nil, context.Canceled
		})
		first <- err
	}()
	<-loading
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := get(gone, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	second := make(chan string)
	go func() {
		data, err := get(t.Context(), func() (held, error) { return inPieces([]byte("v")), nil })
		if err != nil {
			t.Error(err)
		}
		second <- data
	}()
	close(release)
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if data := <-second; data != "v" {
		t.Errorf("got %q", data)
	}
}

func inPieces(data []byte) *inMemory {
	m := &inMemory{size: int64(len(data))}
	_, _ = m.Write(data) // it cannot fail
	return m
}

// Content takes as much memory as it is long, while it comes, too, and reads as it was written.
func TestContentInPieces(t *testing.T) {
	t.Parallel()
	whole := make([]byte, 3*pieceBytes+5)
	for i := range whole {
		whole[i] = byte(i % 251)
	}
	m := &inMemory{size: int64(len(whole))}
	for rest := whole; len(rest) > 0; {
		n := min(len(rest), 100_003)
		if _, err := m.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
		held := 0
		for _, p := range m.pieces {
			held += cap(p)
		}
		if written := len(whole) - len(rest); held > written+pieceBytes || held > len(whole) {
			t.Fatalf("%d bytes held of %d", held, written)
		}
	}
	for _, from := range []int64{0, 1, pieceBytes - 1, pieceBytes, 3*pieceBytes + 4, int64(len(whole))} {
		for _, length := range []int64{0, 1, 2, pieceBytes, 2*pieceBytes + 3, int64(len(whole))} {
			if from+length > int64(len(whole)) {
				continue
			}
			got, err := m.read(from, length)
			if err != nil || !bytes.Equal(got, whole[from:from+length]) {
				t.Errorf("%d bytes from %d differ, %v", length, from, err)
			}
		}
	}
}
