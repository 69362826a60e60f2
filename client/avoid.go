package client

import (
	"sync"
	"time"
)

// How long a worker that could not be reached is not tried: the first time, and at most.
const (
	firstAvoid = 30 * time.Second
	mostAvoid  = 10 * time.Minute
	stallAvoid = 5 * time.Second // one that was reached and stopped in the middle
)

// avoided are the workers that could not be reached lately. The zero value has none; it is safe for concurrent use.
type avoided struct {
	mu sync.Mutex
	of map[string]avoidance
}

// avoidance is of one worker.
type avoidance struct {
	until time.Time
	pause time.Duration // of the last time that it was not reached
}

// has reports whether a worker is not to be tried now.
func (a *avoided) has(worker string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return now.Before(a.of[worker].until)
}

// double notes that a worker could not be reached, and returns for how long it is not tried: twice as long as before.
func (a *avoided) double(worker string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	pause := min(max(2*a.of[worker].pause, firstAvoid), mostAvoid)
	a.put(worker, avoidance{now.Add(pause), pause}, now)
	return pause
}

// add puts off the next try without saying more of the worker.
func (a *avoided) add(worker string, pause time.Duration, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(worker, avoidance{now.Add(pause), a.of[worker].pause}, now)
}

// put notes a worker, and forgets the workers that might have been tried long ago: each process that starts makes up a
// new name. Called with mu held.
func (a *avoided) put(worker string, as avoidance, now time.Time) {
	for other, is := range a.of {
		if now.After(is.until.Add(mostAvoid)) {
			delete(a.of, other)
		}
	}
	if a.of == nil {
		a.of = make(map[string]avoidance)
	}
	a.of[worker] = as
}
