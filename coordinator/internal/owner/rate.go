package owner

import "time"

// rate is the trainer's pace over the last ten seconds or so.
type rate struct {
	at           time.Time
	taken        uint64
	bytes        int64
	batches, bps float64
}

// rateSpan is how long a pace is measured before it counts.
const rateSpan = 2 * time.Second

func (r *rate) observe(now time.Time, taken uint64, bytes int64) {
	if r.at.IsZero() || taken < r.taken || bytes < r.bytes {
		*r = rate{at: now, taken: taken, bytes: bytes}
		return
	}
	if d := now.Sub(r.at); d >= rateSpan {
		r.batches, r.bps = float64(taken-r.taken)/d.Seconds(), float64(bytes-r.bytes)/d.Seconds()
		r.at, r.taken, r.bytes = now, taken, bytes
	}
}

// value returns batches and bytes per second, zero when the trainer has fallen silent.
func (r *rate) value(now time.Time) (batches, bytes float64) {
	if now.Sub(r.at) > 5*rateSpan {
		return 0, 0
	}
	return r.batches, r.bps
}
