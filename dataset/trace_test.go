package dataset_test

import (
	"context"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/kind"
)

func TestTraceParent(t *testing.T) {
	t.Parallel()
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	ctx, cancel := context.WithCancel(kind.WithTrace(t.Context(), trace))
	defer cancel()
	if got := dataset.TraceParent(ctx); got != trace {
		t.Errorf("got %q, want %q", got, trace)
	}
	if got := dataset.TraceParent(kind.WithTrace(t.Context(), "")); got != "" {
		t.Errorf("got %q from a context without a trace", got)
	}
}
