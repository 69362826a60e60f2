// Package life is what a trainer's handle on a batcher is in: idle, seated, doubting, ended or closed. It is a plain
// state machine: no clock, no goroutine, no NATS.
//
//	idle ──Sit──▶ seated ──Suspect──▶ doubting       any but closed ──End, Stop──▶ ended ──Revive──▶ idle
//	                 ▲ └──────Sit────────┘           ended with io.EOF ──Sit──▶ seated
//	                 └───────Settle──────┘           any ──Close──▶ closed
package life

import (
	"io"

	"github.com/jetbatch/jetbatch/schema"
)

// State is one of the five.
type State uint8

// The states.
const (
	Idle     State = iota // no run is read: the batcher is held, and was not started by this handle
	Seated                // a run is read
	Doubting              // it is read no further until the seat was asked for once more
	Ended                 // by an error that stays, or by the end of the data
	Closed                // for good
)

func (s State) String() string {
	return [...]string{"idle", "seated", "doubting", "ended", "closed"}[s]
}

// Weight says what settles a doubt. A heavier doubt takes the place of a lighter one.
type Weight uint8

// The weights, from the lightest on.
const (
	Silent Weight = iota + 1 // the owner does not answer: the arrival of the head settles it, too
	Moved                    // the owner speaks of another seat: a look-up settles it
	Stored                   // what is stored contradicts itself: a look-up may find the same once more
)

// Doubt is why a new seat is needed. The zero Doubt is none.
type Doubt struct {
	Why    string
	Weight Weight
}

// Life is the state of one handle. The zero value is idle. Not safe for concurrent use.
type Life struct {
	state   State
	doubt   Doubt         // while doubting
	err     error         // once ended
	fault   *schema.Fault // of the job that ended the run, if one did
	repairs int           // since the last batch
	damages int           // repairs for what is stored that were given a seat
}

// State returns the state.
func (l *Life) State() State { return l.state }

// Begun reports whether the run that was begun is this handle's still: it is read, or was read to the end of its data.
func (l *Life) Begun() bool { return l.state == Seated || l.state == Doubting || l.AtEnd() }

// AtEnd reports whether the data ended.
func (l *Life) AtEnd() bool {
	return l.state == Ended && l.err == io.EOF //nolint:errorlint // exactly io.EOF is the end: a lost connection wraps it
}

// Err returns what ended the run: io.EOF at the end of the data, nil while nothing did.
func (l *Life) Err() error { return l.err }

// Fault returns the fault of the job that ended the run, nil if none did.
func (l *Life) Fault() *schema.Fault { return l.fault }

// Doubt returns the doubt, the zero one unless there is one.
func (l *Life) Doubt() Doubt { return l.doubt }

// Sit takes a seat, which ends all doubt, and reports whether it did: not after an error, nor when closed.
func (l *Life) Sit() bool {
	if l.state == Closed || l.state == Ended && !l.AtEnd() {
		return false
	}
	if l.doubt.Weight == Stored {
		l.damages++ // now: a request that its caller gave up has looked nothing up
	}
	l.state, l.doubt, l.err = Seated, Doubt{}, nil
	return true
}

// Suspect raises a doubt about a run that is read, and reports whether that is news.
func (l *Life) Suspect(d Doubt) bool {
	if l.state != Seated && l.state != Doubting || d.Weight <= l.doubt.Weight {
		return false
	}
	l.state, l.doubt = Doubting, d
	return true
}

// Settle ends a doubt of that weight. A heavier one, raised meanwhile, stays.
func (l *Life) Settle(w Weight) {
	if l.state == Doubting && l.doubt.Weight <= w {
		l.state, l.doubt = Seated, Doubt{}
	}
}

// Repair counts a request for a seat because of the doubt. It returns how many repairs there were since the last batch,
// and how many of the repairs were about what is stored: this one, and those that were given a seat.
func (l *Life) Repair() (repairs, damages int) {
	l.repairs++
	damages = l.damages
	if l.doubt.Weight == Stored {
		damages++
	}
	return l.repairs, damages
}

// Progress notes that a batch was taken.
func (l *Life) Progress() { l.repairs, l.damages = 0, 0 }

// End ends the run, with the fault of its job if one is to blame, and reports whether that is news: the first error
// stays. io.EOF is the end of the data, which an error may follow.
func (l *Life) End(err error, fault *schema.Fault) bool {
	if l.state == Closed || l.state == Ended && !l.AtEnd() {
		return false
	}
	l.end(err, fault)
	return true
}

// Stop ends the run as its trainer wishes, in the place of whatever ended it before.
func (l *Life) Stop(err error) {
	if l.state != Closed {
		l.end(err, nil)
	}
}

func (l *Life) end(err error, fault *schema.Fault) {
	*l = Life{state: Ended, err: err, fault: fault}
}

// Revive makes a handle idle whose run ended, so that it can be started, and reports whether it did.
func (l *Life) Revive() bool {
	if l.state != Ended {
		return false
	}
	*l = Life{}
	return true
}

// Close ends the handle, and reports whether that is news. What ended the run is still known.
func (l *Life) Close() bool {
	if l.state == Closed {
		return false
	}
	l.state, l.doubt = Closed, Doubt{}
	return true
}
