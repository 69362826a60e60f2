package coordinator

import "errors"

// ErrNotRunning is returned by Live and Ready when the coordinator does not answer requests: not yet, not now, or no more.
var ErrNotRunning = errors.New("the coordinator does not run")
