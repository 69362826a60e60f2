package wire

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// Control messages and the batcher's record are JSON, so that the nats CLI can read them; only jobs and
// results, which are many and large, are msgpack.

// Spec names what a batcher iterates.
type Spec struct {
	Dataset string          `json:"dataset"`
	Version uint32          `json:"version"` // of the data set's Definition; the coordinator fills it in
	Params  json.RawMessage `json:"params,omitempty"`
}

// Digest identifies the spec; equal digests mean the same data set, version and parameters. It withstands an adversary,
// other than that of a payload.
func (s Spec) Digest() Digest { return digestOf(s) }

func digestOf(v any) (d Digest) {
	data, _ := json.Marshal(v) // a RawMessage that came from json cannot fail to marshal
	sum := sha256.Sum256(data)
	copy(d[:], sum[:])
	return d
}

// Settings are what a client asks of its batcher. Zero values mean the defaults.
type Settings struct {
	Window      int           `json:"window,omitempty"`          // batches in flight; defaults to 2 x worker slots + 1
	WindowBytes int64         `json:"window_bytes,omitempty"`    // bound on window x largest batch; defaults to 1 GiB
	Retain      int           `json:"retain,omitempty"`          // taken batches kept for look-up; defaults to half the window; -1 for none
	IdleTimeout time.Duration `json:"idle_timeout_ns,omitempty"` // until a batcher without a holder is collected; defaults to 10 min
	Patience    time.Duration `json:"patience_ns,omitempty"`     // of a world with a silent rank; defaults to 1 min
	Lag         int           `json:"lag,omitempty"`             // batches from the slowest of several readers to the furthest; defaults to 4 windows
	LagWait     bool          `json:"lag_wait,omitempty"`        // nobody gets further ahead; else who is further behind goes on alone
}

// MaxIdleTimeout is the longest Settings.IdleTimeout: a month without its trainer is what a machine that is repaired
// needs, and a batcher that is forgotten does not hold its place for ever.
const MaxIdleTimeout = 30 * 24 * time.Hour

// CheckIdleTimeout refuses what no batcher is kept for.
func CheckIdleTimeout(d time.Duration) error {
	if d < 0 || d > MaxIdleTimeout {
		return fmt.Errorf("an idle timeout of %v; at most 30 days (%v)", d, MaxIdleTimeout)
	}
	return nil
}

// MaxSlots is how many jobs one worker may run at once: coordinators drop the beat of a worker that says more.
const MaxSlots = 1 << 14

// Record is the truth about a batcher: one key of the bucket, changed by its owner only, by compare-and-set.
type Record struct {
	Wire     int          `json:"wire"`
	Batcher  string       `json:"batcher"`
	Owner    string       `json:"owner"` // coordinator id
	Gen      string       `json:"gen,omitempty"`
	Phase    schema.Phase `json:"phase"`
	Spec     Spec         `json:"spec"`
	Settings Settings     `json:"settings"`

	Seat     uint64    `json:"seat"`               // counts every start, re-seat, look-up, take-over and leave
	Reader   string    `json:"reader,omitempty"`   // that holds the seat, or its world; empty for none
	Request  string    `json:"request,omitempty"`  // the last seat request carried out
	Former   []Former  `json:"former,omitempty"`   // readers before, the latest last; at most MaxFormer, or two for each rank
	Size     int       `json:"size,omitempty"`     // ranks of the world that Reader names, or slots of Readers; else 0
	Members  []Member  `json:"members,omitempty"`  // by rank, or by slot
	Position uint64    `json:"position,omitempty"` // the sequence number that the seat began at
	Since    time.Time `json:"since"`              // of the last change of phase or seat

	Floor      uint64 `json:"floor"`                 // results up to here are dropped
	FloorState []byte `json:"floor_state,omitempty"` // the state after Floor; iteration goes on from here
	Taken      uint64 `json:"taken"`                 // the trainer has these
	Holes      uint64 `json:"holes,omitempty"`       // of these, the last ones that left no state at the slowest rank
	Total      uint64 `json:"total,omitempty"`       // batches taken, in this and all generations before
	BatchBytes int64  `json:"batch_bytes,omitempty"` // largest payload seen

	Origin   string `json:"origin,omitempty"`          // of the data set that the run was begun on; empty for unknown
	Accepted string `json:"accepted_change,omitempty"` // how that differs from what the run's first state is of

	Verdict *Verdict      `json:"verdict,omitempty"` // the coordinator's word on where the sequence ends
	Error   *schema.Fault `json:"error,omitempty"`   // why the phase is failed

	Takeovers *Takeovers `json:"takeovers,omitempty"` // from owners that died; nil for none
	Handed    bool       `json:"handed,omitempty"`    // to Owner, by one that could not feed it; until Owner knows
	Unfed     []Unfed    `json:"unfed,omitempty"`     // who could not lately; the latest last
}

