package worker

import (
	"strings"
	"time"
)

// declinedFor is how much longer each time a backup that was declined stays away.
const declinedFor = 500 * time.Millisecond

// backup reports whether j is a second job of its sequence number, published because the first is late. Whatever
// becomes of it, the first one is there still.
func (j *job) backup() bool { return strings.HasSuffix(j.subject, ".1") }

// declines reports whether a backup is of no use here: this worker has the late job itself, or cannot start
// another while there may be one that can. One that nobody had use for is let go. w.mu is held.
func (w *Worker) declines(j *job) bool {
	if j.suspect() || j.deliveries == 1 && w.sched.Running() >= w.sched.Slots() {
		return true
	}
	for _, h := range w.held {
		if h.lane == j.lane && h.seq == j.seq {
			return true
		}
	}
	return false
}

// decline hands a backup on to another worker, or lets it go.
func (w *Worker) decline(j *job) {
	if j.suspect() {
		w.answer(j.delivery, nil)
		return
	}
	w.answer(j.delivery, nak(time.Duration(j.deliveries-1)*declinedFor))
}
