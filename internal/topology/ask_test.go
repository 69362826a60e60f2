package topology

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
)

// A frozen coordinator keeps its place in the queue group; the others are asked, too.
func TestAskIsHedged(t *testing.T) {
	t.Parallel()
	srv := natstest.RunInProcess(t)
	nc := srv.Connect()
	if _, err := Ask(t.Context(), nc, "seat", nil); !errors.Is(err, nats.ErrNoResponders) {
		t.Fatalf("without a coordinator: %v", err)
	}
	frozen, asked := srv.Connect(), make(chan struct{}, 1)
	hear := func(*nats.Msg) { asked <- struct{}{} }
	if _, err := frozen.QueueSubscribe("jetbatch.coordinator.seat", "jetbatch", hear); err != nil {
		t.Fatal(err)
	}
	if err := frozen.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*hedgeAfter)
	defer cancel()
	if _, err := Ask(ctx, nc, "seat", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("from a frozen coordinator alone: %v", err)
	}
	<-asked
	if _, err := srv.Connect().Subscribe("jetbatch.coordinator.all.seat", func(m *nats.Msg) {
		if err := m.Respond(m.Data); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*hedgeAfter)
	defer cancel()
	m, err := Ask(ctx, nc, "seat", []byte("body"))
	if err != nil || string(m.Data) != "body" {
		t.Fatalf("%v, %v", m, err)
	}
	<-asked // first
}

// One that answers soon is the only one that is asked.
func TestAskIsNotHedgedWithoutNeed(t *testing.T) {
	t.Parallel()
	srv := natstest.RunInProcess(t)
	other := srv.Connect()
	if _, err := other.Subscribe("jetbatch.coordinator.all.>", func(*nats.Msg) { t.Error("all are asked") }); err != nil {
		t.Fatal(err)
	}
	answer := func(m *nats.Msg) { _ = m.Respond(nil) }
	if _, err := other.QueueSubscribe("jetbatch.coordinator.stop", "jetbatch", answer); err != nil {
		t.Fatal(err)
	}
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	nc := srv.Connect()
	began := time.Now()
	for time.Since(began) < hedgeAfter {
		if _, err := Ask(t.Context(), nc, "stop", nil); err != nil {
			t.Fatal(err)
		}
	}
}
