package coordinator

import (
	"fmt"
	"sync/atomic"
	"time"
)

// stuckAfter is how long one turn of a loop may take before the coordinator counts as not live. A turn calls JetStream
// a few times, and gives each call up after callTimeout.
const stuckAfter = time.Minute

// pulse is when each loop began its last turn, in nanoseconds since 1970; 0 while there is none.
type pulse struct{ renews, judges, reads atomic.Int64 }

// Live returns nil unless Run hangs or has ended, which only a new process mends. A broker that is away is no reason to
// start it again.
func (c *Coordinator) Live() error {
	if c.actors.ended() {
		return ErrNotRunning
	}
	for what, turned := range map[string]*atomic.Int64{
		"renewing the lease": &c.pulse.renews, "looking at leases": &c.pulse.judges, "reading records": &c.pulse.reads,
	} {
		if at := turned.Load(); at > 0 {
			if since := time.Since(time.Unix(0, at)); since > stuckAfter {
				return fmt.Errorf("%w: %s has stood still for %v", ErrNotRunning, what, since.Round(time.Second))
			}
		}
	}
	return nil
}

// Ready returns nil while the coordinator answers requests: it runs, is connected and holds its lease.
func (c *Coordinator) Ready() error {
	if err := c.Live(); err != nil {
		return err
	}
	switch {
	case c.pulse.reads.Load() == 0:
		return ErrNotRunning
	case !c.nc.IsConnected():
		return fmt.Errorf("%w: there is no connection to NATS", ErrNotRunning)
	case c.members.leaseAge() > c.cfg.Lease:
		return fmt.Errorf("%w: its lease was renewed %v ago: NATS stores nothing, or is far away", ErrNotRunning,
			c.members.leaseAge().Round(time.Millisecond))
	}
	return nil
}
