package schema

import "time"

// Phase is where a batcher is in its life.
type Phase string

// The phases.
const (
	PhaseStopped Phase = "stopped" // never started
	PhaseRunning Phase = "running"
	PhaseClosed  Phase = "closed" // after Stop
	PhaseDone    Phase = "done"   // the data ended and the trainer has it all
	PhaseFailed  Phase = "failed" // Status.Error says why
)

// Status is how a batcher stands.
type Status struct {
	Batcher    string         `json:"batcher"`
	Phase      Phase          `json:"phase"`
	Error      *Fault         `json:"error,omitempty"`
	Dataset    string         `json:"dataset"`
	Version    uint32         `json:"version"`
	Gen        string         `json:"gen,omitempty"`
	Seat       uint64         `json:"seat"`
	Reader     string         `json:"reader,omitempty"`   // id of the reader that holds the seat; or the names of several that share it
	Owner      string         `json:"owner"`              // the coordinator that feeds it
	Taken      uint64         `json:"taken"`              // sequence number that the trainer has come to, in this generation
	Total      uint64         `json:"total"`              // batches taken in all generations; going back to a state takes none back
	Progress   *Progress      `json:"progress,omitempty"` // nil where the data set does not say how far it is
	Fed        uint64         `json:"fed"`                // sequence number that jobs are out to
	Window     int            `json:"window"`             // batches in flight at most
	BatchBytes int64          `json:"batch_bytes"`        // largest payload seen
	Workers    int            `json:"workers"`            // live workers that serve the data set
	Slots      int            `json:"slots"`              // their slots
	Rate       float64        `json:"rate"`               // batches taken per second, lately
	ByteRate   float64        `json:"byte_rate"`          // payload bytes taken per second, lately
	Waiting    string         `json:"waiting,omitempty"`
	Accepted   string         `json:"accepted_change,omitempty"` // how the data differ from those of the state that the run began from
	Data       string         `json:"data,omitempty"`            // what the data set says of its data: "kept 93 of 100 recordings: 4 without labels, 3 shorter than 10s"
	Timing     Timing         `json:"timing"`                    // summed over the batches that the reader took
	Desired    int            `json:"desired_workers"`           // workers, like those that there are, that would keep the trainer from waiting for them
	IdleFor    time.Duration  `json:"idle_for_ns,omitempty"`     // since the reader was last heard, when there is none
	Restarts   int            `json:"restarts,omitempty"`        // generations begun because a store was lost
	Reissued   uint64         `json:"reissued,omitempty"`        // jobs published again because they had neither result nor job
	World      string         `json:"world,omitempty"`           // whose ranks have the seat; empty for a reader of its own
	Members    []MemberStatus `json:"members,omitempty"`         // its ranks; or the readers that share the batcher
	Heard      int            `json:"heard,omitempty"`           // of them, those that came, have not left, and were heard lately
	Spread     uint64         `json:"spread,omitempty"`          // batches from the slowest of them to the furthest
	Slowest    int            `json:"slowest,omitempty"`         // the Rank of the one that is furthest behind, the first of several
	Detached   uint64         `json:"detached,omitempty"`        // times that a reader among several was left to a batcher of its own
	Backups    uint64         `json:"backups,omitempty"`         // jobs given to a second worker because the first was late
}

// MemberStatus is how a rank of a world stands, or a reader among several that go at their own pace.
type MemberStatus struct {
	Rank    int           `json:"rank"`
	Name    string        `json:"name,omitempty"`    // of a reader among several; empty for a rank
	Reader  string        `json:"reader,omitempty"`  // id of the process that is this rank; empty when none came yet
	Taken   uint64        `json:"taken"`             // sequence number that the rank has come to
	Silent  time.Duration `json:"silent_ns"`         // since it was last heard
	Waiting string        `json:"waiting,omitempty"` // what its Take waits for
	Left    bool          `json:"left,omitempty"`    // it was closed, and nobody waits for it

	// Attached says of a reader among several that what it has not taken is kept for it. One that is not has not begun,
	// was stopped, or goes on in a batcher of its own.
	Attached bool `json:"attached,omitempty"`
}

// Progress is how far a batcher is in its data, in batches, and when it will be further at the pace of lately.
type Progress struct {
	Epoch     uint64        `json:"epoch"`                   // of the batch that comes next, from 1
	Epochs    uint64        `json:"epochs,omitempty"`        // after which the data end; 0 for never
	Batch     uint64        `json:"batch"`                   // batches of the epoch that were taken
	Batches   uint64        `json:"batches,omitempty"`       // of an epoch; 0 for one without end
	EpochLeft time.Duration `json:"epoch_left_ns,omitempty"` // until the epoch ends; 0 for unknown
	Left      time.Duration `json:"left_ns,omitempty"`       // until the data end; 0 for unknown
}

