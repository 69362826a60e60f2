package worker

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Workers of one configured name, as docker-compose --scale starts them, count as many: all but one take another name,
// say so, and do what a worker does.
func TestTwoWorkersOfOneName(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "plain")
	const n = 6
	def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) })
	var log syncBuffer
	var workers []*Worker
	for range n {
		w, _ := start(t, s, Config{Name: "w1", Slots: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))}, nil, def)
		workers = append(workers, w)
	}
	natstest.Eventually(t, "all serve", func() bool {
		for _, w := range workers {
			if w.Ready() != nil {
				return false
			}
		}
		return true
	})
	names := map[string]bool{}
	for _, w := range workers {
		name := w.Status().Worker
		names[name] = true
		if name != "w1" && (!strings.HasPrefix(name, "w1-") || !strings.Contains(log.String(), "worker="+name+" configured=w1")) {
			t.Errorf("a worker is named %s and does not say why", name)
		}
	}
	if len(names) != n || !names["w1"] {
		t.Fatalf("%d workers are named %v", n, names)
	}
	for name := range names {
		natstest.Eventually(t, "status of "+name, func() bool {
			_, err := o.nc.RequestWithContext(t.Context(), wire.StatusPrefix+"."+name, nil)
			return err == nil
		})
	}
	o.feed(1, 60)
	o.waitEmpty()
	if r, _ := o.result(1); !names[r.Worker] {
		t.Errorf("a result is of worker %s", r.Worker)
	}
}

// A worker that is alone with its name does not wait for others that could object: it is at work before they could.
func TestAloneWithAName(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	first := newClaim(s.Connect(), nil, nil)
	first.patience, first.race = time.Hour, 0
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if name, err := first.obtain(ctx, "w1"); name != "w1" || err != nil || ctx.Err() != nil {
		t.Fatalf("alone: %q, %v, %v", name, err, ctx.Err())
	}
	second := newClaim(s.Connect(), nil, nil)
	second.patience, second.race = time.Hour, 0
	if name, err := second.obtain(ctx, "w1"); !strings.HasPrefix(name, "w1-") || err != nil {
		t.Fatalf("beside one that is there: %q, %v", name, err)
	}
}

// A name is free again when its worker has left.
func TestNameOfAWorkerThatLeft(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) })
	for range 2 {
		w, stop := start(t, s, Config{Name: "w1"}, nil, def)
		natstest.Eventually(t, "the worker serves", func() bool { return w.Ready() == nil })
		if got := w.Status().Worker; got != "w1" {
			t.Fatalf("the worker is named %s", got)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// Workers that could not hear one another when they started find out later.
func TestNameTakenMeanwhile(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) })
	first, _ := start(t, s, Config{Name: "w1"}, nil, def)
	natstest.Eventually(t, "the first serves", func() bool { return first.Ready() == nil })
	second, _ := start(t, s, Config{Name: "w1"}, func(w *Worker) { w.claim.patience = 0 }, def) // as if it had heard nothing
	natstest.Eventually(t, "both serve", func() bool { return second.Ready() == nil })
	natstest.Eventually(t, "one of them says so", func() bool {
		return strings.Contains(first.Status().LastError+second.Status().LastError, "another worker is named w1 too")
	})
}

// Whatever is said on the subject of claims, a worker that has its name keeps it, and answers at inboxes only.
func TestNameIsNotTalkedAway(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	w, _ := start(t, s, Config{Name: "w1"}, nil, define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	natstest.Eventually(t, "the worker serves", func() bool { return w.Ready() == nil })
	nc := s.Connect()
	heard, err := nc.SubscribeSync("jetbatch.result.>")
	if err != nil {
		t.Fatal(err)
	}
	for _, reply := range []string{"jetbatch.result.train.GEN.0.1", "other"} {
		if err := nc.PublishRequest(wire.ClaimPrefix+".w1", reply, []byte("0")); err != nil {
			t.Fatal(err)
		}
	}
	msg, err := nc.Request(wire.ClaimPrefix+".w1", []byte("0"), 10*time.Second)
	if err != nil || len(msg.Data) == 0 || w.Status().Worker != "w1" {
		t.Fatalf("%v %v, worker %s", msg, err, w.Status().Worker)
	}
	if n, _, _ := heard.Pending(); n > 0 {
		t.Error("the worker wrote a result for a stranger")
	}
}

// A stream of somebody else that stores claims acknowledges them, which is no objection: the worker keeps its name, and
// says which stream it is.
func TestAStreamAnswersAClaim(t *testing.T) {
	t.Parallel()
	s := natstest.RunInProcess(t)
	_, js := s.JetStream()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "audit", Subjects: []string{wire.ClaimPrefix + ".>"}, Storage: jetstream.MemoryStorage,
	}); err != nil {
		t.Fatal(err)
	}
	def := define("plain", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) })
	w, _ := start(t, s, Config{Name: "w1", Slots: 1}, nil, def)
	natstest.Eventually(t, "it says which stream answers", func() bool {
		return strings.Contains(w.Status().LastError, "stream audit of this account stores "+wire.ClaimPrefix+".w1")
	})
	if name := w.Status().Worker; name != "w1" {
		t.Errorf("the worker is named %s", name)
	}
}
