package cli

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/deploy"
)

// Roles as the table below names them; an action that no role may do has none.
const (
	coord = "coordinator"
	work  = "worker"
	train = "client"
	look  = "operator"
)

// actions are what the service does and what an intruder would try, each with the roles that may. Every other role is
// tried as well and must be denied.
var actions = []struct {
	publish string // else subscribe
	listen  string
	may     []string
}{
	// Jobs.
	{publish: "jetbatch.job.onda-v1-w2.train.GEN.1.0", may: []string{coord}},
	{publish: "jetbatch.job.onda-v1-w2.train.GEN.1.1", may: []string{coord}},
	{publish: "jetbatch.job.onda-v1-w2.train.GEN.1.16", may: []string{coord}},
	{publish: "$JS.API.CONSUMER.MSG.NEXT.jetbatch-jobs.jetbatch-train-GEN", may: []string{work}},
	{publish: "$JS.ACK.jetbatch-jobs.jetbatch-train-GEN.1.1.1.1.0", may: []string{work}},
	{publish: "$JS.ACK.domain.account.jetbatch-jobs.jetbatch-train-GEN.1.1.1.1.0", may: []string{work}},
	{publish: "$JS.ACK.KV_jetbatch.any.1.1.1.1.0"},
	{publish: "$JS.API.CONSUMER.MSG.NEXT.KV_jetbatch.any"},
	{publish: "$JS.API.CONSUMER.CREATE.jetbatch-jobs.jetbatch-train-GEN.jetbatch.job.onda-v1-w2.train.GEN.>", may: []string{coord}},
	{publish: "$JS.API.CONSUMER.CREATE.jetbatch-jobs", may: nil},
	{publish: "$JS.API.CONSUMER.CREATE.KV_jetbatch.spy"},
	{publish: "$JS.API.CONSUMER.CREATE.jetbatch-results-train-GEN.spy"},
	{publish: "$JS.API.CONSUMER.DURABLE.CREATE.jetbatch-jobs.spy"},
	{publish: "$JS.API.CONSUMER.DELETE.jetbatch-jobs.jetbatch-train-GEN", may: []string{coord}},
	{publish: "$JS.API.CONSUMER.PAUSE.jetbatch-jobs.jetbatch-train-GEN"},
	{publish: "$JS.API.STREAM.MSG.GET.jetbatch-jobs", may: []string{coord, look}},
	{publish: "$JS.API.STREAM.MSG.DELETE.jetbatch-jobs", may: []string{coord}},
	{publish: "$JS.API.STREAM.MSG.DELETE.jetbatch-results-train-GEN", may: []string{coord}},
	{listen: "jetbatch.job.>"},
	{listen: "$JS.API.>"},
	{listen: "$JS.ACK.>"},

	// Records and leases.
	{publish: "$KV.jetbatch.batcher.train", may: []string{coord}},
	{publish: "$KV.jetbatch.coordinator.c1", may: []string{coord}},
	{publish: "$KV.other.key"},
	{publish: "$JS.API.STREAM.MSG.GET.KV_jetbatch", may: []string{coord, work, train, look}},
	{publish: "$JS.API.STREAM.MSG.DELETE.KV_jetbatch"},
	{publish: "$JS.API.STREAM.INFO.KV_jetbatch", may: []string{coord, work, train, look}},
	{publish: "$JS.API.DIRECT.GET.KV_jetbatch.$KV.jetbatch.batcher.train"},
	{listen: "$KV.jetbatch.>"},

	// Results.
	{publish: "jetbatch.result.train.GEN.0.1", may: []string{coord, work}},
	{publish: "jetbatch.result.train.GEN.0.1.ATTEMPT.0", may: []string{coord, work}},
	{publish: "jetbatch.result.train.GEN.genesis", may: []string{coord}},
	{publish: "jetbatch.live.train.GEN"},
	{publish: "$JS.API.DIRECT.GET.jetbatch-results-train-GEN.jetbatch.result.train.GEN.0.1", may: []string{coord, train}},
	{publish: "$JS.API.DIRECT.GET.jetbatch-jobs.jetbatch.job.onda-v1-w2.train.GEN.1.0"},
	{publish: "$JS.API.STREAM.MSG.GET.jetbatch-results-train-GEN", may: []string{coord, work, look}},
	{listen: "jetbatch.result.>"},
	{listen: "jetbatch.live.train.GEN", may: []string{train, look}},

	// Streams.
	{publish: "$JS.API.STREAM.CREATE.jetbatch-results-train-GEN", may: []string{coord}},
	{publish: "$JS.API.STREAM.UPDATE.jetbatch-jobs"},
	{publish: "$JS.API.STREAM.DELETE.jetbatch-results-train-GEN", may: []string{coord}},
	{publish: "$JS.API.STREAM.DELETE.jetbatch-jobs"},
	{publish: "$JS.API.STREAM.DELETE.KV_jetbatch"},
	{publish: "$JS.API.STREAM.PURGE.jetbatch-results-train-GEN", may: []string{coord, work}},
	{publish: "$JS.API.STREAM.PURGE.jetbatch-jobs", may: []string{coord}},
	{publish: "$JS.API.STREAM.PURGE.KV_jetbatch", may: []string{coord}},
	{publish: "$JS.API.STREAM.DELETE.jetbatch-events"},
	{publish: "$JS.API.STREAM.PURGE.jetbatch-events", may: []string{coord}},
	{publish: "$JS.API.STREAM.MSG.DELETE.jetbatch-events"},
	{publish: "$JS.API.STREAM.SNAPSHOT.KV_jetbatch"},
	{publish: "$JS.API.STREAM.RESTORE.KV_jetbatch"},
	{publish: "$JS.API.STREAM.PEER.REMOVE.KV_jetbatch"},
	{publish: "$JS.API.STREAM.LEADER.STEPDOWN.KV_jetbatch"},
	{publish: "$JS.API.META.LEADER.STEPDOWN"},
	{publish: "$JS.API.ACCOUNT.PURGE.JETBATCH"},
	{publish: "$JS.API.SERVER.REMOVE"},
	{publish: "$JS.API.STREAM.NAMES", may: []string{coord, look}},
	{publish: "$JS.API.STREAM.LIST", may: []string{look}},
	{publish: "$JS.API.STREAM.INFO.jetbatch-jobs", may: []string{coord, look}},
	{publish: "$JS.API.CONSUMER.INFO.jetbatch-jobs.jetbatch-train-GEN", may: []string{coord, look}},
	{publish: "$JS.API.CONSUMER.LIST.jetbatch-jobs", may: []string{look}},
	{publish: "$JS.API.CONSUMER.NAMES.jetbatch-jobs", may: []string{coord, look}},
	{publish: "$JS.API.INFO", may: []string{coord, work, train, look}},

	// Control messages.
	{publish: "jetbatch.coordinator.seat", may: []string{train}},
	{publish: "jetbatch.coordinator.stop", may: []string{train}},
	{publish: "jetbatch.coordinator.status", may: []string{train, look}},
	{publish: "jetbatch.coordinator.overview", may: []string{coord, look}},
	{publish: "jetbatch.coordinator.manage", may: []string{look}},
	{publish: "jetbatch.coordinator.c1.seat", may: []string{coord}},
	{publish: "jetbatch.event.batcher.train", may: []string{coord}},
	{listen: "jetbatch.event.>"},
	{listen: "jetbatch.coordinator.seat", may: []string{coord}},
	{publish: "jetbatch.reader.train", may: []string{train}},
	{listen: "jetbatch.reader.*", may: []string{coord, look}},
	{publish: "jetbatch.notice.train", may: []string{coord}},
	{listen: "jetbatch.notice.train", may: []string{train, look}},
	{publish: "jetbatch.lane.train", may: []string{coord}},
	{listen: "jetbatch.lane.*", may: []string{work, look}},
	{publish: "jetbatch.worker-ask", may: []string{coord}},
	{listen: "jetbatch.worker-ask", may: []string{work}},
	{publish: "jetbatch.follow.w1", may: []string{coord}},
	{listen: "jetbatch.follow.*", may: []string{work}},
	{publish: "jetbatch.worker.w1", may: []string{work}},
	{listen: "jetbatch.worker.*", may: []string{coord, look}},
	{publish: "jetbatch.report.train", may: []string{work}},
	{listen: "jetbatch.report.*", may: []string{coord, look}},
	{publish: "jetbatch.upload.w1", may: []string{train}},
	{listen: "jetbatch.upload.w1", may: []string{work}},
	{publish: "jetbatch.worker-status.w1", may: []string{look}},
	{listen: "jetbatch.worker-status.w1", may: []string{work}},
	{publish: "jetbatch.worker-claim.w1", may: []string{work}},
	{listen: "jetbatch.worker-claim.w1", may: []string{work}},
	{listen: "jetbatch.>"},
	{listen: ">"},
	{publish: "any.other"},

	// Services.
	{publish: "$SRV.PING", may: []string{look}},
	{publish: "$SRV.PING.jetbatch-worker", may: []string{work, look}},
	{publish: "$SRV.PING.jetbatch-coordinator", may: []string{coord, look}},
	{publish: "$SRV.STATS.jetbatch-worker.ID", may: []string{look}},
	{publish: "$SRV.STATS.jetbatch-worker", may: []string{look}},
	{publish: "$SRV.INFO", may: []string{look}},
	{listen: "$SRV.PING.jetbatch-worker.ID", may: []string{work}},
	{listen: "$SRV.PING.jetbatch-coordinator", may: []string{coord}},
	{listen: "$SRV.>"},

	// Answers.
	{listen: "_INBOX_coordinator.x.*", may: []string{coord}},
	{listen: "_INBOX_worker.x.*", may: []string{work}},
	{listen: "_INBOX_client.x.*", may: []string{train}},
	{listen: "_INBOX_operator.x.*", may: []string{look}},
	{listen: "_INBOX.>"},
	{listen: "_R_.>"},
	{publish: "_INBOX_coordinator.x.y", may: []string{coord}},
	{publish: "_INBOX_worker.x.y", may: []string{coord, work}},
	{publish: "_INBOX_client.x.y", may: []string{coord, work}},
	{publish: "_INBOX_operator.x.y", may: []string{coord, work}},

	// The server.
	{publish: "$SYS.REQ.SERVER.PING"},
	{publish: "$SYS.REQ.ACCOUNT.JETBATCH.INFO"},
	{listen: "$SYS.>"},
	{listen: "$JS.EVENT.ADVISORY.>", may: []string{look}},
}

// Every role tries every action: it may do its own and is denied all others.
func TestPermissions(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	for _, role := range deploy.Roles {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			nc := s.connect(role)
			for _, a := range actions {
				if got, want := permitted(t, nc, a.publish, a.listen), slices.Contains(a.may, role); got != want {
					t.Errorf("%s publishes %q, listens to %q: %t, want %t", role, a.publish, a.listen, got, want)
				}
			}
		})
	}
}

// permitted tries one of the two. The server's refusal comes before its answer to the flush.
func permitted(t *testing.T, nc *nats.Conn, publish, listen string) bool {
	t.Helper()
	what, err := "Publish to \""+publish+"\"", error(nil)
	if publish != "" {
		err = nc.Publish(publish, []byte("?"))
	} else {
		var sub *nats.Subscription
		what = "Subscription to \"" + listen + "\""
		if sub, err = nc.SubscribeSync(listen); err == nil {
			defer func() { _ = sub.Unsubscribe() }() // a refused one is gone already
		}
	}
	if err == nil {
		err = nc.FlushTimeout(10 * time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
	err = nc.LastError()
	return !errors.Is(err, nats.ErrPermissionViolation) || !strings.HasSuffix(strings.ToLower(err.Error()), strings.ToLower(what))
}
