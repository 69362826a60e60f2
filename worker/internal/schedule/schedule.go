// Package schedule decides which job a worker starts next and how many more it asks for, lane by lane. It
// is plain state: the same calls give the same answers. It reads no clock, starts nothing and knows
// nothing of NATS; instants and durations are nanoseconds that the caller hands in.
//
// Rules:
//   - The lane with the fewest running jobs goes first; within a lane, first come first started.
//   - No more is asked for than slots can start, plus a reserve that hides the round trip: as many jobs
//     as the slots do in reserveTime, none when a job takes longer than slowJob. What is asked for is messages; each is
//     taken to bring as many jobs as the last one of its lane did.
//   - A lane that answers a request with nothing for quietAfter is quiet: its request stays open but no
//     longer takes room from the others, so that no slot waits for it.
//   - A suspect runs alone: nothing starts beside it, and nothing is asked for until it is done.
package schedule

import "slices"

const (
	reserveTime   = 20e6  // ns of work to hold in reserve
	slowJob       = 1e9   // ns; a round trip is nothing beside a longer job
	maxReserve    = 256   // jobs
	unknownBeside = 4     // jobs, while it is not known how long they take
	quietAfter    = 100e6 // ns
	besideTime    = 400e6 // ns of work that an idle slot may be surprised by; a job that waits for a second is handed back
	maxBeside     = 8     // jobs
	weight        = 8     // of the past in the moving average of durations
)

// Scheduler is the state. L identifies a lane and J is a job. Not safe for concurrent use.
type Scheduler[L comparable, J any] struct {
	slots, running, waiting int
	lanes                   []*lane[L, J]
	suspects                []entry[L, J]
	alone                   bool // a suspect runs
	draining                bool
	average                 float64 // ns a job takes; 0 while unknown
	clock                   uint64  // counts starts, to break ties between lanes
}

type lane[L comparable, J any] struct {
	id      L
	queue   []entry[L, J]
	running int
	asked   int   // messages asked for and not yet come
	each    int   // jobs that the last message brought; 1 before the first
	askedAt int64 // when asked last grew from 0, or a job last came
	quiet   bool
	resting bool   // nothing is asked for
	started uint64 // clock of the last start
}

type entry[L comparable, J any] struct {
	lane    L
	job     J
	arrived int64
}

// Ask is a request for N messages of a lane.
type Ask[L comparable] struct {
	Lane L
	N    int
}

// New returns a scheduler of so many slots.
func New[L comparable, J any](slots int) *Scheduler[L, J] {
	return &Scheduler[L, J]{slots: slots}
}

// Running is how many jobs run, those of closed lanes included and lost ones not.
func (s *Scheduler[L, J]) Running() int { return s.running }

// Slots is how many jobs can run at once.
func (s *Scheduler[L, J]) Slots() int { return s.slots }

// Waiting is how many jobs are held and not started.
func (s *Scheduler[L, J]) Waiting() int { return s.waiting }

// Open adds a lane; one that is there already stays as it is.
func (s *Scheduler[L, J]) Open(id L) {
	if s.lane(id) == nil {
		s.lanes = append(s.lanes, &lane[L, J]{id: id, each: 1, started: s.clock})
	}
}

// Rest lets a lane be asked for jobs, or not: what it was asked for will not come, and what is here is started.
func (s *Scheduler[L, J]) Rest(id L, resting bool) {
	if l := s.lane(id); l != nil && l.resting != resting {
		l.resting, l.asked, l.quiet = resting, 0, false
	}
}

// Close removes a lane and returns its jobs that were not started.
func (s *Scheduler[L, J]) Close(id L) []J {
	dropped := s.drop(func(e entry[L, J]) bool { return e.lane == id }, true)
	s.lanes = slices.DeleteFunc(s.lanes, func(l *lane[L, J]) bool { return l.id == id })
	return dropped
}

