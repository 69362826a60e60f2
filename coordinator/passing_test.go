package coordinator

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

func TestPassing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{context.DeadlineExceeded, true},
		{nats.ErrNoResponders, true},
		{&jetstream.APIError{Code: 503, ErrorCode: 10008, Description: "JetStream system temporarily unavailable"}, true},
		{&jetstream.APIError{Code: 503, ErrorCode: 10009, Description: "JetStream cluster has no leader"}, true},
		{&jetstream.APIError{Code: 400, ErrorCode: 10005, Description: "no suitable peers for placement"}, true},
		{jetstream.ErrJetStreamNotEnabled, false},
		{jetstream.ErrJetStreamNotEnabledForAccount, false},
		{&jetstream.APIError{Code: 400, ErrorCode: 10074, Description: "replicas > 1 not supported in non-clustered mode"}, false},
		{errors.New("anything else"), false},
	} {
		if got := passing(fmt.Errorf("stream: %w", tc.err)); got != tc.want {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
}

// TestOutcome tells changes that failed from those that another owner made, and from those that nobody answered.
func TestOutcome(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err   error
		want  owner.Outcome
		owner string
	}{
		{nil, owner.Done, ""},
		{&takenError{"other"}, owner.Conflict, "other"},
		{errSilent, owner.Silent, ""},
		{context.DeadlineExceeded, owner.Silent, ""},
		{jetstream.ErrNoStreamResponse, owner.Silent, ""},
		{errConflict, owner.Failed, ""},
	} {
		if got, by, why := outcome(tc.err); got != tc.want || by != tc.owner || (why == "") != (tc.err == nil) {
			t.Errorf("%v: %v of %q, %q", tc.err, got, by, why)
		}
	}
}

// TestVerdictIsThereAlready: the verdict that an owner before has stored is what was wanted; one that is not stored is
// said to be missing.
func TestVerdictIsThereAlready(t *testing.T) {
	t.Parallel()
	_, js := natstest.RunInProcess(t).JetStream()
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := topology.CreateGeneration(t.Context(), js, wire.KindToken("count", 1), "b", "G1"); err != nil {
		t.Fatal(err)
	}
	s := &store{site: &site{ctx: t.Context(), js: js}, name: "b"}
	end := &wire.Result{Seq: 3, Kind: wire.KindEnd, Prev: []byte{1}, Attempt: "a", Worker: "c"}
	for range 2 {
		if got := s.keepVerdict(owner.StoreVerdict{Gen: "G1", Result: end}).(owner.VerdictStored); got.Reason != "" {
			t.Errorf("not stored: %s", got.Reason)
		}
	}
	if got := s.keepVerdict(owner.StoreVerdict{Gen: "G2", Result: end}).(owner.VerdictStored); got.Reason == "" {
		t.Error("stored where there is no store")
	}
}
