package schema

import "time"

// Timing says where the time of one batch, or of many added up, went. Iterate and Materialize are
// measured by one clock each; Queue and Transfer are between two machines' clocks and never below zero.
type Timing struct {
	Iterate     time.Duration `json:"iterate_ns"`     // in the data set's Next
	Queue       time.Duration `json:"queue_ns"`       // from the job's storage to its execution
	Materialize time.Duration `json:"materialize_ns"` // in Materialize and encoding, retries included
	Transfer    time.Duration `json:"transfer_ns"`    // from there, through the store, until the payload was here
	Wait        time.Duration `json:"wait_ns"`        // Take blocked the trainer this long
	Trainer     time.Duration `json:"trainer_ns"`     // between the Take before and this one

	// Wait by what the batch was in meanwhile. The six add up to it.
	WaitIterate     time.Duration `json:"wait_iterate_ns"`
	WaitQueue       time.Duration `json:"wait_queue_ns"`
	WaitMaterialize time.Duration `json:"wait_materialize_ns"`
	WaitTransfer    time.Duration `json:"wait_transfer_ns"`
	WaitRanks       time.Duration `json:"wait_ranks_ns,omitempty"` // nothing yet: a rank of the same world was a window behind
	WaitOther       time.Duration `json:"wait_other_ns"`           // none of them: the window was closed, a seat was asked for, the batch was decoded
}

// Add adds u to t, part by part.
func (t *Timing) Add(u Timing) {
	t.Iterate += u.Iterate
	t.Queue += u.Queue
	t.Materialize += u.Materialize
	t.Transfer += u.Transfer
	t.Wait += u.Wait
	t.Trainer += u.Trainer
	t.WaitIterate += u.WaitIterate
	t.WaitQueue += u.WaitQueue
	t.WaitMaterialize += u.WaitMaterialize
	t.WaitTransfer += u.WaitTransfer
	t.WaitRanks += u.WaitRanks
	t.WaitOther += u.WaitOther
}

// Sub is the inverse of Add.
func (t *Timing) Sub(u Timing) {
	t.Iterate -= u.Iterate
	t.Queue -= u.Queue
	t.Materialize -= u.Materialize
	t.Transfer -= u.Transfer
	t.Wait -= u.Wait
	t.Trainer -= u.Trainer
	t.WaitIterate -= u.WaitIterate
	t.WaitQueue -= u.WaitQueue
	t.WaitMaterialize -= u.WaitMaterialize
	t.WaitTransfer -= u.WaitTransfer
	t.WaitRanks -= u.WaitRanks
	t.WaitOther -= u.WaitOther
}

// Attribute splits the Wait of one batch by cause: the stages are laid back to back, backwards from the payload's
// arrival, which was so long before the end of the wait, and each is blamed for as much of the wait as it covers. The
// stages of other batches do not count: what the batch in front needed, its own Take waited for.
func (t *Timing) Attribute(arrived time.Duration) {
	// What of the wait lies before the stages that are placed already.
	left := t.Wait - min(max(arrived, 0), t.Wait)
	share := func(stage time.Duration) time.Duration {
		d := min(max(stage, 0), left)
		left -= d
		return d
	}
	t.WaitTransfer = share(t.Transfer)
	t.WaitMaterialize = share(t.Materialize)
	t.WaitQueue = share(t.Queue)
	t.WaitIterate = share(t.Iterate)
	t.WaitOther = t.Wait - t.WaitTransfer - t.WaitMaterialize - t.WaitQueue - t.WaitIterate
}

// Cause is a part of [Timing.Wait] with its name in metrics and displays.
type Cause struct {
	Name string
	Wait time.Duration
}

// Causes returns the parts of Wait in the order of the stages, then "ranks" and "other".
func (t Timing) Causes() [6]Cause {
	return [6]Cause{
		{"iterate", t.WaitIterate}, {"queue", t.WaitQueue}, {"materialize", t.WaitMaterialize},
		{"transfer", t.WaitTransfer}, {"ranks", t.WaitRanks}, {"other", t.WaitOther},
	}
}
