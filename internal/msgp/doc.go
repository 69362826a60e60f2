// Package msgp is the msgpack of jetbatch: one encoding per value ([Marshal]), a check before anything is decoded
// ([Check], [Unmarshal]), and reading and writing by hand what there is one of per batch ([AppendUint], [Cursor]).
//
// It promises that
//   - equal values have equal bytes, whatever process, architecture or map order made them;
//   - a decoder given hostile bytes returns an error that wraps [ErrMalformed]; it does not panic, recurse without
//     bound, or take memory out of proportion to the input.
//
// It knows nothing of states, tensors, jobs or records: packages schema and wire say what their bytes mean. It never
// opens a connection, starts a goroutine or reads a clock.
package msgp