// Unfed is a coordinator that could not open a batcher's data set, or had other data than the run.
type Unfed struct {
	Coordinator string    `json:"coordinator"`
	At          time.Time `json:"at"`
	Why         string    `json:"why,omitempty"` // for people
}

// SpecDigest identifies what the generation in the record is of: the spec, and the data that it was begun on. Each job
// and each result carries it, so that nobody takes a batch that was made by another record than the owner's.
func (r *Record) SpecDigest() Digest {
	return digestOf(struct {
		Spec   Spec
		Origin string
	}{r.Spec, r.Origin})
}

// Takeovers counts the owners of a batcher that died one after the other while its trainer stood still.
type Takeovers struct {
	Count int       `json:"count"`
	Gen   string    `json:"gen"`   // of the last takeover
	Taken uint64    `json:"taken"` // as it was recorded then
	At    time.Time `json:"at"`
}

// Progressed reports whether the trainer has come further since the last takeover, as the record has it. A new
// generation counts from 0.
func (t *Takeovers) Progressed(r *Record) bool {
	if r.Gen != t.Gen {
		return r.Taken > 0
	}
	return r.Taken > t.Taken
}

// MaxFormer is how many former readers a record remembers.
const MaxFormer = 8

// Former is a reader that lost or left its seat, and its last request: what it asked up to then is over, however
// late it comes.
type Former struct {
	Reader  string `json:"reader"`
	Request string `json:"request"`
}

// Verdict is how the iterator ended: at Seq there is no batch but the end or an error.
type Verdict struct {
	Seq   uint64        `json:"seq"`
	Fault *schema.Fault `json:"fault,omitempty"` // nil: the data ended
}

// Mode says what a SeatRequest wants.
type Mode string

// The modes of a seat request.
const (
	ModeOpen  Mode = "open"  // hold the batcher, without starting it
	ModeStart Mode = "start" // a new generation at State
	ModeSeek  Mode = "seek"  // sit at State: by look-up where it is held, else by a new generation
	ModeJoin  Mode = "join"  // of several readers: sit at State if it is held, and not far behind
)

// SeatRequest asks for the right to take. It says everything needed to carry it out, so that any
// coordinator can. Request ids of a reader grow (ULIDs), so that a late duplicate changes nothing.
type SeatRequest struct {
	Wire     int          `json:"wire,omitempty"` // the version that the reader speaks; version 1 does not say
	Batcher  string       `json:"batcher"`
	Request  string       `json:"request"` // a ULID; the same for a repetition
	Mode     Mode         `json:"mode"`
	Reader   string       `json:"reader"`           // ReaderOf(Secret)
	Secret   string       `json:"secret,omitempty"` // without it the request is nobody's
	Rank                  // of the reader, in a world of Size
	Size     int          `json:"size,omitempty"`
	Seat     uint64       `json:"seat,omitempty"`   // that the reader has, as far as it knows
	Taken    uint64       `json:"taken,omitempty"`  // how far it has come with that seat; of a reader of its own
	Repair   bool         `json:"repair,omitempty"` // State is where the reader is, which has a doubt; a rank asks for no move
	TakeOver bool         `json:"take_over,omitempty"`
	Ended    string       `json:"ended,omitempty"` // secret of a reader whose process has ended: its seat is free
	Spec     Spec         `json:"spec"`            // version 0
	Settings Settings     `json:"settings"`
	State    schema.State `json:"state"`
	Trace    string       `json:"trace,omitempty"` // W3C traceparent of the Take or Start that asks

	AcceptChange bool `json:"accept_change,omitempty"` // State may be of another origin
}

// SeatReply is the answer; Fault is nil on success.
type SeatReply struct {
	Wire     int           `json:"wire,omitempty"` // the version that the owner speaks; version 1 does not say
	Fault    *schema.Fault `json:"fault,omitempty"`
	Gen      string        `json:"gen,omitempty"`
	Seat     uint64        `json:"seat,omitempty"`
	Position uint64        `json:"position,omitempty"` // the sequence number of the batch that follows State
	State    schema.State  `json:"state"`              // the state at Position, never the zero state; with ModeOpen empty
	Window   int           `json:"window,omitempty"`
	Phase    schema.Phase  `json:"phase"`
	Held     bool          `json:"held,omitempty"` // found by look-up
	Spec     Digest        `json:"spec"`           // Record.SpecDigest
	Warnings []string      `json:"warnings,omitempty"`
	Domain   string        `json:"domain,omitempty"` // of the JetStream in which the owner stores

	Differences []string `json:"differences,omitempty"` // with wrong_data: what State's parameters and data had otherwise
}

