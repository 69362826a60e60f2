package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/jetbatch/jetbatch/coordinator/internal/owner"
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// records reads and writes the batchers' records in the bucket for one coordinator. A call lasts as long as its context
// and a few round trips at most; the methods are safe for concurrent use.
type records struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream // the bucket's, for listing keys and removing markers
	self   string           // the coordinator, as an owner is named
}

// errSilent is the error of a call that the server did not answer: all that a server with a full disk has to say.
var errSilent = errors.New("the server does not answer: there is no leader, or no room on its disk")

var (
	errNoRecord = errors.New("there is no record")                  // never made, or deleted
	errConflict = errors.New("the record has another revision now") // another owner, or another attempt, wrote it
)

// damagedError is a record that cannot be decoded, or whose values are out of bounds. The owner writes it anew at the
// same revision.
type damagedError struct {
	batcher  string
	revision uint64
	cause    error
}

func (e *damagedError) Error() string {
	return fmt.Sprintf("the record of batcher %s is damaged: %v", e.batcher, e.cause)
}

func (e *damagedError) Unwrap() error { return e.cause }

// takenError says that the record names another owner.
type takenError struct{ owner string }

func (e *takenError) Error() string { return "the record names coordinator " + e.owner }

// read returns a record and its revision as the bucket's leader has them. The error is errNoRecord without a record,
// and a *damagedError for a record that cannot be used.
func (r *records) read(ctx context.Context, batcher string) (rec wire.Record, rev uint64, err error) {
	rec, rev, _, err = r.readSized(ctx, batcher)
	return rec, rev, err
}

// readSized is read with the record's size as well.
func (r *records) readSized(ctx context.Context, batcher string) (rec wire.Record, rev uint64, size int, err error) {
	value, rev, err := topology.Get(ctx, r.stream, topology.BatcherKey(batcher))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return rec, 0, 0, errNoRecord
	case errors.Is(err, topology.ErrForged):
		return rec, 0, len(value), &damagedError{batcher, rev, err}
	case err != nil:
		return rec, 0, 0, err
	}
	rec, err = wire.ParseRecord(batcher, value)
	if err != nil {
		return wire.Record{}, 0, len(value), &damagedError{batcher, rev, err}
	}
	return rec, rev, len(value), nil
}

// create writes the first record of a batcher and returns its revision, or errConflict where there is one.
func (r *records) create(ctx context.Context, rec wire.Record) (uint64, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return 0, err
	}
	rev, err := r.kv.Create(ctx, topology.BatcherKey(rec.Batcher), data)
	if errors.Is(err, jetstream.ErrKeyExists) || topology.IsConflict(err) {
		return 0, errConflict
	}
	return rev, err
}

// update replaces the record at one revision and returns the new one, or errConflict where the revision is another.
func (r *records) update(ctx context.Context, rec wire.Record, rev uint64) (uint64, error) {
	data, err := json.Marshal(rec)
	if err != nil {
		return 0, err
	}
	rev, err = r.kv.Update(ctx, topology.BatcherKey(rec.Batcher), data, rev)
	if topology.IsConflict(err) {
		return 0, errConflict
	}
	return rev, err
}

// save is update by the batcher's owner, whose last change may have had an unknown outcome: only owners write, so a
// record that still names this coordinator is its own, and one that is gone or damaged is written anew. The error is a
// *takenError where another coordinator is named, and errSilent where the outcome is unknown: the next save finds out.
func (r *records) save(ctx context.Context, rec wire.Record, rev uint64) (uint64, error) {
	stored, err := r.update(ctx, rec, rev)
	if err == nil {
		return stored, nil
	}
	if unanswered(err) {
		return 0, errSilent
	}
	rev, missing, err := r.mine(ctx, rec.Batcher, err)
	switch {
	case missing:
		rev, err = r.create(ctx, rec)
	case err == nil:
		rev, err = r.update(ctx, rec, rev)
	}
	if err != nil && unanswered(err) {
		return 0, errSilent
	}
	return rev, err
}

