package worker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/schema"
	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// suspended are the lanes whose data set cannot be opened, or not be read, on this machine. They pull no jobs; the
// worker tries to open the data set by itself, ever more rarely, and serves again when it can. Until a job has
// succeeded the waits go on growing. The lock guards the table.
type suspended struct {
	*life
	puller *puller
	slots  *slots
	held   *held
	tasks  *tasks
	bell   *bell
	sleep  func(ctx context.Context, d time.Duration) error // between openings; replaced by tests

	mu    sync.Mutex
	lanes map[*lane]error
}

// suspend stops pulling for a lane and hands back what waits.
func (s *suspended) suspend(l *lane, cause *machineError) {
	s.mu.Lock()
	known := s.lanes[l] != nil
	s.lanes[l] = cause
	s.mu.Unlock()
	if known {
		return
	}
	s.log.Error("jobs go to other workers until this machine can open the data set", l.at("error", cause)...)
	l.pause(cannotOpen)
	for _, j := range s.slots.close(l) {
		s.held.giveBack(j, 0)
	}
	s.bell.ring()
	if !s.tasks.run(func() { s.reopen(l) }) {
		s.remove(l)
	}
}

// reopen opens the data set of a lane as soon as that succeeds, and pulls again.
func (s *suspended) reopen(l *lane) {
	defer s.bell.ring()
	for {
		if s.sleep(l.ctx, time.Duration(judge.ReopenAfter(int(l.faults.Add(1))))) != nil {
			s.remove(l)
			return // the lane is closed
		}
		err := l.data.check(l.ctx)
		if cause := (*machineError)(nil); errors.As(err, &cause) {
			s.mu.Lock()
			s.lanes[l] = cause
			s.mu.Unlock()
			continue
		}
		s.remove(l) // errors of another kind are for jobs to meet
		if l.unpause(cannotOpen) {
			if s.puller.open(l) != nil {
				l.broken.Store(true) // at the next tick
			}
			s.puller.start(l)
		}
		s.log.Info("data set can be opened; the lane is served again", l.at()...)
		return
	}
}

func (s *suspended) remove(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lanes, l)
}

// reasons says why lanes in open are suspended, once for each kind, and which of those kinds are not served at all:
// those without a lane that is.
func (s *suspended) reasons(open []*lane) (reasons []schema.Suspension, missing map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lanes) == 0 {
		return nil, nil
	}
	serves := make(map[string]bool)
	for _, l := range open {
		serves[l.token] = serves[l.token] || s.lanes[l] == nil
	}
	byKind := make(map[string]schema.Suspension)
	missing = make(map[string]bool)
	for l, cause := range s.lanes {
		r := byKind[l.token]
		r.Kind, r.Reason = l.token, max(r.Reason, clip(cause.Error(), maxReason))
		if len(r.Batchers) < maxSuspended {
			r.Batchers = append(r.Batchers, l.batcher)
		}
		byKind[l.token] = r
		missing[l.token] = !serves[l.token]
	}
	for _, token := range slices.Sorted(maps.Keys(byKind)) {
		slices.Sort(byKind[token].Batchers)
		reasons = append(reasons, byKind[token])
	}
	return reasons, missing
}

// maxSuspended is how many batchers a suspension names.
const maxSuspended = 64

// maxReason bounds the text of a reason in a status, in bytes.
const maxReason = 256
