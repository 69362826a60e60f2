package worker

import (
	"context"
	"testing"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestJobsBecomeResults(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	o.feed(1, 200)
	w, stop := start(t, s, Config{Name: "w1", Slots: 3}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) {
		return values(n, 256)
	}))
	o.waitEmpty()
	for seq := uint64(1); seq <= 200; seq++ {
		r, payload := o.result(seq)
		want, err := values(int(seq), 256)
		if err != nil {
			t.Fatal(err)
		}
		data, err := wire.AppendPayload(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind != wire.KindBatch || string(payload) != string(data) || r.Digest != wire.Sum(data) || r.Worker != "w1" || r.Deliveries != 1 {
			t.Fatalf("result %d is %+v with %d bytes of payload", seq, r, len(payload))
		}
	}
	natstest.Eventually(t, "all are counted", func() bool { return w.Status().Done == 200 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
