package coordinator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// limited starts a server with a user "any" who may do everything and a user "some" with the given permissions.
func limited(t *testing.T, some *server.Permissions) *natstest.Server {
	return natstest.RunInProcess(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "any", Password: "x"}, {Username: "some", Password: "x", Permissions: some}}
	})
}

func as(user string) []nats.Option {
	return []nats.Option{nats.UserInfo(user, "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
}

// A coordinator that is denied what it needs ends, and says what that was, whenever it finds out.
func TestDenied(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		deny    *server.Permissions
		subject string
	}{
		"streams":  {&server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.*"}}}, "$js.api.stream.info.kv_jetbatch"},
		"lease":    {&server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$KV.jetbatch.coordinator.>"}}}, "$kv.jetbatch.coordinator.c1"},
		"requests": {&server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"jetbatch.coordinator.c1.*"}}}, "jetbatch.coordinator.c1.*"},
		"requests to all": {&server.Permissions{Subscribe: &server.SubjectPermission{
			Deny: []string{"jetbatch.coordinator.all.*"}}}, "jetbatch.coordinator.all.*"},
		"inbox": {&server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nc := limited(t, c.deny).Connect(as("some")...)
			coord, err := coordinator.New(nc, coordinator.Config{Name: "c1"}, counting(new(hooks)))
			if err != nil {
				t.Fatal(err)
			}
			err = coord.Run(t.Context())
			var denied *schema.PermissionError
			if !errors.Is(err, schema.ErrPermission) || !errors.As(err, &denied) {
				t.Fatalf("Run: %v", err)
			}
			if c.subject != "" && !strings.EqualFold(denied.Subject, c.subject) {
				t.Errorf("denied %q, want %q", denied.Subject, c.subject)
			}
		})
	}
}

// A request cannot have the coordinator write, with its own permissions, where the requester may not.
func TestAnswersGoToInboxesOnly(t *testing.T) {
	t.Parallel()
	c := &cluster{t: t, srv: natstest.RunInProcess(t)}
	c.nc, c.js = c.srv.JetStream()
	c.coordinate(coordinator.Config{}, new(hooks))
	for _, hostile := range []string{"$KV.jetbatch.batcher.victim", "jetbatch.job.any-v1-w2.victim.GEN.1.0"} {
		for _, subject := range []string{"jetbatch.coordinator.overview", "jetbatch.coordinator.status", "jetbatch.coordinator.seat", "jetbatch.reader.victim"} {
			if err := c.nc.PublishRequest(subject, hostile, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := c.nc.Request("jetbatch.coordinator.overview", nil, 5*time.Second); err != nil { // handled after the others
		t.Fatal(err)
	}
	for _, name := range []string{topology.BucketStream, topology.JobsStream} {
		stream, err := c.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		for subject := range info.State.Subjects {
			if strings.Contains(subject, "victim") {
				t.Errorf("an answer was stored at %s", subject)
			}
		}
	}
}

// Floods and monsters: answered or dropped, and nothing is kept of them.
func TestBounds(t *testing.T) {
	t.Parallel()
	c := &cluster{t: t, srv: natstest.RunInProcess(t)}
	c.nc, c.js = c.srv.JetStream()
	c.coordinate(coordinator.Config{}, new(hooks))

	for name, req := range map[string]string{
		"huge": fmt.Sprintf(`{"wire":%d,"batcher":"b","reader":"r","request":"q","spec":{"dataset":"count","params":"%s"}}`,
			wire.Version, strings.Repeat("x", 600<<10)),
		"deep":           `{"batcher":"b","spec":{"params":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}}`,
		"hostile name":   `{"batcher":"b.>","reader":"r","request":"q"}`,
		"hostile reader": `{"batcher":"b","reader":"r\r\nx","request":"q"}`,
		"long reader":    `{"batcher":"b","reader":"` + strings.Repeat("r", 65) + `","request":"q"}`,
		"no request":     `{"batcher":"b","reader":"r"}`,
		"not JSON":       `{"batcher"`,
	} {
		m, err := c.nc.Request("jetbatch.coordinator.seat", []byte(req), 5*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var reply wire.SeatReply
		if err := json.Unmarshal(m.Data, &reply); err != nil || reply.Fault == nil || reply.Fault.Code != schema.CodeBadRequest {
			t.Errorf("%s: %.200s, %v", name, m.Data, err)
		}
	}

	const flood = 5000
	for i := range flood {
		beat := fmt.Appendf(nil, `{"worker":"w%d","slots":1,"last_error":"%s"}`, i, strings.Repeat("e", 1000))
		if err := c.nc.Publish(wire.WorkerPrefix+".any", beat); err != nil {
			t.Fatal(err)
		}
	}
	monster := `{"worker":"monster","last_error":"` + strings.Repeat("e", 100<<10) + `"}`
	if err := c.nc.Publish(wire.WorkerPrefix+".any", []byte(monster)); err != nil {
		t.Fatal(err)
	}
	natstest.Eventually(t, "an overview fits a message", func() bool {
		m, err := c.nc.Request("jetbatch.coordinator.overview", nil, time.Second)
		var o wire.Overview
		if err != nil || json.Unmarshal(m.Data, &o) != nil || len(o.Workers) == 0 {
			return false
		}
		if len(o.Workers) > 4096 {
			t.Fatalf("%d workers are known", len(o.Workers))
		}
		return len(o.Workers) > 1000
	})
}

// A coordinator that cannot make its streams says which stream has their subjects.
func TestSubjectsAreTaken(t *testing.T) {
	t.Parallel()
	nc, js := natstest.RunInProcess(t).JetStream()
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "audit", Subjects: []string{wire.JobPrefix + ".>"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := coordinator.New(nc, coordinator.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "stream audit of this account takes "+wire.JobPrefix) {
		t.Errorf("Run: %v", err)
	}
}
