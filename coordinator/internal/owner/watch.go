package owner

import "time"

// A store is there, silent, forsaken or lost. One server has it in memory, and making the results again takes less time
// than waiting for a server that may have lost them when it is back: a store that has been silent for longer than the
// patience with it is forsaken, and lost if it does not answer while the bucket and JetStream do. A wrong guess costs
// work and nothing else.

// storePatience is for how long a store may be silent: its server may be paused, or far away.
const storePatience = 3 * time.Second

// watch is the watch over the store of results of the record's generation.
type watch struct {
	out      *effects
	ledger   *ledger
	looking  [purposes]bool // Looks under way
	probing  bool
	silent   time.Time // since when the store has not answered; zero when it has
	forsaken string    // the generation whose store was silent for too long
	hindered string    // why it could not be looked at
}

// reset begins the watch over another store.
func (w *watch) reset() {
	w.silent, w.forsaken, w.looking = time.Time{}, "", [purposes]bool{}
}

// isSilent reports whether the store is known not to answer.
func (w *watch) isSilent() bool { return !w.silent.IsZero() }

// isForsaken reports whether the store was silent for too long.
func (w *watch) isForsaken() bool { return w.forsaken != "" && w.forsaken == w.ledger.rec.Gen }

// look has the store looked at, and reports whether that begins now: a Look for the same may be under way, and a store
// that is forsaken is looked at for the last time only.
func (w *watch) look(purpose Purpose) bool {
	asked := purpose
	if purpose == ForRepair && w.isForsaken() {
		purpose = ForLast
	}
	if w.looking[purpose] {
		return false
	}
	w.looking[purpose] = true
	w.out.emit(Look{w.ledger.rec.Gen, purpose})
	return purpose == asked
}

// looked takes what was found out about the store, which is another one's where the generation is not the record's.
func (w *watch) looked(now time.Time, e Looked) {
	w.looking[e.For] = false
	switch e.Store {
	case StoreThere:
		w.silent, w.forsaken, w.hindered = time.Time{}, "", ""
	case StoreLost:
		w.silent = time.Time{}
	case StoreSilent, StoreAbsent:
		w.mute(e.Asked)
		patience := storePatience
		if e.Store == StoreAbsent { // its server is not there, as every other server says
			patience = Beat
		}
		if e.Connected && now.Sub(w.silent) > patience && !w.isForsaken() {
			w.forsaken = e.Gen
			w.look(ForLast)
		}
		fallthrough
	case StoreUnsure:
		if e.Reason != w.hindered {
			w.hindered = e.Reason
			w.out.retry("store of results not looked at yet", "gen", e.Gen, "error", e.Reason)
		}
	}
}

// mute notes that the store did not answer what it was asked at that moment.
func (w *watch) mute(asked time.Time) {
	if w.silent.IsZero() {
		w.silent = asked
	}
}

// feel asks a store that is not known to be silent for a sign of life: the reader or worker that would report its
// silence may be cut off by the same fault.
func (w *watch) feel() {
	if !w.probing && !w.isSilent() {
		w.probing = true
		w.out.emit(Probe{w.ledger.rec.Gen})
	}
}

// probed ends a Probe, and reports whether there was no sign of life.
func (w *watch) probed(e Probed) bool {
	w.probing = false
	if e.Gen != w.ledger.rec.Gen || e.Alive {
		return false
	}
	w.mute(e.Asked)
	return true
}
