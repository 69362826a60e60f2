package embedded_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/natstest"
	"github.com/jetbatch/jetbatch/schema"
)

// TestWaitForARank has one rank stand at the window's end until the other goes on. Everybody who asks hears which rank
// it is, and the time is counted apart from the wait for batches.
func TestWaitForARank(t *testing.T) {
	t.Parallel()
	svc := startRows(t)
	w := launch(t, svc, "run-1", 2, rowsParams{N: 100}, func(cfg *client.Config) { cfg.Window = 2 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	next := func(rank int, state schema.State) schema.Step[schema.Batch] {
		t.Helper()
		step, err := w.ranks[rank].Take(ctx, state)
		if err != nil {
			t.Fatal(err)
		}
		return step
	}
	first := w.take(schema.State{}, 1)
	ahead, behind := first[0][0].step, first[1][0].step
	for range 2 {
		ahead = next(0, ahead.Next)
	}
	waited := make(chan took)
	go func() {
		step, err := w.ranks[0].Take(ctx, ahead.Next)
		waited <- took{step, err}
	}()
	var s schema.Status
	natstest.Eventually(t, "the rank ahead says what it waits for", func() bool {
		var err error
		s, err = w.ranks[1].Status(ctx)
		return err == nil && len(s.Members) == 2 && strings.Contains(s.Members[0].Waiting, "rank 1 is at batch 2")
	})
	if s.Heard != 2 || s.Spread != 2 || s.Slowest != 1 || !strings.HasPrefix(s.Waiting, "rank 1 is at batch 2, heard ") {
		t.Errorf("%d ranks heard, %d apart, slowest %d, waiting for %q", s.Heard, s.Spread, s.Slowest, s.Waiting)
	}
	if late := next(1, behind.Next).Timing; late.WaitRanks > late.Wait/2 {
		t.Errorf("the rank behind waited for the one ahead: %+v", late)
	}
	got := <-waited
	if got.err != nil {
		t.Fatal(got.err)
	}
	if x := got.step.Timing; x.Wait < time.Second || x.WaitRanks < x.Wait*9/10 {
		t.Errorf("of %v the rank waited %v for the other: %+v", x.Wait, x.WaitRanks, x)
	}
}
