package worker

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// never is a data set that must not be asked for anything.
func never(t *testing.T) func(context.Context, int) (schema.Batch, error) {
	return func(context.Context, int) (schema.Batch, error) {
		t.Error("a job of another version was run")
		return values(1, 1)
	}
}

// A job of a version that the worker does not have is handed back, never run and never judged, however it came here.
func TestForeignJobIsHandedBack(t *testing.T) {
	t.Parallel()
	for _, foreign := range []string{"count-v1-w1", "count-v2-w2", "other-v1-w2"} {
		t.Run(foreign, func(t *testing.T) {
			t.Parallel()
			s := natstest.RunInProcess(t)
			o := newOwner(t, s, "b", "count")
			// What a mistaken owner would do: its consumer hands out jobs that are not of the kind that its lane announces.
			if err := topology.DeleteGeneration(t.Context(), o.js, o.batcher, o.gen); err != nil {
				t.Fatal(err)
			}
			if err := topology.CreateGeneration(t.Context(), o.js, foreign, o.batcher, o.gen); err != nil {
				t.Fatal(err)
			}
			subject := wire.JobFilter(foreign, o.batcher, o.gen)
			subject = strings.TrimSuffix(subject, ">") + "1.0"
			if _, err := o.js.Publish(t.Context(), subject, o.job(1)); err != nil {
				t.Fatal(err)
			}
			w, _ := start(t, s, Config{Slots: 1}, nil, define("count", never(t)))
			natstest.Eventually(t, "the worker says so", func() bool { return strings.Contains(w.Status().LastError, foreign) })
			natstest.Eventually(t, "the job is handed back", func() bool {
				n, _ := w.held.counts()
				return n == 0
			})
			jobs, err := o.js.Stream(t.Context(), topology.JobsStream)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := jobs.GetLastMsgForSubject(t.Context(), subject); err != nil {
				t.Fatalf("the job is gone: %v", err)
			}
			if status := w.Status(); status.Done != 0 || status.Failed != 0 {
				t.Fatalf("judged: %+v", status)
			}
		})
	}
}

// A run of another wire version is left alone, though its data set and version have familiar names.
func TestRecordOfAnotherWireVersion(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	o := newOwner(t, s, "b", "count")
	w, _ := start(t, s, Config{Slots: 1}, nil, define("count", never(t)))
	natstest.Eventually(t, "the lane is open", func() bool { return serves(w, "b") })

	kv, err := topology.OpenBucket(t.Context(), o.js)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, kv, o, wire.Version+1)
	if err := w.lanes.apply(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if serves(w, "b") {
		t.Fatal("the worker serves a run of another wire version")
	}
	rewrite(t, kv, o, wire.Version)
	natstest.Eventually(t, "the lane is open again", func() bool { return serves(w, "b") })
}

// lines collects log lines.
type lines struct {
	mu   sync.Mutex
	text string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	return len(p), nil
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text, s)
}

// The log of a worker says once why it leaves the jobs of another wire version alone.
func TestLaneOfAnotherWireVersion(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	log := new(lines)
	cfg := Config{Slots: 1, Logger: slog.New(slog.NewTextHandler(log, nil))}
	w, _ := start(t, s, cfg, nil, define("count", never(t)))
	for _, kind := range []string{"count-v1-w1", "count-v1-w1", "count-v2-w1", "other-v1-w1"} {
		lane, err := json.Marshal(wire.Lane{Batcher: "old", Gen: "G", Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		w.lanes.onHint(&nats.Msg{Data: lane})
	}
	if n := log.count("another wire version"); n != 1 || log.count("count-v1-w1") != 1 {
		t.Fatalf("said %d times:\n%s", n, log.text)
	}
	if slices.ContainsFunc(w.lanes.all(), func(l *lane) bool { return l.batcher == "old" }) {
		t.Fatal("the worker serves a run of another wire version")
	}
}

func rewrite(t *testing.T, kv jetstream.KeyValue, o *owner, version int) {
	t.Helper()
	data, err := json.Marshal(wire.Record{
		Wire: version, Batcher: o.batcher, Owner: "c1", Gen: o.gen, Phase: schema.PhaseRunning, Spec: o.spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(t.Context(), topology.BatcherKey(o.batcher), data); err != nil {
		t.Fatal(err)
	}
}

// serves reports whether a worker serves a batcher.
func serves(w *Worker, batcher string) bool {
	w.lanes.mu.Lock()
	defer w.lanes.mu.Unlock()
	return w.lanes.open[batcher] != nil
}
