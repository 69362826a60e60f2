package client

import "time"

// alarmAfter is how long a batcher must have had no worker, or only one, before that is worth a warning: a coordinator
// that has just begun hears of workers one by one, once a second.
const alarmAfter = 2 * time.Second

// alarm says when few workers are worth a warning. Not safe for concurrent use.
type alarm struct {
	few   int       // how many there are, since then: 0 or 1
	since time.Time // zero while there are enough, or their number is not known
	none  bool      // warned of
	lone  bool      // warned of: once is enough
}

// hear takes how many workers the owner knows, and returns a warning if there is a new one.
func (a *alarm) hear(workers int, now time.Time) string {
	if workers > 1 {
		a.since, a.none = time.Time{}, false
		return ""
	}
	if a.since.IsZero() || workers != a.few {
		a.few, a.since = workers, now
	}
	switch {
	case now.Sub(a.since) < alarmAfter:
	case workers == 1 && !a.lone:
		a.lone, a.none = true, false
		return "only one worker serves the data set"
	case workers == 0 && !a.none:
		a.none = true
		return "no worker serves the data set"
	}
	return ""
}
