package topology_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// denying connects to a server that denies its user all that is given.
func denying(t *testing.T, subjects ...string) (nc, any *nats.Conn) {
	t.Helper()
	deny := &server.SubjectPermission{Deny: subjects}
	s := natstest.RunInProcess(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "any", Password: "x"},
			{Username: "some", Password: "x", Permissions: &server.Permissions{Publish: deny, Subscribe: deny}},
		}
	})
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	return s.Connect(nats.UserInfo("some", "x"), quiet), s.Connect(nats.UserInfo("any", "x"))
}

// A denial counts for a role when the very subject is one that the role needs.
func TestDeniedComparesWholeSubjects(t *testing.T) {
	t.Parallel()
	needs := topology.Needs{
		Publish:   []string{"jetbatch.job.", "$KV.jetbatch.coordinator.>", "$JS.API.STREAM.DELETE.jetbatch-results-", "jetbatch.worker.w1", "a.*.c"},
		Subscribe: []string{"jetbatch.lane."},
	}
	for _, test := range []struct {
		subject string
		listen  bool
		want    bool
	}{
		{"jetbatch.job.x", false, true},
		{"jetbatch.job.x.y", false, true},
		{"jetbatch.job", false, false},
		{"jetbatch.jobs.x", false, false},
		{"JETBATCH.job.x", false, false},
		{"jetbatch.JOB.x", false, false},
		{"$KV.jetbatch.coordinator.c1", false, true},
		{"$KV.jetbatch.batcher.c1", false, false},
		{"$JS.API.STREAM.DELETE.jetbatch-results-train-GEN", false, true},
		{"$JS.API.STREAM.DELETE.jetbatch-jobs", false, false},
		{"jetbatch.worker.w1", false, true},
		{"jetbatch.worker.w11", false, false},
		{"a.b.c", false, true},
		{"a.b.c.d", false, true},
		{"a.b.d", false, false},
		{"jetbatch.lane.*", true, true},
		{"jetbatch.lane.*", false, false},
		{"jetbatch.job.x", true, false},
		{"_INBOX.x", true, true},
	} {
		nc, _ := denying(t, test.subject)
		if test.listen {
			if _, err := nc.SubscribeSync(test.subject); err != nil {
				t.Fatal(err)
			}
		} else {
			must(t, nc.Publish(test.subject, nil))
		}
		must(t, nc.Flush())
		if nc.LastError() == nil {
			t.Fatalf("%s is not denied; the test tests nothing", test.subject)
		}
		err := topology.Denied(nc, needs)
		var denied *schema.PermissionError
		if got := errors.As(err, &denied); got != test.want {
			t.Errorf("%s, listening %v: %v", test.subject, test.listen, err)
		} else if got && denied.Subject != test.subject {
			t.Errorf("%s is called %s", test.subject, denied.Subject)
		}
	}
}

func TestAnswerable(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]bool{
		"_INBOX.abc": true, "_INBOX_client.abc.1": true, "mine.abc": true,
		"": false, "_INBOX": false, "mine": false, "mines.abc": false, "any.abc": false,
		"jetbatch.job.x": false, "JETBATCH.job.x": false, "$KV.jetbatch.batcher.x": false, "$JS.ACK.x": false, "_inbox.x": false,
	} {
		if got := topology.Answerable(reply, "", "mine"); got != want {
			t.Errorf("%q: %v", reply, got)
		}
	}
}

// A service answers as package micro does, and nowhere but at inboxes.
func TestServiceAnswersAtInboxesOnly(t *testing.T) {
	t.Parallel()
	nc, other := denying(t, "jetbatch.result.>", "JETBATCH.>")
	service, err := topology.Serve(nc, topology.ServiceConfig{
		Name: "jetbatch-test", Version: "1.2.3", Description: "tests", Metadata: map[string]string{"test": "t1"},
		ID:    "t1",
		Stats: func() any { return map[string]int{"n": 7} },
		Endpoints: []topology.Endpoint{
			{Name: "status", Subject: "test.status", Answer: func() any { return "fine" }},
			{Name: "jobs", Subject: "test.jobs", Count: func() topology.Count {
				return topology.Count{Done: 3, Failed: 1, Took: 8 * time.Second, LastError: "no such file"}
			}},
		},
	})
	must(t, err)
	must(t, nc.Flush())
	ask := func(subject string) []byte {
		t.Helper()
		msg, err := other.Request(subject, nil, 5*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", subject, err)
		}
		return msg.Data
	}
	for _, reply := range []string{"jetbatch.result.train.GEN.0.1", "JETBATCH.job.x", "elsewhere"} {
		for _, subject := range []string{"$SRV.PING", "$SRV.INFO.jetbatch-test", "$SRV.STATS", "test.status"} {
			must(t, other.PublishRequest(subject, reply, nil))
		}
	}
	if _, err := other.Request("test.jobs", nil, 5*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("what is only counted is listened at: %v", err)
	}
	var ping micro.Ping
	must(t, json.Unmarshal(ask("$SRV.PING"), &ping))
	var info micro.Info
	must(t, json.Unmarshal(ask("$SRV.INFO.jetbatch-test"), &info))
	if string(ask("test.status")) != `"fine"` {
		t.Error("the endpoint does not answer")
	}
	var stats micro.Stats
	must(t, json.Unmarshal(ask("$SRV.STATS.jetbatch-test."+ping.ID), &stats))
	if jobs := stats.Endpoints[1]; jobs.NumRequests != 4 || jobs.NumErrors != 1 || jobs.AverageProcessingTime != 2*time.Second {
		t.Errorf("jobs %+v", jobs)
	}
	if ping.ID != "t1" || ping.Type != micro.PingResponseType || ping.Name != "jetbatch-test" || ping.Metadata["test"] != "t1" || ping.Version != "1.2.3" {
		t.Errorf("ping %+v", ping)
	}
	if info.ID != ping.ID || info.Description != "tests" || len(info.Endpoints) != 2 || info.Endpoints[0].Subject != "test.status" {
		t.Errorf("info %+v", info)
	}
	if len(stats.Endpoints) != 2 || stats.Endpoints[0].NumRequests != 1 || !strings.Contains(string(stats.Endpoints[0].Data), "7") || stats.Started.IsZero() {
		t.Errorf("statistics %+v", stats)
	}
	if err := nc.LastError(); err != nil {
		t.Errorf("the service was denied an answer: %v", err)
	}
	must(t, service.Stop())
	must(t, nc.Flush())
	if _, err := other.Request("$SRV.PING", nil, time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a service that was stopped answers: %v", err)
	}
}