// Credit tells the owner how far the reader has come. It is cumulative and sent again every second, so
// that any may be lost; as a request it is answered with a CreditReply.
type Credit struct {
	Gen        string         `json:"gen"`
	Seat       uint64         `json:"seat"`
	Reader     string         `json:"reader"`           // ReaderOf(Secret)
	Secret     string         `json:"secret,omitempty"` // without it the credit is nobody's
	Rank                      // of the reader
	Asking     string         `json:"asking,omitempty"` // the SeatRequest.Request of a move that a rank waits for
	Taken      uint64         `json:"taken"`
	Holes      uint64         `json:"holes,omitempty"`       // of Taken, the last ones: they left no state at the rank
	BatchBytes int64          `json:"batch_bytes,omitempty"` // largest payload seen
	Stored     int64          `json:"stored,omitempty"`      // largest payload that came by way of the store; 0 for BatchBytes
	Bytes      int64          `json:"bytes,omitempty"`       // taken in all, by this reader
	Waiting    string         `json:"waiting,omitempty"`     // what Take waits for now
	Late       bool           `json:"late,omitempty"`        // Take has waited so long that the owner should look
	Straggles  bool           `json:"straggles,omitempty"`   // the batch after Taken is behind later ones for longer than jobs take
	Failed     *schema.Fault  `json:"failed,omitempty"`      // the error that Take returned
	Timing     *schema.Timing `json:"timing,omitempty"`      // summed over the batches taken by this reader; not in every credit
	Trace      string         `json:"trace,omitempty"`       // W3C traceparent of the last Take
	Lost       []Lost         `json:"lost,omitempty"`        // results whose payloads cannot be had; at most MaxLost
}

// CreditEvery is how many batches a reader takes until its next credit is due: a quarter of the window.
func CreditEvery(window int) int { return max(1, window/4) }

// Lost is a result whose payload its worker does not have any more, nor the store: it has to be made again.
type Lost struct {
	Seq     uint64 `json:"seq"`
	Attempt string `json:"attempt"`
}

// MaxLost is how many lost results a Credit names; the others are named once these are made again.
const MaxLost = 32

// CreditReply says how things stand: a reader that finds another seat than its own has been displaced. Where a world
// holds the seat, Seat and Reader are those of the rank named; a notice without a reader is for all of them.
type CreditReply struct {
	Gen    string `json:"gen"`
	Seat   uint64 `json:"seat"`
	Reader string `json:"reader"`
	Rank
	Phase   schema.Phase  `json:"phase"`
	Window  int           `json:"window"`
	Workers int           `json:"workers"` // live workers that serve the data set
	Error   *schema.Fault `json:"error,omitempty"`
	Trouble string        `json:"trouble,omitempty"` // what stands in the way of batches, for people
	Behind  string        `json:"behind,omitempty"`  // the rank, or reader, that the one asking waits for, for people
}

// StopRequest ends a run (Leave false) or gives up the seat and leaves the run to another process.
type StopRequest struct {
	Batcher string `json:"batcher"`
	Request string `json:"request"`          // as in SeatRequest
	Reader  string `json:"reader"`           // ReaderOf(Secret)
	Secret  string `json:"secret,omitempty"` // without it the request is nobody's
	Rank           // of the reader
	Leave   bool   `json:"leave,omitempty"`

	// Last is how far the trainer came. Credits travel by another subject, and may arrive after a request that ends
	// their seat, or not at all.
	Last *Credit `json:"last,omitempty"`
}

// StopReply answers a StopRequest. Error is the failure that the run had, if it had one.
type StopReply struct {
	Fault *schema.Fault `json:"fault,omitempty"`
	Error *schema.Fault `json:"error,omitempty"`
}

// StatusRequest asks for one batcher.
type StatusRequest struct {
	Batcher string `json:"batcher"`
}

// StatusReply answers it.
type StatusReply struct {
	Fault  *schema.Fault `json:"fault,omitempty"`
	Status schema.Status `json:"status"`
}

// Overview is what one coordinator knows: its batchers and the workers that it hears.
type Overview struct {
	Coordinator string                `json:"coordinator"`
	Version     string                `json:"version"`
	Kinds       []string              `json:"kinds"` // of jobs that it iterates: onda-v1-w2
	Batchers    []schema.Status       `json:"batchers"`
	Workers     []schema.WorkerStatus `json:"workers"`
}

