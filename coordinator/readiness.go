package coordinator

import (
	"sync"
	"time"
)

// readyFor is for how long the answer counts that generations can be made: where that changes meanwhile, making one
// fails, as it may after an answer of that very moment. A coordinator with batchers asks in every beat, so that none of
// them waits for it.
const readyFor = beat + beat/2

// readiness is what JetStream last said of whether generations can be made. Many batchers that begin at once ask once:
// a server answers the requests of all one after another. Its lock is not held during an inquiry.
type readiness struct {
	mu    sync.Mutex
	asked *inquiry // under way; nil for none
	next  *inquiry // begins when that has ended; nil for none
	until time.Time
}

// inquiry is one question, and its answer once it is done.
type inquiry struct {
	done chan struct{}
	err  error
}

// ready reports why no generation can be made now. With anew, an answer from before this call does not count: something
// was lost.
func (s *site) ready(anew bool) error { return s.readiness.ask(anew, s.canMake) }

// canMake reports why no generation can be made now: JetStream has no leader to make streams, or the job stream none to
// take jobs. A server that was restarted has lost the job stream together with the results, so it is made again.
func (s *site) canMake() error {
	ctx, cancel := s.call(askTimeout / 2)
	defer cancel()
	missing, err := s.answering(ctx)
	if err == nil && missing {
		err = s.ensure(ctx)
	}
	return err
}

// ask returns what question answers, for this call or for another one that suits this one, too.
func (r *readiness) ask(anew bool, question func() error) error {
	r.mu.Lock()
	before := r.asked
	switch {
	case !anew && time.Now().Before(r.until):
		r.mu.Unlock()
		return nil
	case !anew && before != nil:
		r.mu.Unlock()
		<-before.done
		return before.err
	case r.next != nil:
		joined := r.next
		r.mu.Unlock()
		<-joined.done
		return joined.err
	}
	own := &inquiry{done: make(chan struct{})}
	if before != nil {
		r.next = own
		r.mu.Unlock()
		<-before.done
		r.mu.Lock()
		r.next = nil
	}
	r.asked = own
	r.mu.Unlock()
	own.err = question()
	r.mu.Lock()
	if r.asked, r.until = nil, (time.Time{}); own.err == nil {
		r.until = time.Now().Add(readyFor)
	}
	r.mu.Unlock()
	close(own.done)
	return own.err
}

// forget has the next call ask: something was lost, or could not be made.
func (r *readiness) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = time.Time{}
}
