package coordinator

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// padded is JSON with as many spaces behind it as make n bytes.
func padded(text string, n int) []byte {
	return append([]byte(text), bytes.Repeat([]byte(" "), n-len(text))...)
}

// Each bound admits what is just within it, and nothing more.
func TestAtTheBounds(t *testing.T) {
	t.Parallel()
	f := fleet{log: slog.New(slog.DiscardHandler), tell: func(string, string, schema.WorkerStatus, bool) {},
		changed: func() {}, answered: make(chan struct{}, 1)}
	beat := func(text string, size int) { f.hear(message(padded(text, max(size, len(text))))) }
	for i := range maxWorkers - 1 {
		beat(fmt.Sprintf(`{"worker":"w%d","slots":1}`, i), 0)
	}
	beat(`{"worker":"large","slots":1}`, maxBeat+1)
	if n := len(f.list()); n != maxWorkers-1 {
		t.Fatalf("%d workers after a beat that is too large", n)
	}
	beat(`{"worker":"large","slots":16384}`, maxBeat)
	beat(`{"worker":"late","slots":1}`, 0)
	if n := len(f.list()); n != maxWorkers {
		t.Fatalf("%d workers, want %d", n, maxWorkers)
	}
	beat(`{"worker":"large","leaving":true}`, 0)
	beat(`{"worker":"late","slots":16385}`, 0)
	if n := len(f.list()); n != maxWorkers-1 {
		t.Errorf("%d workers after one with too many slots", n)
	}
	beat(`{"worker":"late","slots":1}`, 0)
	if n := len(f.list()); n != maxWorkers {
		t.Errorf("%d workers after one left and another came", n)
	}

	secret := wire.NewSecret()
	credit := fmt.Sprintf(`{"reader":%q,"secret":%q}`, wire.ReaderOf(secret), secret)
	if readCredit(padded(credit, maxCredit)) == nil || readCredit(padded(credit, maxCredit+1)) != nil {
		t.Errorf("a credit of %d bytes is refused, or one more is taken", maxCredit)
	}

	nc := natstest.RunInProcess(t).Connect()
	c := assemble(&site{
		nc: nc, cfg: Config{Name: "c1"}, log: slog.New(slog.DiscardHandler),
		kinds: map[string]*kind.Kind{"count": {Name: "count", Version: 1}},
	})
	for i := range maxBatchers {
		c.actors.owned[fmt.Sprint("b", i)] = new(batcher)
	}
	_, err := c.desk.router.create(t.Context(), &wire.SeatRequest{Batcher: "one-more", Spec: wire.Spec{Dataset: "count"}}, 0)
	if err == nil || !strings.Contains(err.Error(), "feeds 4096 batchers") {
		t.Errorf("one batcher more: %v", err)
	}
	answers, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		t.Fatal(err)
	}
	for size, want := range map[int]string{maxRequest: "has no name", maxRequest + 1: "at most 524288"} {
		c.desk.handle(&nats.Msg{Subject: "jetbatch.coordinator.seat", Reply: answers.Subject, Data: padded("{}", size)})
		m, err := answers.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(m.Data), want) {
			t.Errorf("a request of %d bytes: %s, want %q", size, m.Data, want)
		}
	}
}

// What happened is kept for people within bounds: of each name, and in all.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	for i := range 4200 {
		subject := fmt.Sprintf("%s.batcher.b%d", wire.EventPrefix, max(0, i-200))
		if _, err := js.Publish(t.Context(), subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if i != 200 && i != 4199 {
			continue
		}
		stream, err := js.Stream(t.Context(), topology.EventsStream)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[int]uint64{200: 128, 4199: 4096}[i]; stream.CachedInfo().State.Msgs != want {
			t.Errorf("%d events are kept after %d, want %d", stream.CachedInfo().State.Msgs, i+1, want)
		}
	}
	if _, err := js.Publish(t.Context(), wire.EventPrefix+".batcher.b", make([]byte, wire.MaxEvent+1)); err == nil {
		t.Error("an event that is too large is kept")
	}
}
