package topology_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
)

// A server that finds a definition which it cannot read takes the stream offline and leaves it to an operator. What the
// service stores can be derived again, so it makes the stream again.
func TestEnsureMakesAgainWhatTheServerCannotRead(t *testing.T) {
	t.Parallel()
	var dir string
	srv := natstest.Run(t, func(o *server.Options) { dir = o.StoreDir })
	_, js := srv.JetStream()
	const batcher, gen = "train", "01JGEN"
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := topology.CreateGeneration(t.Context(), js, "count-v1-w1", batcher, gen); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", topology.JobsStream, "obs", topology.Consumer(batcher, gen), "meta.inf"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v: %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(data, []byte(`"ack_policy"`), []byte(`"ack_qolicy"`), 1)
	if bytes.Equal(damaged, data) {
		t.Fatalf("no ack policy in %s", data)
	}
	if err := os.WriteFile(files[0], damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	_, js = srv.JetStream()
	if _, err := js.Stream(t.Context(), topology.JobsStream); err == nil {
		t.Skip("this server can do with a damaged consumer")
	}
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := topology.EnsureConsumer(t.Context(), js, "count-v1-w1", batcher, gen); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "jetbatch.job.count-v1-w1."+batcher+"."+gen+".1.0", nil, jetstream.WithExpectStream(topology.JobsStream)); err != nil {
		t.Fatal(err)
	}
}
