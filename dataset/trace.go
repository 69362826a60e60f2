package dataset

import (
	"context"

	"github.com/jetbatch/jetbatch/internal/kind"
)

// TraceParent returns the W3C traceparent of the trainer's Take that let this job out, so that spans of Materialize,
// made with the tracer of your choice, belong to the trainer's trace. It is empty when the trainer sent none. ctx is
// the one that Materialize was called with, or derived from it.
func TraceParent(ctx context.Context) string { return kind.Trace(ctx) }
