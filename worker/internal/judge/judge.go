// Package judge decides what becomes of a job: whether it is a suspect, when it is tried again, and what a worker does
// with an execution that has ended. Every function is pure: instants and durations are nanoseconds that the caller
// hands in, and so is chance.
package judge

// SuspectAfter is how many deliveries of a job are taken for accidents.
const SuspectAfter = 3

// MaxStarts is how many lone starts of a suspect may end without an outcome before the job is convicted.
const MaxStarts = 3

// MaxTimeouts is how many lone attempts may run into their deadline before the job is convicted.
const MaxTimeouts = 3

// OwnerSilence is after how long without a word of the owner nothing is known of other workers.
const OwnerSilence = 3 * s

const (
	ms = 1e6
	s  = 1e9

	firstBackoff  = 50 * ms
	backoffFactor = 5
	longestWait   = 10 * s

	firstLook   = 3 * s / 2
	longestLook = 10 * s

	soleAfter     = 5 * s
	untriedAfter  = 600 * s
	longestRefuse = 2 * s
	refuseStep    = 100 * ms

	firstReopen   = 1 * s
	longestReopen = 30 * s
)

// Suspect reports whether a job that was delivered so often runs alone from now on.
func Suspect(deliveries uint64) bool { return deliveries > SuspectAfter }

// Backoff is how long to wait after the n-th failed attempt of an execution, n from 1. chance, in [0, 1), spreads the
// wait by 10 % to either side.
func Backoff(n int, chance float64) int64 {
	d := int64(firstBackoff)
	for ; n > 1 && d < longestWait; n-- {
		d *= backoffFactor
	}
	d = min(d, longestWait)
	return d + int64((chance*0.2-0.1)*float64(d))
}

// LookAfter is how long a lane stays unannounced before its record is read for the n-th time in a row, n from 0. Two
// announcements are missing at the first; while the owner stays silent the reads become rare.
func LookAfter(n int) int64 { return min(int64(firstLook)<<min(n, 8), longestLook) }

// ReopenAfter is how long to wait before the n-th try to open a data set that this machine could not open, n from 1.
func ReopenAfter(n int) int64 { return min(int64(firstReopen)<<min(n-1, 8), longestReopen) }

// Sole reports whether a worker may judge a job that no other has seen fail: it has been the only one for long, since
// the job failed here first, or there are others and none has tried the job for very long, since those may serve the
// kind and not this run. alone is since when it has been the only one, 0 for not.
func Sole(now, failed, alone int64) bool {
	return alone > 0 && now-max(failed, alone) >= soleAfter || now-failed >= untriedAfter
}

// PassFor is for how long a job that failed here stays away from everybody, so that another worker that asks gets it
// and not this one. alone is as in [Sole]: then there is nobody else, until it may judge.
func PassFor(now, failed, alone int64, deliveries uint64) int64 {
	if alone > 0 {
		return max(max(failed, alone)+soleAfter-now, refuseStep)
	}
	return min(int64(deliveries-1)*refuseStep, longestRefuse)
}

// Mine reports whether a delivery was heartbeat all the time, so that no other worker can have its job. missed says
// that an earlier heartbeat came too late.
func Mine(now, beaten, ackWait int64, missed bool) bool { return !missed && now-beaten <= ackWait }

// Cut is why the context of an execution ended.
type Cut int

// The reasons for a context's end.
const (
	NotCut   Cut = iota
	Deadline     // the job ran into its deadline
	Over         // the generation is over: the job is of no use to anybody
	NoStore      // the generation's store is gone
	Leaving      // the worker shuts down, or does not serve the batcher any more
)

// Failure is how an execution failed.
type Failure int

// The kinds of failure.
const (
	NoFailure   Failure = iota
	OfJob               // the data set's error, confirmed, or a verdict such as poison
	Unconfirmed         // the data set's error, which another worker is to confirm
	Foreign             // the job is of a data set or version that the worker does not have
	Unmarked            // the start of a suspect could not be marked
	OfMachine           // the data set cannot be opened here
)

// Execution is what is known of an execution that has ended.
type Execution struct {
	Lost bool // its slot was given up: another worker has had the job for long
	Cut  Cut
	Failure
}

// Action is what to do with the job.
type Action int

// The actions.
const (
	Commit      Action = iota // store the batch
	CommitFault               // store the error
	Ack                       // the job has ended without a result
	Return                    // hand the job back
	ReturnLater               // hand it back, to be delivered after a while
	ReturnFar                 // hand it back, to be delivered to others first
	PassOn                    // hand it back, to be tried by another worker and by no other than that
	NotStored                 // act on the store's refusal
	Release                   // say nothing: the job is another worker's
)

// Decide says what becomes of the job of an execution. An execution that was cut is never committed, whatever it
// returned: its error may be of the cut.
func Decide(e Execution) Action {
	switch {
	case e.Lost:
		return Release
	case e.Cut == Over:
		return Ack
	case e.Cut == NoStore:
		return ReturnLater
	case e.Cut != NotCut:
		return Return
	}
	switch e.Failure {
	case NoFailure:
		return Commit
	case Foreign:
		return ReturnFar
	case Unmarked:
		return NotStored
	case OfMachine:
		return Return
	case Unconfirmed:
		return PassOn
	}
	return CommitFault
}