// Arrive adds the jobs of a message that a lane's consumer delivered at now; more says that the lane has others queued.
// It reports false, and keeps nothing, when the lane is closed or the worker drains.
func (s *Scheduler[L, J]) Arrive(id L, suspect, more bool, now int64, jobs ...J) bool {
	l := s.lane(id)
	if l == nil || s.draining {
		return false
	}
	l.asked = max(l.asked-1, 0)
	l.each = len(jobs)
	l.askedAt, l.quiet = now, !more
	for _, job := range jobs {
		if e := (entry[L, J]{id, job, now}); suspect {
			s.suspects = append(s.suspects, e)
		} else {
			l.queue = append(l.queue, e)
		}
	}
	s.waiting += len(jobs)
	return true
}

// Next takes the job to start now, if there is one; the caller says Done when it ended.
func (s *Scheduler[L, J]) Next() (id L, job J, ok bool) {
	if s.draining || s.alone || s.running >= s.slots {
		return id, job, false
	}
	if len(s.suspects) > 0 {
		if s.running > 0 {
			return id, job, false
		}
		e := s.suspects[0]
		s.suspects = s.suspects[1:]
		s.alone = true
		s.start(s.lane(e.lane))
		return e.lane, e.job, true
	}
	var best *lane[L, J]
	for _, l := range s.lanes {
		if len(l.queue) > 0 && (best == nil || l.running < best.running || l.running == best.running && l.started < best.started) {
			best = l
		}
	}
	if best == nil {
		return id, job, false
	}
	e := best.queue[0]
	best.queue[0] = entry[L, J]{}
	best.queue = best.queue[1:]
	s.start(best)
	return e.lane, e.job, true
}

func (s *Scheduler[L, J]) start(l *lane[L, J]) {
	s.clock++
	s.waiting--
	s.running++
	l.running++
	l.started = s.clock
}

// Done ends a job that Next started and that took so long.
func (s *Scheduler[L, J]) Done(id L, took int64) {
	s.end(id)
	if s.average == 0 {
		s.average = float64(max(took, 1))
	} else {
		s.average += (float64(took) - s.average) / weight
	}
}

func (s *Scheduler[L, J]) end(id L) {
	s.running--
	s.alone = false // a suspect has no neighbours, so the job that ended is the suspect
	if l := s.lane(id); l != nil {
		l.running--
	}
}

// SetAside ends a job that Next started and queues it as a suspect: it turned out that it must run alone. It reports
// false, and changes nothing, when the lane is closed or the worker drains.
func (s *Scheduler[L, J]) SetAside(id L, job J, now int64) bool {
	if s.draining || s.lane(id) == nil {
		return false
	}
	s.end(id)
	s.suspects = append(s.suspects, entry[L, J]{id, job, now})
	s.waiting++
	return true
}

// Lose gives up a running job's slot: its code does not come back.
func (s *Scheduler[L, J]) Lose(id L) {
	s.end(id)
	s.slots--
}

// Regain returns a slot that was lost.
func (s *Scheduler[L, J]) Regain() { s.slots++ }

// Asks returns the requests to send now, already counted as sent.
func (s *Scheduler[L, J]) Asks(now int64) []Ask[L] {
	if s.draining || s.alone || len(s.suspects) > 0 || len(s.lanes) == 0 {
		return nil
	}
	reserve := s.reserve()
	free := s.slots + reserve - s.running - s.waiting
	covered := s.running + s.waiting
	lively, awake, starved := 0, 0, false
	for _, l := range s.lanes {
		if l.resting {
			continue
		}
		awake++
		if l.asked > 0 && now-l.askedAt > quietAfter {
			l.quiet = true
		}
		if l.asked == 0 {
			l.quiet = false
		}
		if !l.quiet {
			free -= l.coming()
			covered += l.coming()
			lively++
			starved = starved || l.load() == 0
		}
	}
	var asks []Ask[L]
	if idle := s.slots - s.running - s.waiting; idle > 0 && free <= 0 && starved {
		// A slot is idle, and what was asked for may not come: others are asked as well, for no more than would be
		// started soon.
		for most := -idle * s.beside(); free > most && s.least().load() == 0; {
			l := s.least()
			asks = s.ask(asks, l, 1, now)
			free -= l.each
		}
		return asks
	}
	if free == 0 && starved && reserve > 0 {
		// The others have taken all the room: a lane that has nothing here gets its turn all the same, one at a time.
		return s.ask(asks, s.least(), 1, now)
	}
	// Requests are worth sending for an idle slot, for a lane that has nothing here, or for a good part of the
	// reserve at once.
	if free <= 0 || covered >= s.slots && !starved && 2*free < reserve {
		return nil
	}
	if awake == 0 {
		return nil
	}
	share := (free + awake - 1) / awake
	for _, l := range s.lanes {
		if l.resting {
			continue
		}
		if n := share - l.coming(); l.quiet && n > 0 && 2*n >= share {
			asks = s.ask(asks, l, (n+l.each-1)/l.each, now)
		}
	}
	if lively == 0 {
		return asks
	}
	for free > 0 {
		least := s.least()
		asks = s.ask(asks, least, 1, now)
		free -= least.each
	}
	return asks
}

