package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// Event is something that happened to a batcher or to its owner.
type Event interface{ event() }

// Token names a message that waits for an answer; the zero Token names none. Every Token of an event is answered by
// one Reply, unless the batcher changes hands.
type Token uint64

type (
	// Tick says that time has passed: it comes at Owner.Due, and at any other moment without harm.
	Tick struct{}

	// Fleet says how many live workers, and slots of theirs, serve the batcher's data set. When there is none because
	// those that have it suspended it, Suspended says why they did. Share is how many of the slots are for each batcher
	// while others wait for their first batch; 0 while none does.
	Fleet struct {
		Workers, Slots int
		Share          int
		Suspended      string
	}

	// SeatAsked is a reader's request for the seat.
	SeatAsked struct {
		Token   Token
		Request *wire.SeatRequest
		Key     wire.Digest // of the Spec it asks for: equal for specs that mean the same
	}

	// StopAsked is a reader's request to stop, or to leave the run to another reader.
	StopAsked struct {
		Token   Token
		Request *wire.StopRequest
	}

	// EndAsked is an operator's request to stop the run, or to delete the batcher, whoever is seated. It is answered as
	// StopAsked is.
	EndAsked struct {
		Token  Token
		Remove bool
		Force  bool // delete one that runs
	}

	// Credited is a reader's word on how far it has come.
	Credited struct {
		Token  Token
		Credit *wire.Credit
	}

	// Reported is a worker's word about the store of results.
	Reported struct{ Report *wire.Report }

	// Produced is what the iterator made since it was collected last, of the generation named.
	Produced struct {
		Gen   string
		Items []Item
		Ended bool          // iteration is over, with Fault or at the end of the data
		Fault *schema.Fault // why it is over; nil for the end of the data
		Last  bool          // of what was demanded
	}

	// Crowded says that the job stream refused a job for lack of room.
	Crowded struct{}

	// Reconnected says that the connection was lost and is back: the server may have come back with nothing.
	Reconnected struct{}

	// Deposed says that the record names another owner.
	Deposed struct{ Owner string }

	// Damaged says that the record cannot be decoded any more: it is written anew.
	Damaged struct{}

	// Recorded is how the Record effect under way ended.
	Recorded struct {
		Outcome  Outcome
		Revision uint64 // of what was stored
		Owner    string // the new owner, for Conflict
		Reason   string // for Silent and Failed
	}

	// Retired is how the Retire effect ended.
	Retired struct {
		Outcome Outcome
		Owner   string
		Reason  string
	}

	// Confirmed is the record's owner as the bucket has it; Done without an owner: there is no record.
	Confirmed struct {
		Outcome Outcome
		Owner   string
		Reason  string
	}

	// Opened is how an Open ended; Fault is nil when the data set is open.
	Opened struct {
		Serial     uint64
		Fault      *schema.Fault
		Origin     string // of its parameters and data; empty for unknown
		Verifiable bool   // opening it anew tells whether its data changed
	}

	// Compared says how the origin of an opened data set differs from another one: at least in one thing.
	Compared struct {
		Serial      uint64
		From        string
		Differences []string
	}

	// Rebased says where a state of another origin goes on. Refusal says why it does not; Unsaid, that the data set does
	// not know, so that the state is taken as it is.
	Rebased struct {
		Serial  uint64
		State   []byte
		Refusal string
		Unsaid  bool
	}

	// FirstKnown is the data set's first state, or why there is none.
	FirstKnown struct {
		Serial uint64
		State  []byte
		Fault  *schema.Fault
	}

	// Readied says whether a generation can be made now; Reason is empty when it can.
	Readied struct{ Reason string }

	// Made names the generation that a Make made; Reason says why it made none.
	Made struct{ Gen, Reason string }

	// Looked is what a Look found out about a generation's store.
	Looked struct {
		Gen   string
		For   Purpose
		Store Store
		Done  map[uint64]bool // sequence numbers with a stored result; for StoreThere
		// Queued are the jobs that were in the queue before Done was listed; for ForRepair. A result is stored before its job
		// leaves the queue, so a job that is in neither is missing.
		Queued  map[uint64]bool
		Unasked bool // jobs are queued, and no request of a worker for them waits
		Asked   time.Time
		// Connected says whether there was a connection all the time: a store that could not be asked is not silent.
		Connected bool
		Reason    string
	}

	// Probed says whether the store gave a sign of life.
	Probed struct {
		Gen   string
		Alive bool
		Asked time.Time
	}

	// Removed names the attempts whose results a Remove took out of the store.
	Removed struct {
		Gen     string
		Removed []wire.Lost
	}

	// Cancelled ends a Cancel.
	Cancelled struct{ Gen string }

	// VerdictStored says whether the verdict is a result at its place; Reason is empty when it is.
	VerdictStored struct {
		Gen    string
		Seq    uint64
		Reason string
	}
)

// Item is one job of the iterator, with the state that follows it.
type Item struct {
	Job, Next []byte
	Took      time.Duration
}

// Outcome is how an effect on the record ended.
type Outcome uint8

// The outcomes.
const (
	Done     Outcome = iota // as asked
	Conflict                // another coordinator owns the batcher
	Silent                  // no answer in time: it may have happened or not
	Failed                  // it did not happen
)

// Store is what is known of a generation's store after a Look.
type Store uint8

// What a store may be.
const (
	StoreThere  Store = iota // it answers, and it is the one that was made
	StoreLost                // it is gone, or another one
	StoreSilent              // it did not answer in time
	StoreAbsent              // no server has it, and none could say whether it exists
	StoreUnsure              // it could not be asked
)

// Purpose is what a Look is for.
type Purpose uint8

// The purposes.
const (
	ForResume Purpose = iota // a takeover
	ForRepair                // the head is late
	ForRoom                  // the store is full
	ForSweep                 // results may have come after they were dropped
	ForLast                  // the store was silent for too long: does a server that answers have it?

	purposes = iota // how many there are
)

func (Tick) event()          {}
func (Fleet) event()         {}
func (SeatAsked) event()     {}
func (StopAsked) event()     {}
func (EndAsked) event()      {}
func (Credited) event()      {}
func (Reported) event()      {}
func (Produced) event()      {}
func (Crowded) event()       {}
func (Reconnected) event()   {}
func (Deposed) event()       {}
func (Damaged) event()       {}
func (Recorded) event()      {}
func (Retired) event()       {}
func (Confirmed) event()     {}
func (Opened) event()        {}
func (Compared) event()      {}
func (Rebased) event()       {}
func (FirstKnown) event()    {}
func (Readied) event()       {}
func (Made) event()          {}
func (Looked) event()        {}
func (Probed) event()        {}
func (Removed) event()       {}
func (Cancelled) event()     {}
func (VerdictStored) event() {}
