package coordinator

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/kind"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
)

// Descriptions are written once, read by their digest, and deleted when they are old or too many.
func TestDescriptionsOfOrigins(t *testing.T) {
	t.Parallel()
	_, js := natstest.Run(t).JetStream()
	r := recordsOf(t, js, "c1")
	kv := r.kv
	open := func() *origins { return &origins{records: r, written: make(map[string]time.Time)} }
	o := open()
	origin := kind.Origin{Digest: "5f1c", Data: "d", Params: []kind.Part{{Name: "seed", Value: "1"}}}
	for range 3 {
		o.describe(t.Context(), slog.Default(), origin)
	}
	entry, err := kv.Get(t.Context(), topology.OriginKey("5f1c"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := kv.Status(t.Context())
	if err != nil || status.Values() != 1 {
		t.Fatalf("%d values, %v", status.Values(), err)
	}
	if got := o.described(t.Context(), "5f1c"); got == nil || got.Params[0] != origin.Params[0] {
		t.Fatalf("%+v", got)
	}
	for _, digest := range []string{"", "none", "a.>", "*"} {
		if got := o.described(t.Context(), digest); got != nil {
			t.Errorf("%q: %+v", digest, got)
		}
	}
	for i := range maxOrigins {
		if _, err := kv.PutString(t.Context(), topology.OriginKey(fmt.Sprint("n", i)), "{}"); err != nil {
			t.Fatal(err)
		}
	}
	if got := o.described(t.Context(), "n1"); got != nil {
		t.Errorf("a description of something else: %+v", got)
	}
	left := func(now time.Time, want int) {
		t.Helper()
		if err := open().collect(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		names, err := o.records.names(t.Context(), topology.OriginKey(""))
		if err != nil || len(names) != want {
			t.Errorf("%d are left, %v; want %d", len(names), err, want)
		}
	}
	left(time.Now(), maxOrigins)
	if o.described(t.Context(), "5f1c") != nil {
		t.Error("the oldest was kept")
	}
	left(entry.Created().Add(originAge-time.Minute), maxOrigins)
	left(time.Now().Add(originAge+time.Minute), 0)
}
