package cli

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Events are read from a moment on, in order, and what was dropped between them costs nothing: of a name the stream
// keeps 128, however many there were.
func TestEventsSince(t *testing.T) {
	t.Parallel()
	nc := natstest.RunInProcess(t).Connect()
	h, err := new(natsFlags).history(nc)
	if err != nil {
		t.Fatal(err)
	}
	if events, err := h.since(t.Context(), time.Now().Add(-time.Hour)); len(events) > 0 || err != nil {
		t.Fatalf("without a stream: %v, %v", events, err)
	}
	if err := topology.Ensure(t.Context(), h.js, topology.Config{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	tell := func(name, why string) {
		data := fmt.Appendf(nil, `{"what":"came","why":%q}`, why)
		subject := wire.EventSubject(wire.Event{Role: wire.EventWorker, Name: name})
		if _, err := h.js.Publish(t.Context(), subject, data); err != nil {
			t.Fatal(err)
		}
	}
	tell("first", "0")
	for i := range 1000 {
		tell("flapping", fmt.Sprint(i))
	}
	tell("last", "1")
	all, err := h.since(t.Context(), time.Now().Add(-time.Hour))
	if err != nil || len(all) != 130 || all[0].Name != "first" || all[129].Name != "last" {
		t.Fatalf("%d events, %v", len(all), err)
	}
	for i, e := range all[1:129] {
		if e.Why != fmt.Sprint(1000-128+i) {
			t.Fatalf("event %d of the flapping worker is its %s", i, e.Why)
		}
	}
	// Each is asked for once, and each part once for its end.
	asked := watchRequests(t, nc)
	late, err := h.since(t.Context(), all[100].At)
	if err != nil || len(late) != 30 || late[0] != all[100] {
		t.Errorf("since the 101st: %d events, %v", len(late), err)
	}
	if n := asked(); n > 2+30+parallelEvents {
		t.Errorf("%d requests for 30 events", n)
	}
	if events, err := h.since(t.Context(), time.Now().Add(time.Hour)); len(events) > 0 || err != nil {
		t.Errorf("since in an hour: %v, %v", events, err)
	}
	tell("last", "2")
	if events, err := h.news(t.Context()); len(events) != 1 || events[0].Why != "2" || err != nil {
		t.Errorf("news: %v, %v", events, err)
	}
}

// watchRequests counts the requests for stored messages.
func watchRequests(t *testing.T, nc *nats.Conn) (asked func() int) {
	t.Helper()
	sub, err := nc.SubscribeSync("$JS.API.STREAM.MSG.GET." + topology.EventsStream)
	if err != nil {
		t.Fatal(err)
	}
	return func() int {
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		n, _, err := sub.Pending()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}
