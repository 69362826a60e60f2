package owner

import "time"

// lateness says when a head is late, and when it is looked after. Looks at the same head grow rarer.
type lateness struct {
	moved  time.Time // when the trainer came further last
	looked time.Time // of the last repair
	pause  time.Duration
	wanted bool // a look with the next beat, unless there is one before
}

// advanced notes that the trainer came further.
func (l *lateness) advanced(now time.Time) { l.moved, l.pause = now, 0 }

// atOnce has the next look not wait.
func (l *lateness) atOnce() { l.looked, l.pause = time.Time{}, 0 }

// due reports whether a late head is to be looked after now, and begins the pause after that.
func (l *lateness) due(now time.Time) bool {
	if now.Sub(l.looked) < l.pause {
		return false
	}
	l.pause = min(max(2*l.pause, Beat/2), longestPause)
	l.looked, l.wanted = now, false
	return true
}
