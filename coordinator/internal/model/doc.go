// Package model explores the protocol of docs/DESIGN.md exhaustively for small bounds: two coordinators, two workers,
// one reader, up to three batches and a window of two; every interleaving of steps and messages with so many crashes,
// false takeovers, lost stores, late or lost answers and re-seats as a test allows. It checks the invariants I1 to I5
// and the oracle in every state, and that from every state the trainer can still get everything once faults stop (I6).
//
// It is tests only. The coordinators are the product's own, package owner, whose every event the search delivers at any
// moment; the record, the stores, the workers and the reader are models. It is for orders of events that no author of a
// test thinks of. For each safeguard that can be left out, a test shows that the search then finds a broken promise,
// and prints the way to it.
//
// Left out: errors, chunks, bytes, holes, a lost bucket, a full store, stores that are silent, Start, Stop, more than
// one reader, and time but for its passing: what a lease or a timeout decides may happen at any moment.
package model
