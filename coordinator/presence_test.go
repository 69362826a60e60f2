package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
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

// One that pings is pinged, though no lease of it was read: it may have begun, and be dead, before the next look.
func TestCallers(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	c1, err := New(s.Connect(), Config{Name: "c1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c1.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer stop()
	nc := s.Connect()
	pinged := make(chan string, 1)
	if _, err := nc.Subscribe(wire.CoordinatorSubject("c2", opPing), func(m *nats.Msg) {
		select {
		case pinged <- string(m.Data):
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "c1 answers a ping", func() bool {
		_, err := nc.RequestWithContext(t.Context(), wire.CoordinatorSubject("c1", opPing), []byte("c2"))
		return err == nil
	})
	select {
	case by := <-pinged:
		if by != "c1" {
			t.Errorf("pinged by %q", by)
		}
	case <-time.After(10 * time.Second):
		t.Error("a caller is not pinged")
	}

	var c callers
	now := time.Now()
	for _, id := range []string{"a", "", "no name", "b"} {
		c.note(id, now)
	}
	if got := c.join([]string{"b"}, now); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("joined to %v", got)
	}
	if got := c.join(nil, now.Add(callerFor+1)); len(got) != 0 {
		t.Errorf("pinged for ever: %v", got)
	}
	for i := range 2 * maxPinged {
		c.note(fmt.Sprint("c", i), now)
	}
	if got := c.join(nil, now); len(got) != maxPinged {
		t.Errorf("%d callers are pinged, want %d at most", len(got), maxPinged)
	}
}
