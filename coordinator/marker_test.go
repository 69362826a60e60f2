package coordinator

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
)

// A message that the server was made to store in the place of a lease, or of what an origin stands for, is neither:
// not even one that looks like the marker of a deletion.
func TestForgedMarker(t *testing.T) {
	t.Parallel()
	nc, js := natstest.Run(t).JetStream()
	records := recordsOf(t, js, "c1")
	c := &membership{
		site:   &site{nc: nc, js: js, log: slog.Default(), cfg: Config{Name: "c1"}, records: records},
		leases: newLeases(time.Minute),
	}
	forge := func(key string, data string, header nats.Header) {
		t.Helper()
		m := &nats.Msg{Subject: "$KV.jetbatch." + key, Data: []byte(data), Header: header}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	look := func() leaseState {
		t.Helper()
		if err := c.judge(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c.leases.state("c2")
	}
	if _, err := records.kv.PutString(t.Context(), topology.CoordinatorKey("c2"), "1"); err != nil {
		t.Fatal(err)
	}
	if state := look(); state != leaseUnknown {
		t.Fatalf("at first sight: %v", state)
	}
	marker := nats.Header{"KV-Operation": {"PURGE"}, "Nats-Stream": {"jetbatch-results-train-x"}}
	forge(topology.CoordinatorKey("c2"), "", marker)
	if state := c.leaseOf(t.Context(), "c2"); state == leaseDead {
		t.Error("a forged marker is read as the end of the lease")
	}
	if state := look(); state != leaseLive && state != leaseUnknown {
		t.Errorf("after a forged marker: %v", state)
	}
	delete(marker, "Nats-Stream")
	forge(topology.CoordinatorKey("c2"), "", marker)
	if state := look(); state != leaseAbsent {
		t.Errorf("after the owner's own: %v", state)
	}

	o := &origins{records: records, written: make(map[string]time.Time)}
	o.describe(t.Context(), slog.Default(), kind.Origin{Digest: "5f1c", Data: "d"})
	if o.described(t.Context(), "5f1c") == nil {
		t.Fatal("not described")
	}
	forge(topology.OriginKey("5f1c"), `{"digest":"5f1c","data":"other"}`, nats.Header{"Nats-Stream": {"x"}})
	if got := o.described(t.Context(), "5f1c"); got != nil {
		t.Errorf("a forged description: %+v", got)
	}
}
