package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/jetbatch/jetbatch/internal/legible"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/schema"
)

// Sentinels, for errors.Is. A *JobError matches the one of its Code too.
var (
	// ErrBadConfig is returned by Open for a Config that cannot work.
	ErrBadConfig = errors.New("bad configuration")

	// ErrClosed is returned by every method after Close.
	ErrClosed = errors.New("batcher handle is closed")

	// ErrStopped is returned by Take after a Stop, by this process or another, until Start.
	ErrStopped = errors.New("batcher is stopped")

	// ErrInUse is returned by Open and Start when another process holds the batcher. Wait until it has left,
	// give this run another name, or set Config.TakeOver.
	ErrInUse = errors.New("batcher is in use")

	// ErrSuperseded is returned by Take when another process has taken the batcher over.
	ErrSuperseded = errors.New("batcher was taken over by another process")

	// ErrSpecMismatch is returned by Open, Start and Take when a batcher of that name runs with another data
	// set or other parameters.
	ErrSpecMismatch = errors.New("batcher runs with another data set or other parameters")

	// ErrUnknownDataset is returned when no coordinator serves the data set.
	ErrUnknownDataset = errors.New("unknown data set")

	// ErrBadParams is returned when the data set refuses the parameters.
	ErrBadParams = errors.New("bad parameters")

	// ErrWrongState is returned by Start and Take for a state of another data set or version, or one that the
	// data set cannot read, and for the zero State where the data set has no first state.
	ErrWrongState = errors.New("not a state of this data set")

	// ErrWrongData is matched by every *OriginError: a state of other parameters or data than the batcher's.
	ErrWrongData = errors.New("the state is of other parameters or data")

	// ErrStateTooLarge is returned for a state of more than schema.MaxState bytes, whether given or made by the iterator.
	ErrStateTooLarge = schema.ErrStateTooLarge

	// ErrUnavailable is matched by every *WaitError: the caller's context ended first.
	ErrUnavailable = errors.New("not available in time")

	// ErrPermission is matched by every *schema.PermissionError: the NATS server refused a subject to this user.
	ErrPermission = schema.ErrPermission

	// ErrJetStream is returned by Open when a coordinator answers, and the JetStream that this connection reaches is
	// another one than the coordinator's: set Config.Domain.
	ErrJetStream = errors.New("another JetStream than the coordinator's")

	// ErrDisconnected is returned when a NATS connection is closed for good.
	ErrDisconnected = errors.New("connection to NATS is closed")

	// ErrCorrupt is returned when what is stored contradicts itself, and went on doing so after it was made again.
	ErrCorrupt = errors.New("stored results are damaged")

	// ErrDecode is returned by Take when a batch does not decode into the batch type of this Batcher.
	ErrDecode = errors.New("batch does not decode")

	// ErrRankLost is matched by every *RankError: a rank of the world is silent, never came, or cannot go on. Take returns
	// it at every rank. Start the ranks again from the last checkpoint, with another World.ID, and as many as there are.
	ErrRankLost = errors.New("a rank is lost")

	// ErrDiverged is matched by every *DivergedError: two ranks of a world are at states that do not go together. Take
	// and Start return it at every rank. Give all ranks the same checkpoint.
	ErrDiverged = errors.New("the ranks have diverged")

	// ErrNotRows is returned by every rank's Take for a batch that has no rows to be shared; it names the tensor.
	ErrNotRows = schema.ErrNotRows

	// ErrUneven is returned by every rank's Take, with World.Even, for a batch whose rows do not divide by World.Parts.
	ErrUneven = schema.ErrUneven

	// ErrBadRequest is returned when a coordinator does not understand a request, since versions differ, and for a
	// request that is larger than a coordinator or the NATS server takes: nearly all of it is Config.Params.
	ErrBadRequest = errors.New("bad request")

	// ErrIterator is matched by the *JobError of an iterator whose Next failed or panicked.
	ErrIterator = errors.New("iterator failed")

	// ErrIteratorStalled is matched by the *JobError of an iterator whose Next took over 10 s.
	ErrIteratorStalled = errors.New("iterator stalled")

	// ErrJobTooLarge is matched by the *JobError of a job that does not fit one NATS message.
	ErrJobTooLarge = errors.New("job is too large")

	// ErrMaterialize is matched by the *JobError of a job that failed on a worker, retries included.
	ErrMaterialize = errors.New("materialization failed")

	// ErrPoisonJob is matched by the *JobError of a job that killed every worker that ran it alone.
	ErrPoisonJob = errors.New("job kills its workers")

	// ErrJobTimeout is matched by the *JobError of a job that ran into its deadline each time it was alone on a worker.
	ErrJobTimeout = errors.New("job takes too long")

	// ErrNondeterministic is matched by the *JobError of a job that gave two different batches.
	ErrNondeterministic = errors.New("materialization is not deterministic")

	// errElsewhere tells one of several readers to go on in a batcher of its own.
	errElsewhere = errors.New("the other readers are elsewhere")
)

