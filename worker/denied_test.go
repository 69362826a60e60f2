package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// limited starts a server with a user "some" of the given permissions; who says no name may do everything.
func limited(t *testing.T, some *server.Permissions) *natstest.Server {
	return natstest.Run(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "any", Password: "x"}, {Username: "some", Password: "x", Permissions: some}}
		o.NoAuthUser = "any"
	})
}

// A worker that is denied what it needs ends with the subject's name and gives back what it has; one that may does it.
func TestDenied(t *testing.T) {
	t.Parallel()
	publish := func(subject string) *server.Permissions {
		return &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{subject}}}
	}
	subscribe := func(subject string) *server.Permissions {
		return &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{subject}}}
	}
	for name, c := range map[string]struct {
		deny    *server.Permissions
		subject string // begins so
	}{
		"results": {publish("jetbatch.result.>"), "jetbatch.result.train."},
		"jobs":    {publish("$JS.API.CONSUMER.MSG.NEXT.>"), "$JS.API.CONSUMER.MSG.NEXT.jetbatch-jobs.jetbatch-train-"},
		"records": {publish("$JS.API.STREAM.MSG.GET.KV_jetbatch"), "$JS.API.STREAM.MSG.GET.KV_jetbatch"},
		"acks":    {publish("$JS.ACK.>"), "$JS.ACK.jetbatch-jobs."},
		"lanes":   {subscribe("jetbatch.lane.*"), "jetbatch.lane.*"},
		"inbox":   {subscribe("_INBOX.>"), "_INBOX."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := limited(t, c.deny)
			o := newOwner(t, s, "train", "plain")
			o.feed(1, 4)
			def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 8) })
			nc := s.Connect(nats.UserInfo("some", "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
			w, err := New(nc, Config{Name: "w1", Slots: 1, Logger: slog.New(slog.DiscardHandler)}, def)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = w.Run(ctx)
			var denied *schema.PermissionError
			if !errors.Is(err, schema.ErrPermission) || !errors.As(err, &denied) {
				t.Fatalf("Run: %v", err)
			}
			if !strings.HasPrefix(strings.ToLower(denied.Subject), strings.ToLower(c.subject)) {
				t.Errorf("denied %q, want %q", denied.Subject, c.subject)
			}
			start(t, s, Config{Name: "w2", Slots: 1}, nil, def)
			o.waitEmpty()
		})
	}
}

// What strangers name as the subject of an answer ends no worker, and has none write there: a request that the worker
// would answer and is denied to, an answer of its service, a subject in capitals that begins as one that it needs.
func TestRepliesEndNothing(t *testing.T) {
	t.Parallel()
	denied := []string{"jetbatch.result.other.>", "JETBATCH.>", "jetbatch.worker.x", "$JS.API.STREAM.MSG.GET.jetbatch-results-other-GEN", "any.other"}
	s := limited(t, &server.Permissions{Publish: &server.SubjectPermission{Deny: denied}})
	o := newOwner(t, s, "train", "plain")
	nc := s.Connect(nats.UserInfo("some", "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	w, err := New(nc, Config{Name: "w1", Slots: 1, Logger: slog.New(slog.DiscardHandler)},
		define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 8) }))
	if err != nil {
		t.Fatal(err)
	}
	w.tick = 20 * time.Millisecond // denials are looked for often
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	o.feed(1, 4)
	o.waitEmpty()
	heard, err := o.nc.SubscribeSync(wire.ResultPrefix + ".train.>")
	if err != nil {
		t.Fatal(err)
	}
	replies := []string{
		"jetbatch.result.other.GEN.0.1", "JETBATCH.job.x", "JETBATCH.result.x", "jetbatch.worker.x",
		"$JS.API.STREAM.MSG.GET.jetbatch-results-other-GEN", "any.other",
		wire.ResultSubject("train", o.gen, 99), // which the worker may write
	}
	for _, reply := range replies {
		for _, subject := range []string{
			"$SRV.PING", "$SRV.PING.jetbatch-worker", "$SRV.INFO", "$SRV.STATS", "$SRV.STATS.jetbatch-worker",
			wire.StatusPrefix + ".w1", wire.UploadSubject("w1"), wire.ClaimPrefix + ".w1",
		} {
			if err := o.nc.PublishRequest(subject, reply, []byte(`{"attempt":"x"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, subject := range []string{"$SRV.PING.jetbatch-worker", "$SRV.STATS", wire.StatusPrefix + ".w1", wire.UploadSubject("w1")} {
		if _, err := o.nc.Request(subject, []byte(`{"attempt":"x"}`), 5*time.Second); err != nil { // handled after the others
			t.Fatalf("%s: %v", subject, err)
		}
	}
	if err := w.denied(); err != nil {
		t.Error(err)
	}
	if err := nc.LastError(); err != nil {
		t.Errorf("the worker answered where it may not: %v", err)
	}
	if n, _, _ := heard.Pending(); n > 0 {
		t.Error("the worker wrote a result for a stranger")
	}
	o.feed(5, 8)
	o.waitEmpty()
}

// Announcements of lanes that there are none of make a worker read few records at a time, and keep nothing.
func TestLaneFlood(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	w, _ := start(t, s, Config{Name: "w1", Slots: 1}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 8) }))
	for i := range 20_000 {
		lane, err := json.Marshal(wire.Lane{Batcher: fmt.Sprint("none-", i), Gen: "GEN", Kind: wire.KindToken("plain", 1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := o.nc.Publish(wire.LanePrefix+".any", lane); err != nil {
			t.Fatal(err)
		}
	}
	o.feed(1, 8)
	o.waitEmpty()
	w.lanes.mu.Lock()
	defer w.lanes.mu.Unlock()
	if n := len(w.lanes.resting); len(w.lanes.open) != 1 || len(w.lanes.looks) > maxLooks || n > 0 {
		t.Errorf("%d lanes, %d being looked at, %d resting", len(w.lanes.open), len(w.lanes.looks), n)
	}
}
