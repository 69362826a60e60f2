// Package lend lets a program of this module say where its client receives payloads. It is no part of the client's API:
// who lends memory answers for every use of it.
package lend

import "context"

// Buffers lends memory for payloads to the handles of one client.Open. Its methods may be called at the same time, and
// may wait.
type Buffers interface {
	// Get returns n bytes at a multiple of schema.Alignment, or nil: the payload is in memory of the client's own then.
	// The client alone writes to them until Put. A payload begins schema.Alignment bytes behind the first of them, and
	// ends with the last; it is not written to any more once a step shows it.
	Get(n int) []byte

	// Put takes back what Get returned, once: when the step of a payload is released, or a payload that nobody took is of
	// no use any more. When Close has returned and no Take or Peek is under way, all is back but what steps have that are
	// not released.
	Put(buf []byte)
}

type key struct{}

// With returns a context with which client.Open makes a handle that uses b.
func With(ctx context.Context, b Buffers) context.Context { return context.WithValue(ctx, key{}, b) }

// From returns what With was given, nil for nothing.
func From(ctx context.Context) Buffers {
	b, _ := ctx.Value(key{}).(Buffers)
	return b
}
