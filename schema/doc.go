// Package schema is what a user of jetbatch touches: positions in the data ([State]), what a data set makes and a
// trainer gets ([Tensor], [Batch], [Step]), how a batcher stands ([Status], [Timing]), and what can be wrong with them
// ([Fault]).
//
// It promises that
//   - equal states have equal bytes, whatever process, architecture or map order made them;
//   - a decoder given hostile bytes returns an error that wraps [ErrMalformed]; it does not panic, recurse without
//     bound, or take memory out of proportion to the input;
//   - tensors are never copied on the way in: they are views of the payload that they came in.
//
// How these travel is not its business, but that of internal packages. It never opens a connection, starts a goroutine,
// reads a clock or imports NATS, so a program that only reads a saved state needs nothing else.
package schema
