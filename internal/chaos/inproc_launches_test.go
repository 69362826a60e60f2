package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/schema"
)

// mostRanks is the largest world that takes a schedule over.
const mostRanks = 4

// launches is a trainer of several ranks, launched again and again: with as many of them, or with others. All ranks of
// a launch go one way, each at its own pace, and compare their rows of each batch with the reference.
type launches struct {
	w    *world
	rng  *rand.Rand // of what befalls all ranks
	each []*rand.Rand
	way  *way

	taken   int
	at      int // of the way: where all ranks are that are there
	calm    bool
	since   time.Time // that it is calm
	born    int       // launches
	began   time.Time // the present one
	id      string
	stormy  bool // there were faults since then
	retries int  // launches in a row that came no further

	mu    sync.Mutex
	ranks []*rank
	over  bool            // a rank met what ends the run for all
	goal  int             // of the stretch that is under way
	going context.Context // ends when all ranks that are there are at the goal
	there func()          // ends it
}

func newLaunches(w *world) *launches {
	l := &launches{w: w, rng: w.plan.rand(2), way: newWay(w, w.plan.rand(10)), calm: true, since: time.Now()}
	l.going, l.there = context.WithCancel(context.Background())
	for i := range mostRanks {
		l.each = append(l.each, w.plan.rand(20+uint64(i)))
	}
	return l
}

func (l *launches) count() int { return l.taken }

func (l *launches) quiet(calm bool) {
	if calm && !l.calm {
		l.since = time.Now()
	}
	l.calm, l.stormy = calm, l.stormy || !calm
	l.way.mu.Lock()
	defer l.way.mu.Unlock()
	l.way.calm = calm
}

func (l *launches) endpoints() (all []*endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.ranks {
		all = append(all, r.endpoint())
	}
	return all
}

func (l *launches) status(ctx context.Context) (schema.Status, error) {
	r := l.ranks[0]
	if err := r.open(); err != nil {
		return schema.Status{}, err
	}
	return r.b.Status(ctx)
}

// open launches the first world.
func (l *launches) open(takeOver bool) error {
	l.launch(l.w.plan.Ranks, "", takeOver)
	return nil
}

// launch begins a world of so many ranks, each of which opens the batcher when its time comes. The ID is a new one if
// it is empty.
func (l *launches) launch(size int, id string, takeOver bool) {
	l.born++
	if id == "" {
		id = fmt.Sprintf("launch-%d", l.born)
	}
	l.id, l.began, l.stormy = id, time.Now(), !l.calm
	l.way.restart(l.at, size)
	l.w.note("ranks: %d are launched as %s at %d, by take-over %v", size, id, l.at, takeOver)
	ranks := make([]*rank, size)
	for i := range ranks {
		ranks[i] = &rank{
			l: l, number: i, rng: l.each[i], at: l.at, takeOver: takeOver, net: l.w.endpoint("client"),
			world: client.World{ID: id, Rank: i, Size: size, Whole: []string{"y"}, Patience: l.w.plan.Patience},
		}
		ranks[i].oracle = newOracle(l.w.plan.Params, schema.State{})
		ranks[i].oracle.Cut = cut(i, size)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ranks, l.over = ranks, false
}

// all calls f for all ranks at once, and returns their errors.
func all(ranks []*rank, f func(*rank) error) []error {
	errs := make([]error, len(ranks))
	var running sync.WaitGroup
	for i, r := range ranks {
		running.Go(func() { errs[i] = f(r) })
	}
	running.Wait()
	return errs
}

// close ends the processes of all ranks as their own code would.
func (l *launches) close() { _ = l.leave() }

// leave is close, and reports whether all ranks were there and left.
func (l *launches) leave() bool {
	return !slices.ContainsFunc(all(l.ranks, (*rank).close), func(err error) bool { return err != nil })
}

// relaunch ends the processes of all ranks as kill -9 would, and launches them anew from where the slowest was, or from
// a checkpoint a little before it.
func (l *launches) relaunch(size int) error {
	all(l.ranks, func(r *rank) error {
		r.crash()
		return nil
	})
	if back := l.rng.IntN(3); !l.calm && back <= l.at {
		l.taken -= l.way.batches(l.at-back, l.at)
		l.at -= back
	}
	l.w.count("ranks launched again")
	if size != len(l.ranks) {
		l.w.count("another number of ranks")
	}
	l.launch(size, "", l.rng.IntN(4) > 0)
	return nil
}

// run takes n batches.
func (l *launches) run(n int) error {
	for end := l.taken + n; l.taken < end; {
		stretch := end - l.taken
		if !l.calm {
			if err := l.whim(); err != nil {
				return err
			}
			stretch = min(end-l.taken, 1+int(l.rng.ExpFloat64()*30))
		}
		if err := l.stretch(stretch); err != nil {
			return fmt.Errorf("after %d batches, at %d: %w", l.taken, l.at, err)
		}
	}
	return nil
}

// stretch has all ranks take n batches, or fail for a reason that a fault explains.
func (l *launches) stretch(n int) error {
	to, err := l.way.reach(l.at, n)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.goal = to
	l.mu.Unlock()
	errs := all(l.ranks, (*rank).follow)
	l.mu.Lock()
	l.going, l.there = context.WithCancel(context.Background()) // what is asked from now on is asked for all
	l.mu.Unlock()
	at, left, failed := l.slowest(), false, false
	for _, r := range l.ranks {
		left = left || r.left
	}
	lost := slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, client.ErrRankLost) && l.explains(err) }) ||
		l.stormy && l.w.plan.Patience < time.Minute && slices.ContainsFunc(l.ranks, func(r *rank) bool { return r.unbegun })
	for i, err := range errs {
		if err == nil {
			continue
		}
		failed = true
		// In a run that failed, a rank that comes asks to begin, and one that has not heard of it to move.
		apart := lost && errors.Is(err, client.ErrDiverged)
		if !apart && !l.explains(err) {
			return fmt.Errorf("rank %d: %w", i, err)
		}
	}
	l.retries++
	if at > l.at {
		l.retries = 0
	}
	l.taken += l.way.batches(l.at, at)
	l.at = at
	switch {
	case l.retries > mostTries:
		return &hang{errors.New("no launch comes any further")}
	case failed && l.rng.IntN(3) == 0:
		return l.relaunch(1 + l.rng.IntN(mostRanks))
	case failed || left:
		return l.relaunch(len(l.ranks))
	}
	return nil
}

