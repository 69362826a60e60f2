package owner

import (
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// A store is there, silent, forsaken or lost. One server has it in memory, and making the results again takes less time
// than waiting for a server that may have lost them when it is back: a store that has been silent for longer than the
// patience with it is forsaken, and lost if it does not answer while the bucket and JetStream do. A wrong guess costs
// work and nothing else.

// Times of the store.
const (
	storePatience  = 3 * time.Second // with one that is silent: its server may be paused, or far away
	absentPatience = time.Second     // with one whose server is not there, as every other server says

	// Bounds of the pause between two looks at a late head.
	repairMin = 500 * time.Millisecond
	repairMax = 10 * time.Second

	// sweepEvery is how often results are looked for that came after they were dropped.
	sweepEvery = 30 * time.Second
)

// look has the store looked at, unless a Look for the same is under way.
func (o *Owner) look(now time.Time, purpose Purpose) {
	if purpose == ForRepair && o.forsaken == o.rec.Gen && o.forsaken != "" {
		purpose = ForLast
	}
	if !o.looking[purpose] {
		o.looking[purpose] = true
		if purpose == ForRepair && o.gen != nil {
			o.gen.listed = o.gen.Fed()
		}
		o.emit(Look{o.rec.Gen, purpose})
	}
}

// looked goes on when a store has been looked at.
func (o *Owner) looked(now time.Time, e Looked) {
	if e.Gen != o.rec.Gen {
		return
	}
	o.looking[e.For] = false
	switch e.Store {
	case StoreThere:
		o.silent, o.forsaken = time.Time{}, ""
	case StoreLost:
		o.silent = time.Time{}
		o.remakeAll(now)
		return
	case StoreSilent, StoreAbsent:
		o.mute(e.Asked)
		patience := storePatience
		if e.Store == StoreAbsent {
			patience = absentPatience
		}
		if e.Connected && now.Sub(o.silent) > patience && o.forsaken != o.rec.Gen {
			o.forsaken = o.rec.Gen
			o.look(now, ForLast)
		}
		fallthrough
	case StoreUnsure:
		if e.Reason != o.hindered {
			o.hindered = e.Reason
			o.warn("store of results not looked at yet", "gen", o.rec.Gen, "error", e.Reason)
		}
		return
	}
	o.hindered = ""
	switch e.For {
	case ForResume:
		o.resumeFrom(now, e.Done)
	case ForRepair:
		o.reissue(e.Done, e.Queued)
	case ForRoom:
		o.makeRoom(now, e.Done)
	case ForSweep:
		o.sweepUp(e.Done)
	case ForLast:
		o.retryAt = now
	}
}

// mute notes that the store did not answer what it was asked at that moment.
func (o *Owner) mute(asked time.Time) {
	if o.silent.IsZero() {
		o.silent = asked
	}
}

// feel asks the store for a sign of life when the trainer waits and the store is not known to be silent: the reader or
// worker that would report it may be cut off by the same fault.
func (o *Owner) feel(now time.Time) {
	if g := o.gen; o.probing || !o.silent.IsZero() || g.Fed() == g.Taken() || now.Sub(g.moved) < Beat {
		return
	}
	o.probing = true
	o.emit(Probe{o.rec.Gen})
}

func (o *Owner) probed(now time.Time, e Probed) {
	o.probing = false
	if e.Gen == o.rec.Gen && !e.Alive {
		o.mute(e.Asked)
		if o.gen != nil {
			o.look(now, ForRepair)
		}
	}
}

// repair looks after a late head: a job without a result is published again, which changes nothing while it is queued.
// Looks at the same head grow rarer.
func (o *Owner) repair(now time.Time) {
	g := o.gen
	if g == nil || now.Sub(g.looked) < g.pause {
		return
	}
	g.pause = min(max(2*g.pause, repairMin), repairMax)
	g.looked = now
	o.look(now, ForRepair)
}

// repairNow is repair without a pause.
func (o *Owner) repairNow(now time.Time) {
	if g := o.gen; g != nil {
		g.looked, g.pause = time.Time{}, 0
		o.repair(now)
	}
}

// reissue publishes again what is neither done nor taken, as far as the window goes. Jobs that were fed after the look
// began are in neither list, and quick workers may have made them since: those stay owed that were.
func (o *Owner) reissue(done, queued map[uint64]bool) {
	g := o.gen
	if g == nil {
		return
	}
	if g.cancels > 0 {
		g.relook = true
		return
	}
	g.owed = g.Missing(func(seq uint64) bool {
		if seq > g.listed {
			return !slices.Contains(g.owed, seq)
		}
		return done[seq] || queued[seq]
	})
	o.payOwed()
	if v := o.rec.Verdict; v != nil && g.Want() == 0 && v.Seq == g.Fed()+1 && !done[v.Seq] {
		o.storeVerdict()
	}
	o.announce()
}

// reported takes a worker's word about the store: that it is full, gone, or holds another result than its own.
func (o *Owner) reported(now time.Time, report *wire.Report) {
	if report.Gen != o.rec.Gen || o.gen == nil {
		return
	}
	switch report.Fault.Code {
	case schema.CodeNondeterministic:
		o.fail(report.Fault)
	case schema.CodeStoreFull:
		o.crowded(now)
	case schema.CodeStoreGone:
		if o.silent.IsZero() { // else it is looked for anyway
			o.look(now, ForRepair)
		}
	}
}

// remake has the batches made again whose payloads were lost with their workers. The commit record goes first, and only
// that of the lost attempt: another attempt's may have taken its place since.
func (o *Owner) remake(lost []wire.Lost) {
	g := o.gen
	if !o.silent.IsZero() {
		return // the reader says it again
	}
	var remove []wire.Lost
	for _, l := range lost {
		if _, ok := g.Entry(l.Seq); ok && l.Seq > g.Taken() && !g.lost[l.Seq] {
			g.lost[l.Seq] = true
			remove = append(remove, l)
		}
	}
	if len(remove) > 0 {
		o.emit(Remove{o.rec.Gen, remove})
	}
}

func (o *Owner) removed(e Removed) {
	g := o.gen
	if g == nil || e.Gen != o.rec.Gen {
		return
	}
	for _, l := range e.Removed {
		o.warn("payload was lost with its worker; batch is made again", "gen", o.rec.Gen, "seq", l.Seq, "attempt", l.Attempt)
		delete(g.done, l.Seq)
		o.owe(l.Seq)
	}
	clear(g.lost) // what was not removed is named again
}

// crowded begins to make room when the server refuses a job or a result for lack of it. Of many reports at once one
// counts.
func (o *Owner) crowded(now time.Time) {
	g := o.gen
	if g == nil || now.Sub(g.roomed) < repairMin {
		return
	}
	g.roomed = now
	if floor := min(g.Taken(), g.Fed()); floor > g.Floor() {
		o.save, o.saveTo = true, floor
	}
	o.look(now, ForRoom)
}

// makeRoom drops the highest results and halves the window, unless the trainer makes room by taking: no bound may be
// held by other sequence numbers alone. What is dropped, and the jobs that would fill the room again, are published
// again when the window opens.
func (o *Owner) makeRoom(now time.Time, done map[uint64]bool) {
	g := o.gen
	if g == nil || done[g.Taken()+1] {
		return
	}
	g.shrunk = max(1, g.Limit()/2)
	g.SetLimit(g.shrunk)
	dropped, keep := 0, g.Taken()+uint64(g.shrunk)
	o.emit(Forget{Keep: keep})
	o.cancel(keep+1, g.Fed()+1)
	for seq := g.Fed(); seq > keep; seq-- {
		if done[seq] {
			o.emit(Purge{o.rec.Gen, seq - 1, seq})
			delete(done, seq)
			dropped++
		}
	}
	g.owed = slices.DeleteFunc(g.Missing(func(seq uint64) bool { return done[seq] }), func(seq uint64) bool { return seq <= keep })
	o.warn("the server's store is full; window halved", "window", g.shrunk, "dropped", dropped)
}

// sweep looks for results below the floor, which workers stored late. No reader wants them, but a store that keeps them
// is not bounded.
func (o *Owner) sweep(now time.Time) {
	g := o.gen
	if g.Floor() == 0 || now.Sub(g.swept) < sweepEvery || !o.silent.IsZero() {
		return
	}
	g.swept = now
	o.look(now, ForSweep)
}

func (o *Owner) sweepUp(done map[uint64]bool) {
	g := o.gen
	if g == nil {
		return
	}
	var late []uint64
	for seq := range done {
		if seq <= g.Floor() {
			late = append(late, seq)
		}
	}
	slices.Sort(late)
	for _, seq := range late {
		o.emit(Purge{o.rec.Gen, seq - 1, seq})
	}
}
