package kind

import "context"

type traceKey struct{}

// WithTrace returns a context for Materialize that carries a W3C traceparent.
func WithTrace(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, traceparent)
}

// Trace returns what WithTrace put into ctx, or one it was derived from.
func Trace(ctx context.Context) string {
	s, _ := ctx.Value(traceKey{}).(string)
	return s
}
