package coordinator_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// A worker that has jobs in a run asks the owner to queue them by themselves. The owner answers when the stream has
// them, and is silent about jobs that it cannot answer for.
func TestOwnerTakesRunsApart(t *testing.T) {
	c := setup(t)
	c.coordinate(coordinator.Config{}, new(hooks))
	r := c.reader("train")
	r.run(4)
	r.waitJobs(5, 12)
	stream, err := c.js.Stream(t.Context(), topology.JobsStream)
	if err != nil {
		t.Fatal(err)
	}
	// The jobs are gone from their own subjects, as those are that travel in a run.
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(wire.JobPrefix+".*.train.>")); err != nil {
		t.Fatal(err)
	}
	apart := func(gen string, seqs ...uint64) (wire.ApartReply, error) {
		var reply wire.ApartReply
		body := mustJSON(t, wire.Report{Gen: gen, Apart: seqs})
		m, err := c.nc.Request(wire.ReportPrefix+".train", body, 500*time.Millisecond)
		if err == nil {
			err = json.Unmarshal(m.Data, &reply)
		}
		return reply, err
	}
	for name, err := range map[string]error{
		"another generation": second(apart("01ARZ3NDEKTSV4RRFFQ69G5FAV", 6)),
		"a job not fed":      second(apart(r.reply.Gen, 6, 99)),
		"too many":           second(apart(r.reply.Gen, make([]uint64, wire.MaxRun+1)...)),
	} {
		if !errors.Is(err, nats.ErrTimeout) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := r.jobs(); len(got) != 0 {
		t.Fatalf("jobs: %v; nothing was to be queued", got)
	}
	for range 2 { // the second time they are there already
		if reply, err := apart(r.reply.Gen, 4, 6, 7); err != nil || !reply.Queued { // 4 is taken
			t.Fatalf("%+v, %v", reply, err)
		}
		if got := r.jobs(); len(got) != 2 || !got[6] || !got[7] {
			t.Fatalf("jobs: %v", got)
		}
	}
	if s := r.status(); s.Reissued != 0 {
		t.Errorf("%d jobs count as lost", s.Reissued)
	}
}

func second[T any](_ T, err error) error { return err }
