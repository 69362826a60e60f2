package coordinator

import (
	"slices"
	"testing"
	"time"
)

// A coordinator counts as dead when it has had no connection for a while; one that was never seen to have one may be on
// its way, and has longer.
func TestPresence(t *testing.T) {
	t.Parallel()
	var p presence
	p.forget()
	now := time.Now()
	ping := func(there bool) bool {
		now = now.Add(pingEvery)
		return p.note("other", there, now)
	}
	absent := func(pings int) {
		t.Helper()
		for i := range pings {
			if ping(false) {
				t.Fatalf("gone after %d pings", i+1)
			}
		}
	}
	absent(6) // it was never there
	if !ping(false) {
		t.Fatal("not gone")
	}
	if ping(true) {
		t.Fatal("gone though it is there")
	}
	absent(3)
	if !ping(false) || !ping(false) {
		t.Fatal("not gone")
	}
	ping(true)
	absent(3)
	p.forget() // this coordinator's own connection was lost
	absent(6)
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
