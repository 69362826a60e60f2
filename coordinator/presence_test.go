package coordinator

import (
	"slices"
	"testing"
	"time"
)

// A coordinator counts as dead when it had a connection and has none for a while. One that was never seen to have one
// may be on its way.
func TestPresence(t *testing.T) {
	t.Parallel()
	var p presence
	p.forget()
	now := time.Now()
	ping := func(there bool) bool {
		now = now.Add(pingEvery)
		return p.note("other", there, now)
	}
	for range 10 {
		if ping(false) {
			t.Fatal("one that was never there is gone")
		}
	}
	ping(true)
	absent := func() {
		t.Helper()
		for i := range 3 {
			if gone := ping(false); gone {
				t.Fatalf("gone after %d pings", i+1)
			}
		}
	}
	absent()
	if gone := ping(false); !gone {
		t.Fatal("not gone")
	}
	if gone := ping(false); !gone {
		t.Fatal("not gone any more")
	}
	ping(true)
	absent()
	ping(true)
	p.forget() // this coordinator's own connection was lost
	for range 10 {
		if ping(false) {
			t.Fatal("one that was not there since is gone")
		}
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	if got := ring([]string{"c", "a", "d", "b"}, "b"); !slices.Equal(got, []string{"c", "d", "a"}) {
		t.Errorf("%v", got)
	}
	if got := ring([]string{"c", "a"}, "b"); !slices.Equal(got, []string{"c", "a"}) {
		t.Errorf("without a lease of its own: %v", got)
	}
	many := make([]string, 100)
	for i := range many {
		many[i] = string(rune('A' + i))
	}
	pinged := make(map[string]int)
	for _, self := range many {
		for _, id := range ring(slices.Clone(many), self) {
			pinged[id]++
		}
	}
	for _, id := range many {
		if pinged[id] != maxPinged {
			t.Errorf("%s is pinged by %d", id, pinged[id])
		}
	}
}
