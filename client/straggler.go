package client

import (
	"time"

	"github.com/jetbatch/jetbatch/client/internal/pace"
	"github.com/jetbatch/jetbatch/client/internal/reorder"
)

// straggler watches the head of the line. It straggles when later batches have been here for longer than a job takes by
// far. Being behind others is what tells a straggler from a queue that is long, an iterator or a store that is slow,
// and workers that are few: then the later ones are not here either. Not safe for concurrent use.
type straggler struct {
	pace      pace.Pace
	overtaken time.Time // since when something behind the head is here; zero when nothing is
	told      uint64    // the head that the owner was told of last
}

// While too few batches were taken to say what a job takes, the head straggles when it takes longer by far than those
// behind it did: a machine that is stuck may have the first jobs of a run.
const (
	early       = 5 * time.Second
	earlyFactor = 10
)

// patience is for how long the head may be behind others.
func (s *straggler) patience(line *reorder.Buffer[arrival]) time.Duration {
	if ns, known := s.pace.Patience(); known {
		return time.Duration(ns)
	}
	var longest time.Duration
	for e := range line.All() {
		longest = max(longest, e.Result.Materialize)
	}
	return max(earlyFactor*longest, early)
}

// reset begins with another seat.
func (s *straggler) reset() { s.told, s.overtaken = 0, time.Time{} }

// arrive notes that the record of seq arrived, and reports whether the head is overtaken by it.
func (s *straggler) arrive(line *reorder.Buffer[arrival], seq uint64, now time.Time) bool {
	if seq <= line.Head() || !s.overtaken.IsZero() {
		return false
	}
	s.overtaken = now
	return true
}

// uncover notes that there is a new head.
func (s *straggler) uncover(line *reorder.Buffer[arrival], window int, now time.Time) {
	s.overtaken = time.Time{}
	if line.Len() == 0 {
		return
	}
	s.overtaken = now
	head := line.Head()
	if s.told == 0 || head-s.told > uint64(window) || !line.Wants(head) {
		return
	}
	// What one worker holds up is often several batches. They were overtaken while the one before them was the head, and
	// their time began then.
	for e := range line.All() {
		if e.Value.came.Before(s.overtaken) {
			s.overtaken = e.Value.came
		}
	}
}

// at is when the head becomes a straggler, zero for never, or for one that the owner was told of.
func (s *straggler) at(line *reorder.Buffer[arrival]) time.Time {
	if s.overtaken.IsZero() || s.told == line.Head() || !line.Wants(line.Head()) {
		return time.Time{}
	}
	return s.overtaken.Add(s.patience(line))
}

// straggles reports whether the owner is to be told that the head straggles, so that it may have another worker make
// it.
func (s *straggler) straggles(line *reorder.Buffer[arrival], now time.Time) bool {
	if s.overtaken.IsZero() || !line.Wants(line.Head()) || now.Sub(s.overtaken) < s.patience(line) {
		return false
	}
	s.told = line.Head()
	return true
}
