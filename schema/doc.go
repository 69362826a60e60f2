// Package schema is the wire contract of jetbatch: what a coordinator, a worker and a trainer write to and read from
// one another, and nothing about how it travels.
//
// It holds the values that a user meets ([State], [Tensor], [Batch], [Digest]), the canonical encoding that the
// service compares byte for byte ([Marshal], [AppendPayload]), and the check that everything from the network passes
// before it is decoded ([Check]).
//
// It promises that
//   - equal values have equal bytes, whatever process, architecture or map order made them;
//   - a decoder given hostile bytes returns an error that wraps [ErrMalformed]; it does not panic, recurse without
//     bound, or take memory out of proportion to the input;
//   - tensors are never copied on the way in: they are views of the payload that they came in.
//
// It never opens a connection, starts a goroutine, reads a clock or imports NATS, so a program that only reads a saved
// state or a stored payload needs nothing else.
package schema
