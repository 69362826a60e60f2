// Package worker turns jobs into batches: it pulls jobs of the kinds of data set that it was given,
// materializes them in a fixed number of slots and stores each result before it acknowledges the job.
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
// It never iterates, never deletes what another attempt stored, and never writes a batcher's record.
// docs/DESIGN.md has the protocol.
//
// The files: worker.go (configuration, Run, drain), lanes.go (which generations to serve), pull.go (requests
// for jobs), hold.go (heartbeats and deadlines), run.go (the user's code), commit.go, chunks.go and
// refused.go (storing results), suspect.go (poison jobs), publish.go (publications and their answers),
// status.go (beats and the micro service). What starts when is decided in internal/schedule.
package worker
