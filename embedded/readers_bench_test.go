package embedded_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/embedded"
	"github.com/jetbatch/jetbatch/schema"
)

// BenchmarkReaderBesideAStoppedOne compares a reader whose only companion stands still with a trainer that has its
// batcher alone, in turns of one run: before the other one is detached, and after.
func BenchmarkReaderBesideAStoppedOne(b *testing.B) {
	const turn = 200
	svc, err := embedded.Start(context.Background(), embedded.Config{Logger: slog.New(slog.DiscardHandler)},
		rowsDefinition())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = svc.Close() }) // nothing of it is measured
	open := func(name, reader string, lag int) *client.Batcher[schema.Batch] {
		handle, err := client.Open[schema.Batch](b.Context(), svc.Conn(), client.Config{
			Name: name, Dataset: "rows", Params: rowsParams{N: 1 << 40}, Reader: reader, Lag: lag, Window: 16,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = handle.Close() })
		return handle
	}
	type taker struct {
		*client.Batcher[schema.Batch]
		state schema.State
		spent time.Duration
	}
	alone, before, after := taker{Batcher: open("alone", "", 0)}, taker{Batcher: open("before", "a", 1<<20)},
		taker{Batcher: open("after", "a", 16)}
	take := func(t *taker, n int) {
		began := time.Now()
		for range n {
			step, err := t.Take(b.Context(), t.state)
			if err != nil {
				b.Fatal(err)
			}
			t.state = step.Next
			step.Release()
		}
		t.spent += time.Since(began)
	}
	for _, name := range []string{"before", "after"} {
		stopped := taker{Batcher: open(name, "stopped", 0)}
		take(&stopped, 1)
	}
	all := []*taker{&alone, &before, &after}
	for _, t := range all {
		take(t, turn)
		t.spent = 0
	}
	turns := 0
	for b.Loop() {
		for i := range all {
			take(all[(i+turns)%len(all)], turn)
		}
		turns++
	}
	for i, name := range []string{"", "before-the-detach/alone", "after-it/alone"} {
		if i > 0 {
			b.ReportMetric(alone.spent.Seconds()/all[i].spent.Seconds(), name)
		}
	}
}