// delete removes the record of a batcher that this coordinator owns. A record that is gone is no error; one that names
// another coordinator is a *takenError.
func (r *records) delete(ctx context.Context, batcher string, rev uint64) error {
	err := r.remove(ctx, batcher, rev)
	if err == nil || unanswered(err) {
		return err
	}
	rev, missing, err := r.mine(ctx, batcher, err)
	if missing {
		return nil
	}
	if err != nil {
		return err
	}
	return r.remove(ctx, batcher, rev)
}

// mine finds the revision at which this coordinator may write after a change that failed because of cause.
func (r *records) mine(ctx context.Context, batcher string, cause error) (rev uint64, missing bool, err error) {
	stored, rev, err := r.read(ctx, batcher)
	var damaged *damagedError
	switch {
	case errors.Is(err, errNoRecord):
		return 0, true, nil
	case errors.As(err, &damaged):
		return damaged.revision, false, nil
	case err != nil:
		return 0, false, errors.Join(cause, err)
	case stored.Owner != r.self:
		return 0, false, &takenError{stored.Owner}
	}
	return rev, false, nil
}

// remove deletes the record at one revision, whose owner is dead.
func (r *records) remove(ctx context.Context, batcher string, rev uint64) error {
	err := r.kv.Delete(ctx, topology.BatcherKey(batcher), jetstream.LastRevision(rev))
	if topology.IsConflict(err) {
		return errConflict
	}
	return err
}

// bucketPrefix is what the subjects of the bucket's stream begin with.
const bucketPrefix = "$KV." + topology.Bucket + "."

// names lists the keys below a prefix without it, with one request that reads no values and makes no consumer.
func (r *records) names(ctx context.Context, prefix string) ([]string, error) {
	prefix = bucketPrefix + prefix
	info, err := r.stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		if name := strings.TrimPrefix(subject, prefix); wire.CheckName("key", name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// sweep removes the marker that a deletion leaves, which would be listed and read from then on. A value that was
// written meanwhile has a later sequence number and stays.
func (r *records) sweep(ctx context.Context, key string) error {
	subject := bucketPrefix + key
	m, err := r.stream.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // another coordinator was faster
	}
	if err != nil {
		return err
	}
	if m.Header.Get("KV-Operation") == "" {
		return nil // it is there again
	}
	return r.stream.Purge(ctx, jetstream.WithPurgeSubject(subject), jetstream.WithPurgeSequence(m.Sequence+1))
}

// unanswered reports whether an error leaves open what became of a change.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, jetstream.ErrNoStreamResponse)
}

// keep stores a batcher's record for its owner.
func (r *records) keep(ctx context.Context, e owner.Record) owner.Recorded {
	rev, err := r.save(ctx, e.Record, e.Revision)
	done := owner.Recorded{Revision: rev}
	done.Outcome, done.Owner, done.Reason = outcome(err)
	return done
}

// retire deletes a batcher's record for its owner.
func (r *records) retire(ctx context.Context, batcher string, e owner.Retire) (done owner.Retired) {
	done.Outcome, done.Owner, done.Reason = outcome(r.delete(ctx, batcher, e.Revision))
	return done
}

// confirm finds out who owns a batcher.
func (r *records) confirm(ctx context.Context, batcher string) owner.Confirmed {
	rec, _, err := r.read(ctx, batcher)
	var damaged *damagedError
	if errors.Is(err, errNoRecord) || errors.As(err, &damaged) {
		return owner.Confirmed{} // there is only what is known here
	}
	done := owner.Confirmed{Owner: rec.Owner}
	done.Outcome, _, done.Reason = outcome(err)
	return done
}

// outcome is how a call about a record ended.
func outcome(err error) (owner.Outcome, string, string) {
	var taken *takenError
	switch {
	case err == nil:
		return owner.Done, "", ""
	case errors.As(err, &taken):
		return owner.Conflict, taken.owner, err.Error()
	case errors.Is(err, errSilent) || unanswered(err):
		return owner.Silent, "", errSilent.Error()
	}
	return owner.Failed, "", err.Error()
}
