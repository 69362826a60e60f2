package owner

import "time"

// iterator is what the iterator of a generation owes.
type iterator struct {
	busy    bool // a demand is under way
	watched time.Time
	owing   time.Duration // how much of the time since the demand, or the last job, counts
}

// asked begins a demand.
func (i *iterator) asked(now time.Time) { i.busy, i.owing, i.watched = true, 0, now }

// answered takes a part of what was demanded; last ends the demand.
func (i *iterator) answered(now time.Time, last bool) { i.busy, i.owing, i.watched = !last, 0, now }

// owes is for how long the iterator has owed a job. Time in which the process was paused is no time of Next's: two
// beats count at most from one look to the other.
func (i *iterator) owes(now time.Time) time.Duration {
	if i.busy {
		i.owing += min(now.Sub(i.watched), 2*Beat)
		i.watched = now
	}
	return i.owing
}
