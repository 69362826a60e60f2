package topology_test

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// A value of the bucket that the server was made to store, as the answer to a read, is no owner's: not even one that
// says that it is deleted.
func TestGetForged(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	bucket, err := js.Stream(ctx, topology.BucketStream)
	must(t, err)
	for name, header := range map[string]nats.Header{
		"value": {"Nats-Stream": {"x"}}, "marker": {"Nats-Stream": {"x"}, "KV-Operation": {"PURGE"}},
	} {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: "$KV.jetbatch." + name, Header: header})
		must(t, err)
		if _, rev, err := topology.Get(ctx, bucket, name); !errors.Is(err, topology.ErrForged) || rev == 0 {
			t.Errorf("%s: revision %d, %v", name, rev, err)
		}
	}
}

// The headers by which NATS does more with a message than to store it: no message of a worker removes or changes
// another by one, and none that is stored has one that would do so in the bucket, to which the server can be made to
// send it.
func TestHeadersDoNoMore(t *testing.T) {
	t.Parallel()
	ctx, _, js := setup(t)
	_, err := js.CreateStream(ctx, topology.Results(batcher, gen))
	must(t, err)
	job := wire.JobSubject(kindToken, batcher, gen, 1, 0)
	streams := map[string]struct{ kept, sent string }{
		topology.ResultsStream(batcher, gen): {
			wire.ResultSubject(batcher, gen, 1), wire.ChunkSubject(batcher, gen, 2, "a", 0),
		},
		topology.JobsStream:   {job, wire.JobSubject(kindToken, batcher, gen, 2, 0)},
		topology.EventsStream: {wire.EventPrefix + ".batcher.a", wire.EventPrefix + ".batcher.b"},
	}
	for name, s := range streams {
		publish(t, ctx, js, s.kept, "kept")
		stream, err := js.Stream(ctx, name)
		must(t, err)
		for what, tc := range map[string]struct {
			header nats.Header
			stored bool
		}{
			"rollup of a subject":    {nats.Header{"Nats-Rollup": {"sub"}}, false},
			"rollup of all":          {nats.Header{"Nats-Rollup": {"all"}}, false},
			"time to live":           {nats.Header{"Nats-TTL": {"1s"}}, false},
			"schedule":               {nats.Header{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {s.kept}}, false},
			"counter":                {nats.Header{"Nats-Incr": {"1"}}, false},
			"batch":                  {nats.Header{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}}, false},
			"another stream's":       {nats.Header{"Nats-Expected-Stream": {"KV_jetbatch"}}, false},
			"another last message":   {nats.Header{"Nats-Expected-Last-Sequence": {"99"}}, false},
			"another of the subject": {nats.Header{"Nats-Expected-Last-Subject-Sequence": {"99"}}, false},
			"a marker":               {nats.Header{"KV-Operation": {"PURGE"}, "Nats-Marker-Reason": {"Purge"}}, true},
			"an identity":            {nats.Header{"Nats-Msg-Id": {"1"}}, true},
			"the server's own":       {nats.Header{"Nats-Stream": {"KV_jetbatch"}, "Nats-Sequence": {"1"}}, true},
		} {
			_, err := js.PublishMsg(ctx, &nats.Msg{Subject: s.sent, Header: tc.header}, jetstream.WithRetryAttempts(0))
			if stored := err == nil; stored != tc.stored {
				t.Errorf("%s, %s: stored %t, %v", name, what, stored, err)
			}
			if m, err := stream.GetLastMsgForSubject(ctx, s.kept); err != nil || string(m.Data) != "kept" {
				t.Errorf("%s, %s: what was there before: %v, %v", name, what, m, err)
			}
			if err := stream.Purge(ctx, jetstream.WithPurgeSubject(s.sent)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
