package client

// ask notes the request for a move that is under way, for the owner to hear; empty for none any more.
func (l *line) ask(request string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asking = request
}

// isStranded reports whether the owner has begun the seat's generation again. The channel that it returns is closed
// when the answer may have changed.
func (l *line) isStranded() (bool, <-chan struct{}) {
	changed := l.changed.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	doubt, err := l.run.doubting()
	return l.stranded && (doubt && err == nil || isEnd(err)), changed // at the end of the data there is no doubt
}

// isMoved reports whether the owner has given this rank another seat since it began the generation again. The channel
// that it returns is closed when the answer may have changed.
func (l *line) isMoved() (bool, <-chan struct{}) {
	changed := l.changed.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.stranded, changed
}

// seated is the number of the rank's seat, as far as is known here; 0 without a world.
func (l *line) seated() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cfg.World == nil {
		return 0
	}
	return l.seat.number
}
