package worker

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A worker on which every job fails costs work, and no run that another can feed.
func TestOneWorkersErrorIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "gpu")
	o.company(2)
	var ran atomic.Int64
	bad, _ := start(t, s, Config{Name: "bad", Slots: 2, Attempts: 1}, nil, define("gpu", func(context.Context, int) (schema.Batch, error) {
		ran.Add(1)
		return nil, errors.New("no device")
	}))
	o.feed(1, 4)
	natstest.Eventually(t, "every job has failed", func() bool { return ran.Load() == 4 })
	natstest.Eventually(t, "the status says so", func() bool {
		return strings.HasPrefix(bad.Status().LastError, "job ") && strings.HasSuffix(bad.Status().LastError, " of train failed here, and is tried on another worker: no device")
	})
	start(t, s, Config{Name: "good", Slots: 1}, nil, define("gpu", func(_ context.Context, n int) (schema.Batch, error) { return values(n, 1) }))
	o.waitEmpty()
	for seq := uint64(1); seq <= 4; seq++ {
		if r, _ := o.result(seq); r.Kind != wire.KindBatch || r.Worker != "good" {
			t.Fatalf("result %+v, %v", r, r.Fault)
		}
	}
	if ran.Load() != 4 || bad.Status().Failed != 0 {
		t.Errorf("the bad worker ran %d jobs; status %+v", ran.Load(), bad.Status())
	}
}

// What fails on two workers is the job's, whatever each says of it, and once is enough for both.
func TestTwoWorkersErrorIsTheJobs(t *testing.T) {
	t.Parallel()
	for name, texts := range map[string][2]string{
		"same":  {"window 7 is corrupt", "window 7 is corrupt"},
		"other": {"no device", "window 7 is corrupt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Run(t)
			o := newOwner(t, s, "train", "ecg")
			o.company(2)
			var mu sync.Mutex
			ran := map[string]int{}
			for i, w := range []string{"a", "b"} {
				start(t, s, Config{Name: w, Slots: 1, Attempts: 1}, nil, define("ecg", func(_ context.Context, n int) (schema.Batch, error) {
					if n != 2 {
						return values(n, 1)
					}
					mu.Lock()
					defer mu.Unlock()
					ran[w]++
					return nil, errors.New(texts[i])
				}))
			}
			o.feed(1, 3)
			o.waitEmpty()
			r, _ := o.result(2)
			if r.Kind != wire.KindError || r.Fault.Code != schema.CodeMaterialize {
				t.Fatalf("result %+v, %v", r, r.Fault)
			}
			text := r.Fault.Message
			if texts[0] == texts[1] && text != texts[0] || !strings.Contains(text, texts[0]) || !strings.Contains(text, texts[1]) {
				t.Errorf("fault %q", text)
			}
			mu.Lock()
			defer mu.Unlock()
			if ran["a"] != 1 || ran["b"] != 1 {
				t.Errorf("executions %v, want one on each", ran)
			}
		})
	}
}

// The only worker there is judges by itself, but not before others had the time to come.
func TestSoleWorkerWaitsBeforeItJudges(t *testing.T) {
	t.Parallel()
	s := natstest.Run(t)
	o := newOwner(t, s, "train", "ecg")
	o.company(1)
	began := time.Now()
	var ran atomic.Int64
	start(t, s, Config{Name: "a", Slots: 1, Attempts: 1}, nil, define("ecg", func(context.Context, int) (schema.Batch, error) {
		ran.Add(1)
		return nil, errors.New("window 1 is corrupt")
	}))
	o.feed(1, 1)
	r, _ := o.result(1)
	if took := time.Since(began); r.Kind != wire.KindError || took < 5*time.Second || ran.Load() != 2 {
		t.Errorf("after %v and %d executions: %+v", took, ran.Load(), r.Fault)
	}
}
