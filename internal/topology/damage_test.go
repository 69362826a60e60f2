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
	if err := topology.Ensure(t.Context(), js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	// A stranger's consumer does as well as a definition of a later server's: the stream with it goes offline.
	if _, err := js.CreateConsumer(t.Context(), topology.BucketStream, jetstream.ConsumerConfig{Durable: "spy"}); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", topology.BucketStream, "obs", "spy", "meta.inf"))
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
	if _, err := js.Stream(t.Context(), topology.BucketStream); err == nil {
		t.Skip("this server can do with a damaged definition")
	}
	// The server may be at removing the files still.
	natstest.Eventually(t, "the bucket is made again", func() bool { return topology.Ensure(t.Context(), js, topology.Config{}) == nil })
	kv, err := topology.OpenBucket(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), topology.BatcherKey("train"), nil); err != nil {
		t.Fatal(err)
	}
}
