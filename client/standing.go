package client

import (
	"fmt"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// standing is the owner's last word on how things stand, and since when the owner is silent. It is safe for concurrent
// use.
type standing struct {
	dataset string

	mu          sync.Mutex
	phase       schema.Phase // of the batcher
	workers     int          // live ones that serve the data set; -1 while unknown
	trouble     string       // the owner's, as it says
	behind      string       // the rank that a world waits for, as the owner says
	silentSince time.Time
	silentAt    time.Time // when it last gave no answer
	usurper     string    // what answers in the owner's place; empty when nothing does
	alarm       alarm
}

// hear takes the owner's word on a seat that is this reader's, and returns a warning if there is one to log.
func (s *standing) hear(said *wire.CreditReply, now time.Time) (warning string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase, s.trouble, s.behind, s.workers = said.Phase, said.Trouble, said.Behind, said.Workers
	return s.alarm.hear(said.Workers, now)
}

// set notes the phase that follows from a request of this reader's.
func (s *standing) set(phase schema.Phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = phase
}

// running reports whether the batcher was left running, or at the end of its data.
func (s *standing) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase == schema.PhaseRunning || s.phase == schema.PhaseDone
}

// unanswered notes that the owner did not answer, and what did in its place.
func (s *standing) unanswered(usurper string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silentSince.IsZero() {
		s.silentSince = now
	}
	s.usurper, s.silentAt = usurper, now
}

// answered notes that it did.
func (s *standing) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silentSince, s.usurper = time.Time{}, ""
}

// silentFor is for how long it has not answered.
func (s *standing) silentFor(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silentSince.IsZero() {
		return 0
	}
	return now.Sub(s.silentSince)
}

// wasSilent reports whether it gave no answer at some time since.
func (s *standing) wasSilent(since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.silentAt.Before(since)
}

// others names the rank that is in the way of a batch; empty when none is.
func (s *standing) others() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behind
}

// text says what is known to stand in the way of a batch; empty when nothing is.
func (s *standing) text(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.usurper != "":
		return s.usurper
	case !s.silentSince.IsZero():
		return fmt.Sprintf("no coordinator has answered for %v", now.Sub(s.silentSince).Round(time.Second))
	case s.trouble != "":
		return s.trouble
	case s.workers == 0:
		return "no worker serves data set " + s.dataset
	}
	return ""
}