var sentinels = map[string]error{
	schema.CodeInUse:            ErrInUse,
	schema.CodeSpecMismatch:     ErrSpecMismatch,
	schema.CodeSuperseded:       ErrSuperseded,
	schema.CodeUnknownDataset:   ErrUnknownDataset,
	schema.CodeBadParams:        ErrBadParams,
	schema.CodeWrongState:       ErrWrongState,
	schema.CodeWrongData:        ErrWrongData,
	schema.CodeStateTooLarge:    ErrStateTooLarge,
	schema.CodeJobTooLarge:      ErrJobTooLarge,
	schema.CodeIteratorStalled:  ErrIteratorStalled,
	schema.CodeIterator:         ErrIterator,
	schema.CodeMaterialize:      ErrMaterialize,
	schema.CodePoison:           ErrPoisonJob,
	schema.CodeJobTimeout:       ErrJobTimeout,
	schema.CodeNondeterministic: ErrNondeterministic,
	schema.CodeStopped:          ErrStopped,
	schema.CodeElsewhere:        errElsewhere,
	schema.CodeBadRequest:       ErrBadRequest,
	schema.CodeUnavailable:      ErrUnavailable,
	schema.CodeRankLost:         ErrRankLost,
	schema.CodeDiverged:         ErrDiverged,
	schema.CodeBadWorld:         ErrBadConfig,
	schema.CodeUneven:           ErrUneven,
	schema.CodeNotRows:          ErrNotRows,
}

// JobError is why a run failed: a job that no worker could materialize, or an iterator that could not go
// on. It never matches io.EOF: a truncated file is not the end of the data.
type JobError struct {
	Dataset, Batcher string
	Gen              string // generation
	Seq              uint64 // position in it
	Worker           string // where it happened
	Attempts         int    // executions, retries included
	Message          string // without control characters but line feeds and tabs
	Stack            string // likewise, of the worker or coordinator, where there is one
	Code             string // one of schema's Code constants
}

func (e *JobError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "batcher %s: data set %s", e.Batcher, e.Dataset)
	if e.Seq > 0 { // else it was before any
		fmt.Fprintf(&b, ": batch %d", e.Seq)
	}
	if e.Worker != "" {
		fmt.Fprintf(&b, " on %s", e.Worker)
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " after %d attempts", e.Attempts)
	}
	what := e.Code
	if sentinel := sentinels[e.Code]; sentinel != nil {
		what = sentinel.Error()
	}
	fmt.Fprintf(&b, ": %s", what)
	if e.Message != "" {
		fmt.Fprintf(&b, ": %s", e.Message)
	}
	return b.String()
}

// Is reports whether target is the sentinel of the error's code.
func (e *JobError) Is(target error) bool {
	sentinel := sentinels[e.Code]
	return sentinel != nil && sentinel == target
}

// RankError says which rank of the world is lost, by what the coordinator knows of it.
type RankError struct {
	Batcher   string
	Rank      int
	Seq       uint64        // the batch that the rank is at; 0 when it failed by itself
	Silent    time.Duration // for how long it was not heard; 0 when it failed by itself
	NeverCame bool          // no process ever was that rank
	Message   string        // the coordinator's words
}

func (e *RankError) Error() string {
	return fmt.Sprintf("batcher %s: %v: %s", e.Batcher, ErrRankLost, e.Message)
}

// Is reports whether target is ErrRankLost.
func (e *RankError) Is(target error) bool { return target == ErrRankLost }

// DivergedError names two ranks of the world that are at states which do not go together.
type DivergedError struct {
	Batcher string
	Ranks   []schema.RankState // the one that asked for another state, and where the other one is; none if not known
	Message string             // the coordinator's words
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("batcher %s: %v: %s", e.Batcher, ErrDiverged, e.Message)
}

// Is reports whether target is ErrDiverged.
func (e *DivergedError) Is(target error) bool { return target == ErrDiverged }

// OriginError is returned by Start and Take, before a batch is taken, for a state that was made with other parameters
// or on other data than the data set has now. Config.AcceptChange goes on from it all the same.
type OriginError struct {
	Batcher, Dataset string
	State            schema.State // that was asked for
	// Differences are for people, one for each thing that differs: "parameter stride was 10s and is 5s", "recordings was
	// 93 and is 96".
	Differences []string
}

