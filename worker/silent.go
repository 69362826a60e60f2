package worker

import (
	"maps"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/worker/internal/judge"
)

// Pauses in which no record of a silent lane is read, after one could not be read.
const (
	firstAskPause = time.Second
	maxAskPause   = 8 * time.Second
)

// tick asks again where requests were refused or the server went silent, and reads the records of lanes that are not
// announced any more: their generations may be over.
func (s *lanes) tick() {
	now, connected := s.now(), s.puller.nc.IsConnected()
	s.mu.Lock()
	draining, silent := s.draining, slices.Collect(maps.Values(s.done))
	maps.DeleteFunc(s.resting, func(_ string, r resting) bool { return now > r.until })
	s.mu.Unlock()
	for _, l := range s.all() {
		if !draining && s.puller.renew(l) {
			s.look(l.batcher, "")
		}
		silent = append(silent, l)
		if l.pauses()&leftAlone != 0 && !s.held.any(l) && !s.shelf.any(l) {
			s.close(l, errLeft)
		}
	}
	silent = slices.DeleteFunc(silent, func(l *lane) bool { return !l.silent(now) })
	if connected && len(silent) > 0 {
		s.ask(silent)
	}
}

// ask reads the records of lanes that are not announced any more, one after another, those with jobs here first, until
// one cannot be read. Where an owner, or a server, is late with all that it has to say, all workers miss all of their
// lanes at once: were all the records asked for at once, the answers would come later still.
func (s *lanes) ask(silent []*lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asking || s.now() < s.askAt {
		return // what is left is silent at a later tick, too
	}
	s.asking = s.tasks.run(func() {
		first, others := split(silent, s.held.any)
		read := true
		for _, l := range slices.Concat(first, others) {
			if !read || s.hard.Err() != nil {
				break
			}
			if l.looksDue(s.now(), judge.LookAfter) {
				if looking := s.looker(l.batcher, ""); looking != nil {
					read = looking()
				}
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.asking = false; read {
			s.askPause = 0
			return
		}
		s.askPause = min(max(2*s.askPause, firstAskPause), maxAskPause)
		s.askAt = s.now() + int64(s.askPause)
	})
}

// split returns the lanes for which which says true, and the others.
func split(lanes []*lane, which func(*lane) bool) (these, others []*lane) {
	for _, l := range lanes {
		if which(l) {
			these = append(these, l)
		} else {
			others = append(others, l)
		}
	}
	return these, others
}
