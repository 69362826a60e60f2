// Package worker turns jobs into batches: it pulls jobs of the kinds of data set that it was given, materializes them
// in a fixed number of slots and stores each result before it acknowledges the job.
//
// It promises:
//   - A job is acknowledged only after its commit record is known to be stored. A worker that dies at any
//     instant costs a redelivery, never a batch.
//   - An error of the data set is retried 4 times with backoff and then committed with its stack and the
//     number of attempts; a panic is an error. A deadline or a cancellation is never committed.
//   - It holds no more unstarted jobs than it can start soon and hands back the others.
//   - Cancelling Run's context drains: what runs is finished within Config.DrainTimeout, everything else is
//     handed back at once.
//
// It never iterates, never deletes what another attempt stored, and never writes a batcher's record. docs/DESIGN.md has
// the protocol.
//
// A Worker is the life of its parts, in worker.go. Each part is a type in a file of its own, knows only parts below it,
// and can be tested alone: lanes.go (which generations to serve), pull.go (requests for jobs), slots.go (which job
// starts), held.go (jobs that are heartbeat, and how they end), run.go (the user's code), marks.go (what executions
// leave for the next), suspend.go (data sets that cannot be opened here), commit.go and publish.go (results until they
// are stored), shelf.go, serve.go and upload.go (payloads for readers), claim.go (the worker's name), status.go,
// tally.go and metrics.go. What can be decided without I/O is in internal: schedule, judge, shelf.
package worker
