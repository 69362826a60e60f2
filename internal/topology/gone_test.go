package topology

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
)

// A job that was acked before it could be deleted is gone, whatever code the server has for it.
func TestGone(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	js, err := jetstream.New(natstest.Run(t).Connect())
	if err != nil {
		t.Fatal(err)
	}
	for _, storage := range []jetstream.StorageType{jetstream.MemoryStorage, jetstream.FileStorage} {
		s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "s-" + storage.String(), Storage: storage, Subjects: []string{storage.String()}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := js.Publish(ctx, storage.String(), nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.DeleteMsg(ctx, 1); err != nil {
			t.Fatal(err)
		}
		for _, seq := range []uint64{1, 7} {
			if err := s.DeleteMsg(ctx, seq); err == nil || !gone(err) {
				t.Errorf("%v: message %d is not gone: %v", storage, seq, err)
			}
		}
	}
}
