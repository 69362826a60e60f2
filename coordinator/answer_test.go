package coordinator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// TestAnswerComesFirst hears all that the coordinator says when a trainer is seated elsewhere: the answer, which the
// trainer waits for, goes out before the event for people, and nothing has the trainer say where it is meanwhile.
func TestAnswerComesFirst(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.settings.Retain = 100
	r.run(3)
	r.waitJobs(4, 11)

	heard := make(chan *nats.Msg, 64)
	const inbox = "_INBOX.answers-in-order"
	for _, subject := range []string{inbox, wire.EventPrefix + ".>", wire.NoticePrefix + ".>"} {
		if _, err := c.nc.ChanSubscribe(subject, heard); err != nil {
			t.Fatal(err)
		}
	}
	req := r.request(wire.ModeSeek, at(1))
	if err := c.nc.PublishRequest(wire.CoordinatorPrefix+".seat", inbox, mustJSON(t, req)); err != nil {
		t.Fatal(err)
	}
	var order []string
	for len(order) == 0 || !strings.HasPrefix(order[len(order)-1], wire.EventPrefix) {
		select {
		case m := <-heard:
			order = append(order, m.Subject)
		case <-time.After(10 * time.Second):
			t.Fatalf("heard only %q", order)
		}
	}
	if len(order) != 2 || order[0] != inbox {
		t.Errorf("heard in this order: %q; want the answer, then the event, and no notice", order)
	}
}
