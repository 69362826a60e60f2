package model

const (
	batches = 3
	window  = 2
	gens    = 3 // generations that can be begun; a way that needs more is cut off
	seats   = 6
)

// state is all there is: what is stored, what is in the memory of every role, and what is under way. Positions
// count the trainer's batches from 0; sequence numbers count from 1 within a generation; generation 0 is none.
type state struct {
	rec   record
	begun uint8                        // generations begun
	base  [gens + 1]uint8              // the position that a generation began at
	store [gens + 1]uint8              // of results
	res   [gens + 1][batches + 1]uint8 // attempts stored, by sequence number
	live  [gens + 1][batches + 1]uint8 // set of attempts that were sent on to readers; any may arrive at any later time
	job   [gens + 1]uint8              // set of sequence numbers
	co    [2]coordinator
	wk    [2]worker
	rd    reader
	old   credit // a credit that is late, and may come at any time, again and again
	req   seating
	left  faults
	lossy bool // something stored was lost, so that jobs may be missing until the owner looks
}

// What a store is.
const (
	unmade = iota
	made
	gone
)

type record struct{ owner, gen, seat, req, taken, floor uint8 }

type coordinator struct {
	owns     bool // as far as it knows
	stale    bool // another changed the record since it was read
	creating bool // the generation's store
	rec      record
	fed      uint8
	saved    uint8 // taken, as the record has it
	purgeGen uint8 // results to be dropped: up to purgeTo
	purgeTo  uint8
	discard  uint8 // generation to be deleted
}

type worker struct{ gen, seq, stage uint8 }

// Stages of a worker.
const (
	idle = iota
	running
	committed // known to be stored
)

// A reader takes results straight from what was sent on: one that arrived earlier and was kept is the same one.
type reader struct {
	seated         bool
	pos            uint8 // the trainer's state
	gen, seat, req uint8
	believed       [gens + 1][batches + 1]uint8 // attempts, by sequence number
	replies        [gens + 1]uint8              // set of seats in the answers to req, by generation
}

type credit struct{ gen, seat, pos uint8 }

type seating struct{ req, pos uint8 }

// faults is how many of each may still happen.
type faults struct{ crashes, takeovers, losses, seeks, delays uint8 }

// safeguards that can be left out.
type broken struct {
	ackFirst     bool // a job is acked when it is delivered
	overwrite    bool // results: the last write wins
	ingest       bool // readers hear what is published, and not what is stored
	noGen        bool // readers take results of any generation
	noChain      bool // readers do not compare states
	noFence      bool // the record is written without comparing
	noSeat       bool // credits of former seats count
	noRequest    bool // requests that were overtaken are carried out
	purgeFirst   bool // results are dropped before the record says so
	discardFirst bool // a generation is deleted before the record says so
	noGenesis    bool // nobody notices that a store is lost
	noRepair     bool // nobody looks after a late head
}