// slowest is how far all ranks are that have not left.
func (l *launches) slowest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := -1
	for _, r := range l.ranks {
		if !r.left && (at < 0 || r.at < at) {
			at = r.at
		}
	}
	return max(at, l.at) // where all have left
}

// arrive ends the stretch when all ranks that go on are at the goal. l.mu is held.
func (l *launches) arrive() {
	for _, r := range l.ranks {
		if !r.left && !r.out && r.at < l.goal {
			return
		}
	}
	l.there()
}

// explains reports whether faults before it explain an error that ends a run.
func (l *launches) explains(err error) bool {
	recordLost := l.w.injected(recordDeleted, recordRolledBack, bucketDeleted)
	switch {
	case errors.Is(err, errGivenUp):
		return true
	case errors.Is(err, client.ErrRankLost): // of silence before it was calm, which is counted on for a while
		return l.stormy && (!l.calm || time.Since(l.since) < recovery)
	case errors.Is(err, client.ErrNondeterministic):
		return l.w.injected(foreignResult)
	case errors.Is(err, client.ErrSuperseded), errors.Is(err, client.ErrDiverged), errors.Is(err, client.ErrStopped):
		return recordLost // the ranks are where the record that came back, or was made anew, has none of them
	}
	return false
}

// whim is what befalls all ranks now and then.
func (l *launches) whim() error {
	switch l.rng.IntN(16) {
	case 0:
		l.w.count("stop and start")
		return l.stopAndStart()
	case 1:
		l.w.count("close and open")
		l.w.note("ranks: leave")
		left, id := l.leave(), "" // the world of one that did not leave is not over, and the others may not come back to it
		if l.rng.IntN(2) == 0 && left && !slices.ContainsFunc(l.ranks, func(r *rank) bool { return r.at != l.at }) {
			id = l.id // which nothing forbids, though it is no good idea
		}
		l.launch(len(l.ranks), id, false)
	case 2, 3:
		l.w.count("all ranks killed")
		return l.relaunch(1 + l.rng.IntN(mostRanks))
	case 4, 5:
		return l.usurp()
	}
	return nil
}

// usurp lets another world take the batcher over while the first goes on: what its ranks take until they hear of it
// must be right, and they must hear of it.
func (l *launches) usurp() error {
	l.w.count("take-over by another trainer")
	first := l.ranks
	l.launch(1+l.rng.IntN(mostRanks), "", true)
	for _, err := range all(l.ranks, (*rank).open) {
		if err != nil {
			return err
		}
	}
	l.w.note("ranks: %s took over", l.id)
	for _, err := range all(first, (*rank).displaced) {
		if err != nil {
			return err
		}
	}
	return nil
}

// stop has one rank stop the run for all. The error that the run had is reported, and may be one that a fault explains.
func (l *launches) stop() error {
	r := l.ranks[l.rng.IntN(len(l.ranks))]
	if err := r.open(); err != nil {
		return err
	}
	err := r.within(r.b.Stop)
	if err != nil && l.explains(err) {
		l.w.note("ranks: stopped after: %v", err)
		if errors.Is(err, client.ErrSuperseded) {
			if err = l.relaunch(len(l.ranks)); err == nil {
				err = l.stop()
			}
			return err
		}
		return r.within(r.b.Stop) // that was its error: it is stopped
	}
	return err
}

// stopAndStart has one rank stop the run, of which the others must hear, and all ranks start it once more: each goes on
// to take when it has, since the others' Start may wait for that if the record is lost in between.
func (l *launches) stopAndStart() error {
	if err := l.stop(); err != nil {
		return err
	}
	p, err := l.way.at(l.at)
	if err != nil {
		return err
	}
	failed := false
	for _, err := range all(l.ranks, (*rank).hearStop) {
		if err != nil && !l.explains(err) {
			return err
		}
		failed = failed || err != nil
	}
	if failed {
		return l.relaunch(len(l.ranks))
	}
	for _, r := range l.ranks {
		r.at, r.seq, r.atEnd, r.starts = l.at, 0, false, &p.from
	}
	return nil
}
