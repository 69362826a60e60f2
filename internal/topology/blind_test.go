package topology_test

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// between does something before a consumer is asked for.
type between struct {
	jetstream.JetStream
	do func()
}

func (b between) Consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	b.do()
	return b.JetStream.Consumer(ctx, stream, name)
}

// TestConsumerOfJobsThatAreDoneStays has a job acked between the two questions by which a consumer is found to have
// lost sight of jobs: the consumer, at which requests wait, stays.
func TestConsumerOfJobsThatAreDoneStays(t *testing.T) {
	t.Parallel()
	_, js := natstest.Run(t).JetStream()
	must(t, topology.Ensure(t.Context(), js, topology.Config{}))
	must(t, topology.CreateGeneration(t.Context(), js, kindToken, batcher, gen))
	_, err := js.Publish(t.Context(), wire.JobSubject(kindToken, batcher, gen, 1, wire.TryFirst), nil)
	must(t, err)
	consumer, err := js.Consumer(t.Context(), topology.JobsStream, topology.Consumer(batcher, gen))
	must(t, err)
	_, err = topology.EnsureConsumer(t.Context(), between{js, func() {
		msg, err := consumer.Next()
		must(t, err)
		must(t, msg.DoubleAck(t.Context()))
	}}, kindToken, batcher, gen)
	must(t, err)
	after, err := js.Consumer(t.Context(), topology.JobsStream, topology.Consumer(batcher, gen))
	must(t, err)
	if !after.CachedInfo().Created.Equal(consumer.CachedInfo().Created) {
		t.Error("the consumer was made again")
	}
}