// least is the lane with the least load of those that answer soon: of several the one that waits longest.
func (s *Scheduler[L, J]) least() (least *lane[L, J]) {
	for _, l := range s.lanes {
		if l.asks() && (least == nil || l.load() < least.load() || l.load() == least.load() && l.started < least.started) {
			least = l
		}
	}
	return least
}

// coming is how many jobs a lane was asked for and did not bring yet.
func (l *lane[L, J]) coming() int { return l.asked * l.each }

// asks reports whether a lane is asked for jobs and answers soon.
func (l *lane[L, J]) asks() bool { return !l.resting && !l.quiet }

func (l *lane[L, J]) load() int { return l.running + len(l.queue) + l.coming() }

func (s *Scheduler[L, J]) ask(asks []Ask[L], l *lane[L, J], n int, now int64) []Ask[L] {
	if l.asked == 0 {
		l.askedAt = now
	}
	l.asked += n
	for i := range asks {
		if asks[i].Lane == l.id {
			asks[i].N += n
			return asks
		}
	}
	return append(asks, Ask[L]{l.id, n})
}

// reserve is how many jobs to hold beyond those that can start at once.
func (s *Scheduler[L, J]) reserve() int {
	if s.average == 0 || s.average >= slowJob {
		return 0
	}
	return min(max(int(float64(s.slots)*reserveTime/s.average), 1), maxReserve)
}

// beside is how many jobs more an idle slot may ask for, in case that all of them come: as many as it does in
// besideTime.
func (s *Scheduler[L, J]) beside() int {
	if s.average == 0 {
		return unknownBeside
	}
	return min(max(int(besideTime/s.average), 1), maxBeside)
}

// Expired says that n messages asked for will not come; a negative n means all of them.
func (s *Scheduler[L, J]) Expired(id L, n int) {
	l := s.lane(id)
	if l == nil {
		return
	}
	if n < 0 {
		n = l.asked
	}
	l.asked = max(l.asked-n, 0)
}

// Stale removes and returns jobs that have waited since before the given instant, so that another worker
// may have them. Suspects are kept: they wait for the running jobs only.
func (s *Scheduler[L, J]) Stale(before int64) []J {
	stale := s.drop(func(e entry[L, J]) bool { return e.arrived < before }, false)
	if len(stale) > 0 {
		// The running jobs take longer than expected: hold no reserve until jobs turn out to be quick.
		s.average = max(s.average, slowJob)
	}
	return stale
}

// Drain makes the scheduler start and accept nothing more and returns what was not started.
func (s *Scheduler[L, J]) Drain() []J {
	s.draining = true
	return s.drop(func(entry[L, J]) bool { return true }, true)
}

// drop removes and returns waiting jobs.
func (s *Scheduler[L, J]) drop(which func(entry[L, J]) bool, suspects bool) []J {
	var dropped []J
	keep := func(e entry[L, J]) bool {
		if which(e) {
			dropped = append(dropped, e.job)
			s.waiting--
			return true
		}
		return false
	}
	if suspects {
		s.suspects = slices.DeleteFunc(s.suspects, keep)
	}
	for _, l := range s.lanes {
		l.queue = slices.DeleteFunc(l.queue, keep)
	}
	return dropped
}

func (s *Scheduler[L, J]) lane(id L) *lane[L, J] {
	for _, l := range s.lanes {
		if l.id == id {
			return l
		}
	}
	return nil
}
