// Package model explores the protocol of docs/DESIGN.md exhaustively for small bounds: two coordinators, two workers, one
// reader, three batches and a window of two; every interleaving of steps and messages with so many crashes, false
// takeovers, lost stores, late duplicates and re-seats as a test allows. It checks the invariants I1 to I5 and the oracle
// in every state, and that from every state the trainer can still get everything once faults stop (I6).
//
// It is a model, in tests only: it has the protocol's steps and none of the product's code, whose own cores are tested
// against dumb versions where they are. What it is for is orders of events that nobody thought of. Each safeguard
// that it can leave out has a test that the search then finds a way to break a promise, and prints that way.
//
// Left out: the end of the data and errors, chunks, bytes, holes, a lost bucket, more than one reader, and time: what a lease
// or a timeout decides may happen at any moment.
package model
