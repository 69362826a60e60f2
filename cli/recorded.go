package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// recorded reads the batchers' records, in the place of coordinators that do not answer. It asks for one after the
// other, since an operator may make no consumer. A deployment without the bucket has none.
func (f *natsFlags) recorded(ctx context.Context, nc *nats.Conn) (batchers []schema.Status, err error) {
	js, err := f.jetStream(nc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, topology.BucketStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: records: %w", errUnhealthy, err)
	}
	prefix := "$KV." + topology.Bucket + "." + topology.BatcherKey("")
	for seq := s.CachedInfo().State.FirstSeq; ; {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(prefix+"*"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return batchers, nil
		}
		if err != nil {
			return batchers, fmt.Errorf("%w: records: %w", errUnhealthy, err)
		}
		seq = m.Sequence + 1
		if m.Header.Get("KV-Operation") == "" { // else it was deleted
			batchers = append(batchers, recordedStatus(m.Subject[len(prefix):], m))
		}
	}
}

// recordedStatus is what a record says of its batcher.
func recordedStatus(name string, m *jetstream.RawStreamMsg) schema.Status {
	rec, err := wire.ParseRecord(name, m.Data)
	if err != nil {
		return schema.Status{Batcher: name, Waiting: fmt.Sprintf("a coordinator to mend its record: %v", err)}
	}
	return schema.Status{
		Batcher: name, Phase: rec.Phase, Error: rec.Error, Dataset: rec.Spec.Dataset, Version: rec.Spec.Version,
		Gen: rec.Gen, Seat: rec.Seat, Reader: rec.Reader, Owner: rec.Owner, Taken: rec.Taken, Fed: rec.Taken,
		Total: rec.Total, BatchBytes: rec.BatchBytes, Accepted: rec.Accepted,
		Waiting: "a coordinator, as recorded " + m.Time.Local().Format(time.DateTime),
	}
}
