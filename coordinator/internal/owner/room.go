package owner

import "time"

// room bounds the window after the store was full.
type room struct {
	shrunk int       // the bound; 0 for none
	at     time.Time // when it was halved, or doubled, last
}

// crowded reports whether room is to be made now. Of many reports at once one counts.
func (r *room) crowded(now time.Time) bool {
	if now.Sub(r.at) < Beat/2 {
		return false
	}
	r.at = now
	return true
}

// halve returns the bound below a limit that the store has no room for.
func (r *room) halve(limit int) int {
	r.shrunk = max(1, limit/2)
	return r.shrunk
}

// within is a limit within the bound, which grows: there may be room again; if not, the store says so again.
func (r *room) within(now time.Time, limit int) int {
	if r.shrunk == 0 {
		return limit
	}
	if now.Sub(r.at) > longestPause {
		r.shrunk, r.at = 2*r.shrunk, now
	}
	if r.shrunk < limit {
		return r.shrunk
	}
	r.shrunk = 0
	return limit
}
