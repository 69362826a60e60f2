package client

import "time"

// The head of the line straggles when later batches have been here for longer than a job takes by far. Being behind
// others is what tells a straggler from a queue that is long, an iterator or a store that is slow, and workers that are
// few: then the later ones are not here either.

// overtake notes that the record of seq arrived. Called with mu held.
func (r *reader) overtake(seq uint64, now time.Time) {
	if seq > r.buf.Head() && r.overtaken.IsZero() {
		r.overtaken = now
		r.signal() // Take waits for something else now
	}
}

// uncover notes that there is a new head. Called with mu held.
func (r *reader) uncover() {
	r.overtaken = time.Time{}
	if r.buf.Len() == 0 {
		return
	}
	r.overtaken = time.Now()
	head := r.buf.Head()
	if r.straggler == 0 || head-r.straggler > uint64(r.window) || !r.buf.Wants(head) {
		return
	}
	// What one worker holds up is often several batches. They were overtaken while the one before them was the head, and
	// their time began then.
	for e := range r.buf.All() {
		if e.Value.came.Before(r.overtaken) {
			r.overtaken = e.Value.came
		}
	}
}

// straggleAt is when the head becomes a straggler, zero for never, or for one that the owner was told of. Called with mu
// held.
func (r *reader) straggleAt() time.Time {
	patience, known := r.pace.Patience()
	if !known || r.overtaken.IsZero() || r.straggler == r.buf.Head() || !r.buf.Wants(r.buf.Head()) {
		return time.Time{}
	}
	return r.overtaken.Add(time.Duration(patience))
}

// straggles reports whether the head straggles. Called with mu held.
func (r *reader) straggles() bool {
	patience, known := r.pace.Patience()
	head := r.buf.Head()
	if !known || !r.started || r.eof || r.overtaken.IsZero() || !r.buf.Wants(head) || time.Since(r.overtaken) < time.Duration(patience) {
		return false
	}
	r.straggler = head
	return true
}

// sayStraggler tells the owner, who may have another worker make the head. The next beats tell it again.
func (r *reader) sayStraggler() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.straggles() {
		r.publishCredit()
	}
}
