package worker

import (
	"sync"

	"github.com/jetbatch/jetbatch/worker/internal/schedule"
)

// slots start jobs: the scheduler, and the goroutines that wait for it. Its lock guards the scheduler, and the fields
// of jobs that are marked so.
type slots struct {
	*life
	bell *bell

	mu      sync.Mutex
	ready   sync.Cond // a job may be started, or the slots end
	sched   *schedule.Scheduler[*lane, *job]
	solo    *job // the job that runs by itself, and has since it began
	lost    int  // slots whose job ignores the end of its context
	stopped bool
}

func newSlots(n int, life *life, bell *bell) *slots {
	s := &slots{life: life, bell: bell, sched: schedule.New[*lane, *job](n)}
	s.ready.L = &s.mu
	return s
}

// open lets a lane's jobs be asked for.
func (s *slots) open(l *lane) []schedule.Ask[*lane] {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sched.Open(l)
	return s.sched.Asks(s.now())
}

// rest lets a lane's jobs be asked for or not, by whether it is paused now: those that are here are run in any case.
func (s *slots) rest(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sched.Rest(l, l.isPaused())
}

// close starts and accepts no more jobs of a lane and returns those that wait.
func (s *slots) close(l *lane) []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sched.Close(l)
}

// arrive adds the jobs of a delivery; false when the lane is closed or the worker drains.
func (s *slots) arrive(d *delivery, more bool, now int64) bool {
	s.mu.Lock()
	kept := s.sched.Arrive(d.lane, d.suspect(), more, now, d.jobs...)
	s.mu.Unlock()
	if kept {
		s.ready.Signal()
	}
	return kept
}

// expired says that n deliveries that a lane was asked for do not come; a negative n means all.
func (s *slots) expired(l *lane, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sched.Expired(l, n)
}

// asks returns the requests for jobs to send now, which count as sent.
func (s *slots) asks() []schedule.Ask[*lane] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sched.Asks(s.now())
}

// stale takes out the jobs that have waited since before an instant.
func (s *slots) stale(before int64) []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sched.Stale(before)
}

// next ends the job that a slot ran, if any, and waits for the one to run now; nil when the slots end. ask sends
// requests for jobs. Where a job is at hand, they are sent together with the ack of the one that ended.
func (s *slots) next(ended *job, took int64, ask func([]schedule.Ask[*lane])) *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended != nil {
		s.finish(ended, took)
	}
	var asks []schedule.Ask[*lane]
	for first := true; ; first = false {
		if s.stopped {
			return nil
		}
		_, j, ok := s.sched.Next()
		if first && !ok {
			asks = s.sched.Asks(s.now())
		}
		if ok {
			s.begin(j)
			if s.sched.Waiting() > 0 {
				s.ready.Signal() // a delivery wakes one slot; this one wakes the next
			}
		}
		if len(asks) > 0 {
			s.mu.Unlock()
			ask(asks)
			s.mu.Lock()
			asks = nil
			if !ok {
				continue
			}
		}
		if ok {
			return j
		}
		s.ready.Wait()
	}
}

// begin notes that a job runs, and whether anything runs beside it. s.mu is held.
func (s *slots) begin(j *job) {
	if s.solo != nil && s.solo.running {
		s.solo.alone = false
	}
	s.solo = nil
	if j.running, j.alone = true, s.sched.Running() == 1; j.alone {
		s.solo = j
	}
}

// finish frees the slot of a job. s.mu is held.
func (s *slots) finish(j *job, took int64) {
	j.running = false
	if j.lost {
		s.lost--
		s.sched.Regain()
		s.bell.ring()
		return
	}
	s.sched.Done(j.lane, took)
	s.bell.ended()
}

// setAside takes a job that runs beside others out of its slot and has it wait until it can run alone. It reports false
// when it cannot: the lane is closed, or the worker drains.
func (s *slots) setAside(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sched.SetAside(j.lane, j, s.now()) {
		return false
	}
	j.running = false
	return true
}

// lose gives up the slot of a job whose code does not return. It reports false when the job has ended.
func (s *slots) lose(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !j.running || j.lost {
		return false
	}
	j.lost = true
	s.lost++
	s.sched.Lose(j.lane)
	s.ready.Broadcast()
	s.bell.ring()
	return true
}

// isLost reports whether the slot of a job was given up.
func (s *slots) isLost(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return j.lost
}

// ranAlone reports whether nothing ran beside a job.
func (s *slots) ranAlone(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return j.alone
}

// load is how many jobs run, how many can run, and how many slots are lost.
func (s *slots) load() (running, slots, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sched.Running(), s.sched.Slots(), s.lost
}

// drain starts and accepts nothing more and returns the jobs that wait.
func (s *slots) drain() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sched.Drain()
}

// stop ends the slots, those of running jobs when these have ended.
func (s *slots) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.ready.Broadcast()
}

// isStopped reports whether the slots have ended.
func (s *slots) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}
