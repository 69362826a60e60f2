// Package bridge is the local protocol by which a process in another language takes batches, or makes them: frames over
// a socket pair, and batches in memory that both processes map. docs/BRIDGE.md is its specification.
//
// The package holds what both ends share, the frames ([Conn]) and the memory ([Memory], [Region]). Package
// bridge/trainer serves a trainer, package bridge/process runs a data set.
//
// It promises that shared memory has no name that another user could open, that it is bounded, and that none is left
// when both processes have ended, however they ended. It runs on Linux.
package bridge

// Protocol is the version of the local protocol, the first thing that either side says. Sides that differ do not talk.
const Protocol = 1
