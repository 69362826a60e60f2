package owner

import (
	"github.com/jetbatch/jetbatch/internal/wire"
)

// Effect is something that the shell does for the owner. Effects of one Step are carried out in their order; those that
// wait for a server or for an author's code end in the event named.
type Effect interface{ effect() }

type (
	// Record stores the record by compare-and-set, and ends in Recorded. At most one is under way.
	Record struct {
		Record   wire.Record
		Revision uint64 // that it replaces
	}

	// Retire deletes the record at a revision, and ends in Retired. It counts as the Record under way.
	Retire struct{ Revision uint64 }

	// Confirm reads the record's owner, and ends in Confirmed. At most one is under way.
	Confirm struct{}

	// Open opens a data set under a serial number, on its data as they are now, and ends in Opened; it takes as long as
	// the author's code does.
	Open struct {
		Serial uint64
		Spec   wire.Spec
	}

	// Compare finds out how the origin of an opened data set differs from another one, and ends in Compared.
	Compare struct {
		Serial uint64
		From   string
	}

	// Rebase asks an opened data set where a state of another origin goes on in its own, and ends in Rebased.
	Rebase struct {
		Serial uint64
		From   string
		State  []byte
	}

	// Release gives up what was opened under a serial number.
	Release struct{ Serial uint64 }

	// FirstState asks an opened data set for its first state, and ends in FirstKnown.
	FirstState struct{ Serial uint64 }

	// Ready finds out whether a generation can be made now, makes the job stream again where it is missing, and ends in
	// Readied. With Anew something was lost, and an answer from before that does not count.
	Ready struct{ Anew bool }

	// Make makes generations at once, keeps the first that is whole, discards the others, and ends in Made.
	Make struct {
		Gens    []string
		Patient bool // several tries in a row came to nothing: wait longer
	}

	// Discard deletes a generation that the record does not name.
	Discard struct{ Gen string }

	// Feed starts the iterator of a generation on an opened data set.
	Feed struct {
		Gen    string
		Serial uint64
	}

	// Halt stops the iterator, and forgets which jobs are not stored yet.
	Halt struct{}

	// Demand asks the iterator for N jobs from State, or for fewer that have Bytes together, the last of them included.
	// At most one is under way, until Produced says Last.
	Demand struct {
		State []byte
		N     int
		Bytes int64
	}

	// Publish publishes a run of N jobs until the job stream has it.
	Publish struct {
		First uint64
		N     int
		Data  []byte
		Again bool // it was published before, in this generation, and the stream had it
		Trace string
	}

	// Backup publishes a job a second time, for another worker, and does not wait for the stream.
	Backup struct {
		Seq   uint64
		Data  []byte
		Trace string
	}

	// Forget gives up on publishing jobs above Keep that the stream does not have yet.
	Forget struct{ Keep uint64 }

	// Cancel deletes the queued jobs in [From, To), and ends in Cancelled; those that run find their results unwanted.
	Cancel struct {
		Gen      string
		From, To uint64
	}

	// Purge drops the results in (From, To].
	Purge struct {
		Gen      string
		From, To uint64
	}

	// Remove deletes the stored results of these attempts, and of no other, and ends in Removed.
	Remove struct {
		Gen  string
		Lost []wire.Lost
	}

	// Look finds out how a generation's store is, makes its consumer again where it is missing, lists its results, and
	// ends in Looked.
	Look struct {
		Gen string
		For Purpose
	}

	// Probe asks a store for a sign of life, and ends in Probed.
	Probe struct{ Gen string }

	// StoreVerdict stores the verdict as a result, first write wins, and ends in VerdictStored.
	StoreVerdict struct {
		Gen    string
		Result *wire.Result
	}

	// Announce tells workers about a generation.
	Announce struct{ Lane wire.Lane }

	// Notify tells the reader how things stand.
	Notify struct{ Reply wire.CreditReply }

	// ReplySeat, ReplyStop and ReplyCredit answer the message of a Token.
	ReplySeat struct {
		Token Token
		Reply wire.SeatReply
	}
	ReplyStop struct {
		Token Token
		Reply wire.StopReply
	}
	ReplyCredit struct {
		Token Token
		Reply wire.CreditReply
	}

	// Log says what changed, for people.
	Log struct {
		Warn    bool
		Retried bool // what failed is tried once more by itself; with Warn
		Text    string
		Args    []any
	}
)

func (Record) effect()       {}
func (Retire) effect()       {}
func (Confirm) effect()      {}
func (Open) effect()         {}
func (Compare) effect()      {}
func (Rebase) effect()       {}
func (Release) effect()      {}
func (FirstState) effect()   {}
func (Ready) effect()        {}
func (Make) effect()         {}
func (Discard) effect()      {}
func (Feed) effect()         {}
func (Halt) effect()         {}
func (Demand) effect()       {}
func (Publish) effect()      {}
func (Backup) effect()       {}
func (Forget) effect()       {}
func (Cancel) effect()       {}
func (Purge) effect()        {}
func (Remove) effect()       {}
func (Look) effect()         {}
func (Probe) effect()        {}
func (StoreVerdict) effect() {}
func (Announce) effect()     {}
func (Notify) effect()       {}
func (ReplySeat) effect()    {}
func (ReplyStop) effect()    {}
func (ReplyCredit) effect()  {}
func (Log) effect()          {}

// effects are those of the Step under way, in their order.
type effects []Effect

func (out *effects) emit(e Effect) { *out = append(*out, e) }

func (out *effects) info(text string, args ...any) { out.emit(Log{Text: text, Args: args}) }

// retry warns of what is tried once more by itself.
func (out *effects) retry(text string, args ...any) {
	out.emit(Log{Warn: true, Retried: true, Text: text, Args: args})
}

func (out *effects) warn(text string, args ...any) { out.emit(Log{Warn: true, Text: text, Args: args}) }
