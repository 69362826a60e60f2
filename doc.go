// Package jetbatch is the root of a module that feeds a trainer with batches from any number of machines, strictly in
// order, over NATS JetStream, and that can stop anywhere and go on bit for bit.
//
// Loading is split in two. An iterator, cheap and strictly ordered, turns a state (usually a random generator and a
// position) into the next job and the next state; materialization, expensive and parallel, turns one job into tensors.
// A coordinator runs the iterator, workers materialize, and the trainer takes the results in the iterator's order, each
// with the state that follows it. It saves that state with its checkpoint; asked with another state, the service goes
// on from there. What is taken is what a loop in one process would have made, whatever crashes on the way.
//
// Where to begin:
//
//   - "go run ./cmd/jetbatch demo" shows all of it in one process and needs nothing but Go.
//   - [github.com/jetbatch/jetbatch/dataset] is what you implement, and
//     [github.com/jetbatch/jetbatch/datasettest] tests whether you did it right.
//   - [github.com/jetbatch/jetbatch/client] is what a trainer imports, with states and tensors from
//     [github.com/jetbatch/jetbatch/schema].
//   - [github.com/jetbatch/jetbatch/embedded] runs the service inside the trainer's process;
//     [github.com/jetbatch/jetbatch/cli] makes a binary of your data sets, with a command for every role, out of
//     [github.com/jetbatch/jetbatch/coordinator] and [github.com/jetbatch/jetbatch/worker].
//   - [github.com/jetbatch/jetbatch/onda] is a complete data set: random windows of labelled signals.
//
// This package has no code. docs/DESIGN.md says how the parts talk to one another and why.
package jetbatch
