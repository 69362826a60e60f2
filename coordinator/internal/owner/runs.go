package owner

import (
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
)

// Bounds of a run of jobs in one message.
const (
	runTime  = time.Millisecond // of work: a trainer that waits for one job of a run should hardly notice the others
	runBytes = 64 << 10
	runShare = 2 // runs per slot that the window must have room for, so that no slot goes without
)

// runs decides how many consecutive jobs travel in one message: as many as one slot does in runTime. Messages are what
// small batches cost; the jobs of a run are as good as single ones in every other way. The zero value knows nothing of
// how long a job takes, and sends single ones.
type runs struct {
	taken uint64
	spent time.Duration
	mean  time.Duration // of materializing one batch; 0 while unknown
}

// observe takes a reader's sums: how far it has come and how long all that took to materialize.
func (r *runs) observe(taken uint64, spent time.Duration) {
	n, took := taken-r.taken, spent-r.spent
	before := r.taken
	r.taken, r.spent = taken, spent
	if before == 0 || taken <= before || took < 0 {
		return // another reader or seat
	}
	// Longer jobs count at once, shorter ones when they stay short.
	r.mean = max(took/time.Duration(n), r.mean/2, 1)
}

// length is how many jobs go into a message, for a window and slots.
func (r *runs) length(window, slots int) int {
	if r.mean == 0 || slots == 0 {
		return 1
	}
	return max(1, min(int(runTime/r.mean), window/(runShare*slots), wire.MaxRun))
}

// run gathers consecutive jobs for one message.
type run struct {
	first uint64
	n     int
	data  []byte
}

// add appends a job and reports whether it did: a job that does not follow, or does not fit, begins the next run.
func (r *run) add(seq uint64, job []byte, most int) bool {
	if r.n > 0 && (r.n >= most || seq != r.first+uint64(r.n) || len(r.data)+len(job) > runBytes) {
		return false
	}
	if r.n == 0 {
		r.first = seq
	}
	r.n++
	r.data = append(r.data, job...)
	return true
}
