package schema

import "time"

// Fault is an error on the wire.
type Fault struct {
	Code     string `json:"code"`
	Message  string `json:"message,omitempty"`
	Stack    string `json:"stack,omitempty"`
	Worker   string `json:"worker,omitempty"`
	Gen      string `json:"gen,omitempty"`
	Seq      uint64 `json:"seq,omitempty"`
	Attempts int    `json:"attempts,omitempty"`

	// Of a world, when one of its ranks is at fault, and when two are at different states; no result has these.
	Rank     *RankFault  `json:"rank,omitempty" msgpack:"-"`
	Diverged []RankState `json:"diverged,omitempty" msgpack:"-"`
}

// RankFault is what is known of a rank that the others of its world cannot wait for.
type RankFault struct {
	Rank      int           `json:"rank"`
	Silent    time.Duration `json:"silent_ns,omitempty"`  // for how long it was not heard
	NeverCame bool          `json:"never_came,omitempty"` // no process ever was that rank
}

// RankState says at which state a rank is.
type RankState struct {
	Rank  int   `json:"rank"`
	State State `json:"state"`
}

func (f *Fault) Error() string {
	if f.Message == "" {
		return f.Code
	}
	return f.Message
}

// Codes of faults; package client has a sentinel for each that a caller can meet.
const (
	CodeInUse            = "in_use"
	CodeSpecMismatch     = "spec_mismatch"
	CodeSuperseded       = "superseded"
	CodeUnknownDataset   = "unknown_dataset"
	CodeBadParams        = "bad_params"
	CodeWrongState       = "wrong_state"
	CodeWrongData        = "wrong_data" // a state of other parameters or data
	CodeStateTooLarge    = "state_too_large"
	CodeJobTooLarge      = "job_too_large"
	CodeIteratorStalled  = "iterator_stalled"
	CodeIterator         = "iterator"
	CodeMaterialize      = "materialize"
	CodeJobTimeout       = "job_timeout"
	CodePoison           = "poison"
	CodeNondeterministic = "nondeterministic"
	CodeStoreFull        = "store_full"
	CodeStoreGone        = "store_gone"
	CodeSkipped          = "skipped" // a hole
	CodeStopped          = "stopped"
	CodeBadRequest       = "bad_request"
	CodeUnavailable      = "unavailable" // passing: ask again
	CodeRankLost         = "rank_lost"   // a rank of the world is silent, never came, or cannot go on
	CodeDiverged         = "diverged"    // two ranks of a world are at states that do not go together
	CodeBadWorld         = "bad_world"   // a world of another size has that name
	CodeUneven           = "uneven"      // a batch whose rows cannot be cut into equal parts
	CodeElsewhere        = "elsewhere"   // of several readers: go on in a batcher of your own
	CodeNotRows          = "not_rows"    // a tensor that does not have the batch's rows
)