func (e *OriginError) Error() string {
	return fmt.Sprintf("batcher %s: data set %s: %v: %s",
		e.Batcher, e.Dataset, ErrWrongData, strings.Join(e.Differences, "; "))
}

// Is reports whether target is ErrWrongData.
func (e *OriginError) Is(target error) bool { return target == ErrWrongData }

// WaitError says what a call was waiting for when its context ended.
type WaitError struct {
	Batcher string
	For     string        // such as "batch 7 of generation 01J… is not committed"
	Waited  time.Duration // how long
	Cause   error         // of the context's end
}

func (e *WaitError) Error() string {
	waited := e.Waited.Round(time.Millisecond)
	return fmt.Sprintf("batcher %s: waited %v: %s: %v", e.Batcher, waited, legible.Line(e.For), e.Cause)
}

// Unwrap makes the error match ErrUnavailable and the cause.
func (e *WaitError) Unwrap() []error { return []error{ErrUnavailable, e.Cause} }

// refusal returns a *schema.PermissionError if the last thing that the server said on nc was that it refuses one
// of the subjects, or the inbox that an answer would come to. The server does not answer a refused request, so this is
// asked after a timeout.
func refusal(nc *nats.Conn, subjects ...string) error {
	return topology.Denied(nc, topology.Needs{Publish: subjects, Subscribe: subjects})
}

// faultError is the one place where faults become errors: those of a run a *JobError, those of a request
// the sentinel with the coordinator's words.
func (c *Config) faultError(f *schema.Fault) error {
	switch f.Code {
	case schema.CodeIterator, schema.CodeIteratorStalled, schema.CodeJobTooLarge,
		schema.CodeMaterialize, schema.CodePoison, schema.CodeNondeterministic:
		return c.jobError(f)
	case schema.CodeRankLost:
		lost := cmp.Or(f.Rank, new(schema.RankFault))
		return &RankError{Batcher: c.Name, Rank: lost.Rank, Seq: f.Seq, Silent: lost.Silent, NeverCame: lost.NeverCame,
			Message: legible.Text(f.Message)}
	case schema.CodeDiverged:
		return &DivergedError{Batcher: c.Name, Ranks: f.Diverged, Message: legible.Text(f.Message)}
	}
	if f.Seq > 0 && f.Code != schema.CodeUneven && f.Code != schema.CodeNotRows {
		return c.jobError(f)
	}
	sentinel := sentinels[f.Code]
	if sentinel == nil {
		sentinel = fmt.Errorf("unknown fault %q", f.Code)
	}
	if f.Message == "" {
		return fmt.Errorf("batcher %s: %w", c.Name, sentinel)
	}
	return fmt.Errorf("batcher %s: %w: %s", c.Name, sentinel, legible.Text(f.Message))
}

func (c *Config) jobError(f *schema.Fault) *JobError {
	return &JobError{
		Dataset: c.Dataset, Batcher: c.Name, Gen: legible.Line(f.Gen), Seq: f.Seq, Worker: legible.Line(f.Worker),
		Attempts: f.Attempts, Message: legible.Text(f.Message), Stack: legible.Text(f.Stack), Code: legible.Line(f.Code),
	}
}

func (c *Config) decodeError(seq uint64, err error) error {
	if errors.Is(err, ErrNotRows) || errors.Is(err, ErrUneven) { // it decodes
		return fmt.Errorf("batcher %s: batch %d: %w", c.Name, seq, err)
	}
	return fmt.Errorf("batcher %s: batch %d: %w: %w", c.Name, seq, ErrDecode, err)
}

// waitError says what a wait was for whose context ended.
func (c *Config) waitError(ctx context.Context, began time.Time, what string) error {
	return &WaitError{Batcher: c.Name, For: what, Waited: time.Since(began), Cause: context.Cause(ctx)}
}

// isEnd reports whether err is the end of the data: exactly io.EOF. The errors of a lost connection wrap it.
func isEnd(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// errDisconnected is the error of a connection that is closed for good. The cause is in its text and not wrapped: it
// may be io.EOF.
func (c *Config) errDisconnected(cause error) error {
	return fmt.Errorf("batcher %s: %w: %v", c.Name, ErrDisconnected, cause)
}

// ofCoordinator reports whether an error is the coordinator's word, which counts only if its record
// agrees; all other errors come from workers, and their stored record is the word itself.
func ofCoordinator(code string) bool {
	switch code {
	case schema.CodeIterator, schema.CodeIteratorStalled, schema.CodeJobTooLarge, schema.CodeStateTooLarge:
		return true
	}
	return false
}
