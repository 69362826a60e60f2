package chaos

import (
	"context"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/testset"
)

// host is the machine that a worker runs on, with what may be wrong with it.
type host struct {
	mu   sync.Mutex
	ails ailment
}

// ailment is what is wrong with a host.
type ailment string

const (
	mountAway ailment = "mount away" // nothing opens, and what is open cannot be read
	diskFull  ailment = "disk full"  // no batch is made
	staleCopy ailment = "stale copy" // the data are older than the run's
	slowHost  ailment = "slow host"  // batches come when the fault is over
)

// definition is the data set as the host has it.
func (h *host) definition() dataset.Definition {
	away := &fs.PathError{Op: "open", Path: "/no-mount/data", Err: syscall.ENOENT}
	return testset.Define(sequenceName, &testset.Hooks{
		Open: func(context.Context, testset.Params) error {
			if h.is(mountAway) {
				return away
			}
			return nil
		},
		Data: func(p testset.Params) string {
			if h.is(staleCopy) {
				return oldData
			}
			return rightData(p)
		},
		Materialize: func(ctx context.Context, _ testset.Params, _ testset.Job) error {
			switch {
			case h.is(mountAway):
				return away
			case h.is(diskFull):
				return &fs.PathError{Op: "write", Path: "/cache/batch", Err: syscall.ENOSPC}
			}
			for h.is(slowHost) {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(time.Second):
				}
			}
			return nil
		},
	})
}

func (h *host) is(a ailment) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ails == a
}

func (h *host) becomes(a ailment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ails = a
}

// sicken draws whether something goes wrong with the host of a worker, and what; it is mended by itself.
func (s *storm) sicken() {
	if s.ailing.IntN(6) > 0 {
		return
	}
	a := []ailment{mountAway, diskFull, staleCopy, slowHost}[s.ailing.IntN(4)]
	workers := s.w.all("worker")
	if len(workers) == 0 {
		return
	}
	e := workers[s.ailing.IntN(len(workers))].net
	if a == staleCopy {
		if rightData(s.w.plan.Params) == "" {
			return // nobody could tell
		}
		s.w.mu.Lock()
		s.w.stale = true
		s.w.mu.Unlock()
		s.w.spawn("worker")
		workers = s.w.all("worker")
		e = workers[len(workers)-1].net
	}
	s.log(string(a), e)
	e.host.becomes(a)
	s.later(longest, func() {
		e.host.becomes("")
		s.w.note("%s over: %s", a, e.name)
	})
}
