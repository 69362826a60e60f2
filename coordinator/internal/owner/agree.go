package owner

import (
	"bytes"
	"time"
)

// asks are the moves that the ranks of a world ask for, by rank; nil for none. A move to another state takes the old
// place from under all of them, so it needs them all: each must ask for the same state at the same time. With the run,
// what was asked for in it is over.
type asks []*ask

type ask struct {
	reader    string
	request   string
	came      time.Time
	state     []byte
	there     bool // it is no move: the rank is at that state, or may be, and nothing is known of it there
	early     bool // what it is shows when the others have said where they are: until then it goes with no move
	live      bool // the rank waits for it, as far as is known
	named     bool // a credit has said so
	withdrawn bool // a credit that came after that one did not
}

// since is how long ago the request came first; 0 where there is none.
func (k *ask) since(now time.Time) time.Duration {
	if k == nil {
		return 0
	}
	return now.Sub(k.came)
}

// ask takes a request, or its repetition, and reports whether it counts: one that was withdrawn is a late duplicate,
// and so is one before the present one. A rank that asks where it is, and has done so before, waits since then.
func (a asks) ask(now time.Time, rank int, reader, request string, state []byte, there bool) bool {
	switch k := a[rank]; {
	case k != nil && k.request == request:
		k.live, k.state, k.there = !k.withdrawn, state, there
		return k.live
	case k != nil && k.reader == reader && request < k.request:
		return false
	}
	came := now
	if k := a[rank]; k != nil && k.reader == reader && k.there && there && bytes.Equal(k.state, state) {
		came = k.came
	}
	a[rank] = &ask{reader: reader, request: request, came: came, state: state, there: there, live: true}
	return true
}

// hear takes a credit's word on which move its rank waits for. A credit that was sent before the request and comes
// after it only suspends it.
func (a asks) hear(rank int, asking string) {
	switch k := a[rank]; {
	case k == nil:
	case k.request == asking:
		k.live, k.named = !k.withdrawn, true
	default:
		k.live, k.withdrawn = false, k.withdrawn || k.named
	}
}

// differs returns a rank that waits for another move than this one does. A repair is none, and may be a late duplicate.
func (a asks) differs(rank int) (other int, state []byte, ok bool) {
	for other, k := range a {
		if k != nil && k.live && !k.there && !a[rank].there && other != rank && !bytes.Equal(k.state, a[rank].state) {
			return other, k.state, true
		}
	}
	return 0, nil, false
}

// missing returns those of the ranks that do not ask for a state.
func (a asks) missing(ranks []int, state []byte) (missing []int) {
	for _, rank := range ranks {
		if k := a[rank]; k == nil || !k.live || k.early || !bytes.Equal(k.state, state) {
			missing = append(missing, rank)
		}
	}
	return missing
}