// Ends is how many batches there are from the start of the data to their end, and how many of them lie before; ok is
// false for data without end.
func (p Progress) Ends() (before, all uint64, ok bool) {
	before = p.Batch
	if p.Epoch > 0 {
		before += (p.Epoch - 1) * p.Batches
	}
	return before, p.Epochs * p.Batches, p.Epochs > 0 && p.Batches > 0
}

// At returns p with the times that are left at a pace in batches per second.
func (p Progress) At(pace float64) Progress {
	left := func(batches uint64) time.Duration {
		return time.Duration(min(float64(batches)/pace, float64(maxLeft/time.Second)) * float64(time.Second))
	}
	p.EpochLeft, p.Left = 0, 0
	if pace > 0 && p.Batches > p.Batch {
		p.EpochLeft = left(p.Batches - p.Batch)
	}
	if before, all, ok := p.Ends(); ok && pace > 0 && all > before {
		p.Left = left(all - before)
	}
	return p
}

// maxLeft is the longest time that is said to be left.
const maxLeft = 100 * 365 * 24 * time.Hour

// WorkerStatus is a worker's heartbeat, sent every second and at once when it joins or leaves.
type WorkerStatus struct {
	Worker    string   `json:"worker"`
	Kinds     []string `json:"kinds"` // that it serves, each a data set, its version and that of the wire: onda-v1-w2
	Slots     int      `json:"slots"` // concurrent materializations; 0 while it drains
	Running   int      `json:"running"`
	Done      uint64   `json:"done"`
	Failed    uint64   `json:"failed"`
	Retried   uint64   `json:"retried"`
	Leaving   bool     `json:"leaving,omitempty"`
	LastError string   `json:"last_error,omitempty"`
	// Suspended says why jobs of kinds are left to other workers for now, such as "cannot open ecg: no such folder
	// /data". A kind that is served for some batchers, and not for others, is among Kinds, too.
	Suspended []Suspension `json:"suspended,omitempty"`
	Oldest    *Running     `json:"oldest,omitempty"`     // the job that it has been at for longest
	Direct    string       `json:"direct,omitempty"`     // where large batches are fetched from it, host:port; empty for nowhere, or in its own process only
	DirectPin []byte       `json:"direct_pin,omitempty"` // SHA-256 of the certificate that it shows there; empty where no TLS is spoken
	Now       time.Time    `json:"now,omitzero"`         // when it said so, by its own clock
	Memory    int64        `json:"memory,omitempty"`     // bytes that its process tries to stay under; 0 for no limit
	KeepBytes int64        `json:"keep_bytes,omitempty"` // bound on the batches that it keeps for trainers
	Spent     []Spent      `json:"spent,omitempty"`      // where the time of its jobs went, by kind
}

// Suspension is a kind of data set of which a worker leaves jobs to others for now, and why. Batchers are those whose
// jobs it leaves, 64 at most: with other parameters the data may be there.
type Suspension struct {
	Kind     string   `json:"kind"`
	Reason   string   `json:"reason"`
	Batchers []string `json:"batchers,omitempty"`
}

// Spent is the time that a worker has spent on the jobs of one kind since it began: the sum, and of how many jobs.
type Spent struct {
	Kind        string `json:"kind"`
	Queue       Sum    `json:"queue"`       // from when the worker had the job until it began with it
	Materialize Sum    `json:"materialize"` // retries included
	Store       Sum    `json:"store"`       // from there until the result is known to be stored
}

// Sum is a total time, and of how many.
type Sum struct {
	Total time.Duration `json:"total_ns"`
	N     uint64        `json:"n"`
}

// Mean is the total by the number; 0 of none.
func (s Sum) Mean() time.Duration {
	if s.N == 0 {
		return 0
	}
	return s.Total / time.Duration(min(s.N, 1<<62))
}

// Running is a job that is being materialized, or whose result is being stored.
type Running struct {
	Batcher string        `json:"batcher"`
	Seq     uint64        `json:"seq"`
	For     time.Duration `json:"for_ns"` // so far
}

// Step is one batch and its place in the sequence.
type Step[B any] struct {
	Seq        uint64 // from 1 within a generation; not a checkpoint
	Batch      B
	Rows       Rows   // of the whole batch, that are in Batch; zero for a type without rows
	Prev       State  // the state that was asked for; after an accepted change of the data, the one gone on from instead
	Next       State  // the state after this batch: save this with a checkpoint
	Timing     Timing // where the time went
	Worker     string // the worker that made it
	Attempt    string // which of its executions, a random name
	Deliveries uint64 // how often its job was handed out; 1 when nothing went wrong
	Trace      string // W3C traceparent of the Take whose word let the job out; empty without a tracer

	release func()
}

// WithRelease returns the step with what Release does; it must be safe to call more than once.
func (s Step[B]) WithRelease(release func()) Step[B] {
	s.release = release
	return s
}

// Release hands the batch's buffer back for reuse. It is optional and idempotent; no view of the batch
// may be used after it.
func (s Step[B]) Release() {
	if s.release != nil {
		s.release()
	}
}
