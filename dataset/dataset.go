// Package dataset is what an author implements: an [Iterator], cheap and strictly ordered, that turns a
// state into the next job and the next state, and a [Materializer], expensive and parallel, that turns one
// job into a batch. [Define] gives the two a name under which coordinators and workers run them.
//
// [Sequential] is the same loop in one process. Whatever the service yields from a state equals what
// Sequential yields from it, byte for byte.
//
// The package never talks to NATS and never starts a goroutine.
package dataset

import (
	"context"
	"errors"
	"fmt"
)

// Iterator turns a state into the next job.
//
// S and J travel as canonical msgpack: exported fields, no maps with keys other than strings. A state
// may have up to 16 KiB encoded, a job up to one NATS message (1 MiB by default).
type Iterator[S, J any] interface {
	// Next returns the job that follows state and the state after it; exactly io.EOF ends the data.
	// It is a pure function of state, does no I/O, and may be called from several goroutines.
	// A call that takes over 10 s fails the run.
	Next(state S) (job J, next S, err error)
}

// Materializer turns a job into a batch.
type Materializer[J, B any] interface {
	// Materialize loads the batch of one job. Calls run concurrently. It should be a pure function of
	// job and of the data: the service may run a job more than once and takes the first result. It must not
	// change what it has returned, nor use its memory again: the batch is sent from there. An error
	// is retried 4 times with backoff unless it is Permanent or Skip.
	Materialize(ctx context.Context, job J) (B, error)
}

// Dataset is both.
type Dataset[S, J, B any] interface {
	Iterator[S, J]
	Materializer[J, B]
}

// Starter is implemented by data sets that know their first state; without it the zero schema.State is an error.
type Starter[S any] interface {
	Start() (S, error)
}

// Fingerprinter is optional: what the order and content of a data set depend on besides its parameters. With it a state
// is refused on other data, and machines that have opened other data than a run's do not take part in it.
type Fingerprinter interface {
	// Fingerprint looks at the data that was opened. It may do I/O, is called once by every coordinator and worker that
	// opens the data set, and gives an equal Digest as long as every state yields the same jobs and every job the same
	// batch. An error is one of opening.
	Fingerprint(ctx context.Context) (Fingerprint, error)
}

// Fingerprint is a digest and, for people, what it is made of, so that an error can name what differs.
type Fingerprint struct {
	Digest string
	// Parts are in an order that does not change, such as "recordings": "93" or "signals": the digest of a table. The
	// first 64 are kept, with 256 bytes of each name and value. Parts named "file PATH", or "files …" for ranges that
	// cover every path, with digests in hexadecimal, let an error say which files changed in the place of "files differ".
	Parts []Part
	// Summary is a line about the data for people, such as "kept 93 of 100 recordings: 4 without labels, 3 shorter than
	// 10s". It is shown in the status and is no part of the origin; 256 bytes of it are kept.
	Summary string
	// Ignore names parameters, as their JSON has them, that change neither order nor content: where the data lies, say.
	Ignore []string
}

// Part is a name and a short text.
type Part struct {
	Name  string
	Value string
}

// Rebaser is optional: whether, and where, a position still means something on other parameters or data than it is of.
// It is asked when a trainer accepts such a change ([github.com/jetbatch/jetbatch/client.Config] AcceptChange); without
// it the position is taken as it is, and the trainer is warned of that.
type Rebaser[S any] interface {
	// Rebase returns the state to go on from on the data that is opened, in the place of state, which is of was. An
	// error says why none does. It is a pure function and does no I/O.
	Rebase(state S, was Origin) (S, error)
}

// Progresser is optional: how far a state is. With it status, top and the bar of take show the epoch, and when it ends.
type Progresser[S any] interface {
	// Progress says how far state is. It is a pure function and does no I/O. An error is of a state that means nothing.
	Progress(state S) (Progress, error)
}

// Progress is a place in the data, counted in batches.
type Progress struct {
	Epoch   uint64 // of the batch that comes next, from 1
	Epochs  uint64 // after which the data end; 0 for never
	Batch   uint64 // batches of the epoch that lie before
	Batches uint64 // of an epoch; 0 for one without end
}

// ProgressOf is the place after so many samples of an epoch, counted from 0, of size samples a batch. With dropLast a
// smaller last batch is left out. Past the end of the data it is the end.
func ProgressOf(epoch, epochs, sample, samples, size uint64, dropLast bool) Progress {
	size = max(1, size)
	batches := func(n uint64) uint64 {
		if dropLast {
			return n / size
		}
		return n/size + min(1, n%size)
	}
	p := Progress{Epoch: epoch + 1, Epochs: epochs, Batch: batches(sample), Batches: batches(samples)}
	if p.Batch >= p.Batches {
		p.Epoch, p.Batch = p.Epoch+1, 0
	}
	if epochs > 0 && p.Epoch > epochs {
		p.Epoch, p.Batch = epochs, p.Batches
	}
	return p
}

// Origin describes the parameters and data that a state is of, as far as anybody knows: [Fingerprint]. Values of
// parameters are JSON. It is empty if the state is too old.
type Origin struct {
	Params []Part
	Parts  []Part
}

// Funcs makes a Dataset of two functions.
type Funcs[S, J, B any] struct {
	NextFunc        func(S) (J, S, error)
	MaterializeFunc func(context.Context, J) (B, error)
}

// Next calls NextFunc.
func (f Funcs[S, J, B]) Next(state S) (J, S, error) { return f.NextFunc(state) }

// Materialize calls MaterializeFunc.
func (f Funcs[S, J, B]) Materialize(ctx context.Context, job J) (B, error) {
	return f.MaterializeFunc(ctx, job)
}

// Permanent marks an error from Materialize as one that trying again cannot mend.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// IsPermanent reports whether err was marked with Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// Skip, returned from Materialize, says that this job has no batch: every reader and every resumption
// passes over it. It must be a pure function of the job.
func Skip(reason string) error { return &skipError{reason} }

// SkipReason returns the reason if err is a Skip.
func SkipReason(err error) (reason string, ok bool) {
	var s *skipError
	if !errors.As(err, &s) {
		return "", false
	}
	return s.reason, true
}

type skipError struct{ reason string }

func (e *skipError) Error() string { return fmt.Sprintf("skipped: %s", e.reason) }