// Lane tells workers that a batcher has a consumer of jobs to pull from, or that a generation is over. It is a hint,
// sent every second and on every change: a worker believes no end but the Record's, and no job that is not of the Run.
type Lane struct {
	Batcher string `json:"batcher"`
	Gen     string `json:"gen"`
	Kind    string `json:"kind"`              // kind token
	Floor   uint64 `json:"floor,omitempty"`   // results up to here are of no use to anybody
	Readers int    `json:"readers,omitempty"` // how many fetch each payload that a worker keeps; 0 and 1: one
	Taken   uint64 `json:"taken,omitempty"`   // all of them are past the results up to here, and may go back to them
	Workers int    `json:"workers"`           // live ones that serve the kind; a job's error is confirmed by a second one
	Over    bool   `json:"over,omitempty"`    // nothing of the generation is wanted any more
	// Jobs are queued, and no request for them waits: one that the server has not answered for a while it does not know.
	Unasked bool   `json:"unasked,omitempty"`
	Owner   string `json:"owner,omitempty"` // the coordinator that says so
	Few     bool   `json:"few,omitempty"`   // only the workers that a Follow names it to ask for its jobs
	Run     *Run   `json:"run,omitempty"`   // when it is first told; nil where it is large: it is in the Record
}

// Run is what a worker needs of a Record to serve the generation in it. A wrong one serves nothing: each job has the
// digest of the owner's.
type Run struct {
	Spec   Spec   `json:"spec"`
	Origin string `json:"origin,omitempty"`
	Size   int    `json:"size,omitempty"` // ranks, which fetch each payload
}

// MaxRunSize is how large the parameters of a Run may be that travels with a Lane: it is said to each worker that
// follows it.
const MaxRunSize = 4 << 10

// Run is that of the generation in the record.
func (r *Record) Run() Run { return Run{r.Spec, r.Origin, r.Size} }

// Record is as much of the record of a lane as a worker needs; false where the lane does not say enough.
func (l *Lane) Record() (rec Record, ok bool) {
	if l.Run == nil || CheckName("generation", l.Gen) != nil || KindToken(l.Run.Spec.Dataset, l.Run.Spec.Version) != l.Kind ||
		len(l.Run.Spec.Params) > MaxRunSize || l.Run.Size < 0 || l.Run.Size > MaxSize {
		return Record{}, false
	}
	return Record{
		Wire: Version, Batcher: l.Batcher, Owner: l.Owner, Gen: l.Gen, Phase: schema.PhaseRunning, Floor: l.Floor,
		Spec: l.Run.Spec, Origin: l.Run.Origin, Size: l.Run.Size,
	}, true
}

// Follow tells one worker which lanes with few workers it is to ask for jobs of. It is a hint like each of the lanes in
// it, sent on every change and every second. A lane of this coordinator that is not in it, and was not announced to all
// workers lately, is left to others.
type Follow struct {
	Coordinator string `json:"coordinator"`
	Lanes       []Lane `json:"lanes"`
}

// Report is a worker's word to the owner: that its result contradicts the stored one, or what else is at fault, or that
// jobs which came in a run are to be queued by themselves. The latter is a request, answered with an ApartReply.
type Report struct {
	Gen   string        `json:"gen"`
	Fault *schema.Fault `json:"fault,omitempty"`
	Apart []uint64      `json:"apart,omitempty"` // sequence numbers, at most MaxRun

	// With CodeNondeterministic: the digests of what the worker made and of what it found stored.
	Made   Digest `json:"made,omitzero"`
	Stored Digest `json:"stored,omitzero"`
}

// ApartReply says that the job stream has each job of Report.Apart by itself, or that nobody needs it any more. There
// is no other answer: where the owner cannot say so, it is silent, and the run is delivered again.
type ApartReply struct {
	Queued bool `json:"queued"`
}

// Action is what an operator wants of a batcher.
type Action string

// The actions.
const (
	ActionStop   Action = "stop"   // end the run; the record stays
	ActionRemove Action = "remove" // delete the record and what is prepared
)

// ManageRequest ends or deletes a batcher that another process uses. Only an operator may ask.
type ManageRequest struct {
	Batcher string `json:"batcher"`
	Request string `json:"request"` // as in SeatRequest
	Action  Action `json:"action"`
	Force   bool   `json:"force,omitempty"` // also delete one that runs
	By      string `json:"by,omitempty"`    // who asks, for people; at most MaxBy bytes
}

// MaxBy bounds ManageRequest.By.
const MaxBy = 128

// ManageReply answers a ManageRequest. Status is how the batcher stood.
type ManageReply struct {
	Fault  *schema.Fault `json:"fault,omitempty"`
	Status schema.Status `json:"status"`
}
