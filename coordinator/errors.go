package coordinator

import "errors"

// ErrNotRunning is returned by Live and Ready when the coordinator does not answer requests: not yet, not now, or no
// more.
var ErrNotRunning = errors.New("the coordinator does not run")

// ErrRan is returned by Run when it was called before: a coordinator runs once, and New makes another.
var ErrRan = errors.New("the coordinator ran before; New makes another")
