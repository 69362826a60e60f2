package topology_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
)

// refusal is the code and the description of a JetStream error.
func refusal(t *testing.T, err error) (int, string) {
	t.Helper()
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		t.Fatalf("%v: want an error of JetStream", err)
	}
	return int(api.ErrorCode), api.Description
}

// The server that this module is built with refuses as the codes say.
func TestCodesOfTheServer(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	kv, err := topology.OpenBucket(ctx, js)
	must(t, err)
	stream := func(cfg jetstream.StreamConfig) jetstream.Stream {
		t.Helper()
		cfg.Subjects, cfg.Storage = []string{"codes." + cfg.Name + ".>"}, jetstream.MemoryStorage
		s, err := js.CreateStream(ctx, cfg)
		must(t, err)
		return s
	}
	send := func(subject string, size int) (int, string) {
		t.Helper()
		_, err := js.Publish(ctx, subject, make([]byte, size))
		return refusal(t, err)
	}

	revision, err := kv.Create(ctx, topology.BatcherKey("a"), []byte("1"))
	must(t, err)
	_, err = kv.Update(ctx, topology.BatcherKey("a"), []byte("2"), revision)
	must(t, err)
	if _, err := kv.Update(ctx, topology.BatcherKey("a"), []byte("3"), revision); !topology.IsConflict(err) {
		t.Errorf("an update of an old revision: %v", err)
	}
	if _, err := kv.Create(ctx, topology.BatcherKey("a"), nil); !topology.IsConflict(err) {
		t.Errorf("a key that is there: %v", err)
	}
	err = kv.Delete(ctx, topology.BatcherKey("a"), jetstream.LastRevision(revision))
	if !topology.IsConflict(err) {
		t.Errorf("a deletion of an old revision: %v", err)
	}

	stream(jetstream.StreamConfig{
		Name: "one", MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
	})
	publish(t, ctx, js, "codes.one.a", "1")
	code, why := send("codes.one.a", 1)
	if !topology.IsDuplicate(code, why) || topology.IsFull(code, why) || topology.IsTooLarge(code, why) {
		t.Errorf("a second message on a subject: %d %s", code, why)
	}
	stream(jetstream.StreamConfig{Name: "bytes", MaxBytes: 1000, Discard: jetstream.DiscardNew})
	if code, why := send("codes.bytes.a", 2000); !topology.IsFull(code, why) || topology.IsDuplicate(code, why) {
		t.Errorf("no bytes left: %d %s", code, why)
	}
	messages := stream(jetstream.StreamConfig{Name: "messages", MaxMsgs: 1, Discard: jetstream.DiscardNew})
	publish(t, ctx, js, "codes.messages.a", "1")
	if code, why := send("codes.messages.b", 1); !topology.IsFull(code, why) || topology.IsDuplicate(code, why) {
		t.Errorf("no messages left: %d %s", code, why)
	}
	stream(jetstream.StreamConfig{Name: "size", MaxMsgSize: 10})
	if code, why := send("codes.size.a", 100); !topology.IsTooLarge(code, why) || topology.IsFull(code, why) {
		t.Errorf("a message that is too large: %d %s", code, why)
	}

	_, err = js.Stream(ctx, "none")
	if code, _ := refusal(t, err); !topology.IsNoStream(code) {
		t.Errorf("no such stream: %v", err)
	}
	_, err = messages.GetMsg(ctx, 99)
	if code, _ := refusal(t, err); !topology.IsNoMessage(code) {
		t.Errorf("no such message: %v", err)
	}
	err = errors.New("anything else")
	if topology.IsConflict(err) || topology.IsPassing(err) || topology.IsNotForAccount(err) {
		t.Error("an error that JetStream did not answer with has a meaning")
	}
}

// The second code of a lost compare-and-set. It takes a cluster and two writers at the same instant, or, as here, a
// batch of messages whose second one expects what the first has just changed.
func TestConflictWithWriteUnderWay(t *testing.T) {
	t.Parallel()
	ctx, nc, js := setup(t)
	_, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "atomic", Subjects: []string{"atomic.>"}, AllowAtomicPublish: true,
	})
	must(t, err)
	header := nats.Header{"Nats-Batch-Id": {"1"}, "Nats-Batch-Sequence": {"1"}}
	must(t, nc.PublishMsg(&nats.Msg{Subject: "atomic.a", Header: header}))
	header = nats.Header{
		"Nats-Batch-Id": {"1"}, "Nats-Batch-Sequence": {"2"}, "Nats-Batch-Commit": {"1"},
		jetstream.ExpectedLastSubjSeqHeader: {"0"},
	}
	reply, err := nc.RequestMsgWithContext(ctx, &nats.Msg{Subject: "atomic.a", Header: header})
	must(t, err)
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	must(t, json.Unmarshal(reply.Data, &answer))
	if answer.Error == nil || answer.Error.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequenceConstant ||
		!topology.IsConflict(fmt.Errorf("record: %w", answer.Error)) {
		t.Fatalf("%s: want a conflict by its second code", reply.Data)
	}
}

// What one embedded server cannot be brought to say, in the server's words: these take a cluster or an account of its
// own.
func TestCodesOfOtherServers(t *testing.T) {
	t.Parallel()
	api := func(status, code int, why string) error {
		return &jetstream.APIError{Code: status, ErrorCode: jetstream.ErrorCode(code), Description: why}
	}
	for _, err := range []error{
		api(503, 10008, "JetStream system temporarily unavailable"), api(400, 10005, "no suitable peers for placement"),
	} {
		if !topology.IsPassing(err) || topology.IsConflict(err) {
			t.Errorf("%v does not pass", err)
		}
	}
	if topology.IsPassing(api(400, 10074, "replicas > 1 not supported in non-clustered mode")) {
		t.Error("a server alone will never have replicas")
	}
	if !topology.IsNotForAccount(api(503, 10039, "JetStream not enabled for account")) ||
		!topology.IsNotForAccount(jetstream.ErrJetStreamNotEnabledForAccount) {
		t.Error("JetStream is off for the account")
	}
	for _, code := range []int{10002, 10023, 10028, 10047} {
		if !topology.IsFull(code, "insufficient") {
			t.Errorf("%d is not full", code)
		}
	}
}
