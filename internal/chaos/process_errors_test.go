package chaos

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/schema"
)

// waited takes until Take gives up, and returns what it says it waited for.
func waited(t *testing.T, b *client.Batcher[schema.Batch], o *testset.Oracle, limit time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		step, err := b.Take(ctx, o.State)
		err = o.Check(step, err)
		if err == nil {
			continue
		}
		var wait *client.WaitError
		if !errors.As(err, &wait) || !errors.Is(err, client.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Take: %v, want a WaitError of the context's end", err)
		}
		return wait.For
	}
}

// takes takes n batches and fails the test for what is wrong with them.
func takes(t *testing.T, b *client.Batcher[schema.Batch], o *testset.Oracle, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), settleTime)
	defer cancel()
	for range n {
		step, err := b.Take(ctx, o.State)
		if err := o.Check(step, err); err != nil {
			t.Fatalf("after %d batches: %v", o.Taken, err)
		}
		step.Release()
	}
}

// A Take whose context ends names what it waited for: the nearest thing that is missing. What was not there then is
// taken afterwards.
func TestWaitsAreNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		breaks func(s *system, link *proxy)
		mends  func(s *system, link *proxy)
		says   string
		limit  time.Duration
	}{
		{
			name: "worker", says: "no worker serves data set " + sequenceName, limit: 5 * time.Second,
			breaks: func(s *system, _ *proxy) { s.workers[0].proc.Kill() }, mends: func(s *system, _ *proxy) { s.workers[0].restart() },
		},
		{
			name: "coordinator", says: "no coordinator", limit: 4 * time.Second,
			breaks: func(s *system, _ *proxy) { s.coordinators[0].proc.Kill() }, mends: func(s *system, _ *proxy) { s.coordinators[0].restart() },
		},
		{
			name: "broker", says: "no connection to NATS", limit: 4 * time.Second,
			breaks: func(s *system, _ *proxy) { s.brokers[0].proc.Kill() }, mends: func(s *system, _ *proxy) { s.brokers[0].restart() },
		},
		{
			name: "network", says: "no connection to NATS", limit: 2 * time.Second,
			breaks: func(_ *system, link *proxy) { link.set(network{refuse: true}); link.reset() },
			mends:  func(_ *system, link *proxy) { link.set(network{}) },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.name != "network" {
				onlyAtScale(t)
			}
			s := newSystem(t, 1, 1)
			p := testset.Params{Delay: time.Millisecond, Jitter: true}
			b, link := s.open(t, client.Config{Params: p, Window: 4})
			o := newOracle(p, schema.State{})
			takes(t, b, o, 10)
			tc.breaks(s, link)
			if what := waited(t, b, o, tc.limit); !strings.Contains(what, tc.says) {
				t.Errorf("waited for %q, want %q", what, tc.says)
			}
			tc.mends(s, link)
			takes(t, b, o, 10)
		})
	}
}
