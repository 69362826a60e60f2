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

// seated is the number of the seat, as far as is known here, and how far a reader of its own has come with it. Of
// several readers each has a place, which credits say.
func (l *line) seated() (seat, taken uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.cfg.World != nil:
		return l.seat.number, 0
	case l.cfg.Reader != "":
		return 0, 0
	}
	return l.seat.number, l.taken
}
