package coordinator

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/coordinator/internal/follow"
	"github.com/jetbatch/jetbatch/internal/wire"
)

const (
	followPause  = 50 * time.Millisecond // between two choices, however much changes
	followQuiet  = 2*beat + beat/5       // a worker that is silent for so long is not counted on
	followList   = 2048                  // lanes in one message; a worker that would need more hears of each lane by itself
	beginsFor    = 10 * beat             // the longest that others leave room for a first batch
	announceRest = beat / 2              // for which an unchanged lane is not announced again
)

// follows tells workers which lanes to follow. While a lane is followed by all, it is announced to all, as a subject of
// its own; a lane with few followers is told to these alone. The choice is made from what workers and owners last said,
// by follow.Choose, and sent when it changed and every beat. Its lock guards the lanes.
type follows struct {
	*site
	fleet *fleet
	kick  chan struct{} // holds one hint that something changed

	mu    sync.Mutex
	lanes map[string]*offer // by batcher
	crew  int               // live workers at the last choice

	// Of the goroutine that chooses.
	told map[string][]string // by worker, the lanes of the last list
}

// offer is a lane as its owner last announced it.
type offer struct {
	lane  wire.Lane
	place int // a number that no other lane here has
	offered
	few  bool
	said time.Time // when all workers were told
	from time.Time // when it was first offered
}

// offered is what an owner says of a lane that no worker hears.
type offered struct {
	run    *wire.Run
	slots  int // that it can use
	late   bool
	tookUp bool // workers may follow it for another coordinator
	unseen bool // its trainer has had no batch yet
}

func newFollows(s *site, fleet *fleet) *follows {
	return &follows{
		site: s, fleet: fleet, kick: make(chan struct{}, 1),
		lanes: make(map[string]*offer), told: make(map[string][]string),
	}
}

func (f *follows) changed() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// offer takes what an owner announces of a lane. It reports whether all workers are to hear it: a lane that all follow;
// and any lane once that was taken up, so that those that followed it for another coordinator learn whose it is. begins
// says that its generation was not offered before.
func (f *follows) offer(lane *wire.Lane, of offered) (all, begins bool) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.lanes[lane.Batcher]
	begins = o == nil || o.lane.Gen != lane.Gen
	if begins {
		o = &offer{place: f.place(o), from: now}
		f.lanes[lane.Batcher] = o
		o.few = f.many(lane.Kind)
	}
	moved := o.lane.Floor != lane.Floor || o.lane.Readers != lane.Readers || o.lane.Taken != lane.Taken || lane.Unasked
	if begins || of.late && !o.late || o.few && lane.Unasked {
		f.changed()
	}
	lane.Few = o.few
	o.lane, o.offered = *lane, of
	all = begins && (of.tookUp || !o.few) || !o.few && (moved || now.Sub(o.said) >= announceRest)
	if all {
		o.said = now
	}
	return all, begins
}

// share is how many of so many slots are for each lane of a kind, a batcher's own among them, while the trainers of
// others wait for their first batch; 0 while none does. A lane that has had none for longer than beginsFor holds up no
// other.
func (f *follows) share(kind, batcher string, slots int) int {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	n, begins := 1, false
	for name, o := range f.lanes {
		if name != batcher && o.lane.Kind == kind {
			n++
			begins = begins || o.unseen && now.Sub(o.from) < beginsFor
		}
	}
	if !begins {
		return 0
	}
	return max(slots/n, 1)
}

// seen notes that a batcher's trainer has had a batch.
func (f *follows) seen(batcher string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.lanes[batcher]; o != nil {
		o.unseen = false
	}
}

// place is that of a batcher's generation before, or the smallest that is free. f.mu is held.
func (f *follows) place(before *offer) int {
	if before != nil {
		return before.place
	}
	taken := make([]bool, len(f.lanes)+1)
	for _, o := range f.lanes {
		if o.place < len(taken) {
			taken[o.place] = true
		}
	}
	return slices.Index(taken, false)
}

// many guesses, until the next choice, whether a new lane will have few followers: if many begin at once, no worker is
// to follow them all for a while. f.mu is held.
func (f *follows) many(kind string) bool {
	n := 1
	for _, o := range f.lanes {
		if o.lane.Kind == kind {
			n++
		}
	}
	return n > follow.Overlap && f.crew > follow.MinWorkers
}

// end forgets a lane, if it is of this generation; of any where gen is empty.
func (f *follows) end(batcher, gen string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.lanes[batcher]; o != nil && (gen == "" || o.lane.Gen == gen) {
		delete(f.lanes, batcher)
		f.changed()
	}
}

// run chooses and tells, at every beat and when something changed.
func (f *follows) run(ctx context.Context) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		repeat := false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			repeat = true
		case <-f.kick:
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		f.tell(repeat)
		pause.Reset(followPause)
	}
}

// tell sends each worker its list where it has gained a lane, or is to be repeated: as long as a lane of its kinds has
// few followers. What a worker is to leave, it hears at the next beat. A worker that came gets a list in any case, so
// that it does not wait for the next announcements.
func (f *follows) tell(repeat bool) {
	all, open := f.choose(f.fleet.crew())
	for _, lane := range open {
		f.hint(wire.LanePrefix+"."+lane.Batcher, lane)
	}
	for _, w := range all {
		names := w.list()
		before, known := f.told[w.name]
		if w.silent || known && (!w.crowded || !repeat && !gained(before, names)) {
			continue // a silent worker keeps what it has, should it live
		}
		w.brief(before, names)
		f.told[w.name] = names
		f.hint(wire.FollowPrefix+"."+w.name, wire.Follow{Coordinator: f.cfg.Name, Lanes: w.lanes})
	}
}

// list names the lanes of a worker, and of each what the worker is to hear at once.
func (w *follower) list() []string {
	names := make([]string, len(w.lanes))
	for i, l := range w.lanes {
		names[i] = l.Batcher + "." + l.Gen
		if l.Unasked {
			names[i] += " unasked"
		}
	}
	return names
}

// maxBriefing bounds what one list says of runs.
const maxBriefing = 64 << 10

// brief has a list say of the lanes that were not in the one before what the worker needs to serve them. Of those that
// are left out, and if the list is lost, the worker reads the records.
func (w *follower) brief(before, names []string) {
	room := maxBriefing
	for i := range w.lanes {
		run := w.runs[i]
		size := len(run.Spec.Params)
		if size > wire.MaxRunSize || size > room || slices.Contains(before, names[i]) {
			continue
		}
		room -= size
		w.lanes[i].Run = run
	}
}

// gained reports whether names has one that was not there before.
func gained(before, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(before, name) })
}

// follower is a worker and the lanes that it is to follow.
type follower struct {
	name    string
	silent  bool
	crowded bool // a lane of its kinds has few followers
	lanes   []wire.Lane
	runs    []*wire.Run // of lanes
}

// choose makes the lists of all workers. The lanes in open had few followers, and are for all to follow now.
func (f *follows) choose(crew []heard) (all []*follower, open []wire.Lane) {
	now := time.Now()
	all = make([]*follower, len(crew))
	for i := range crew {
		all[i] = &follower{name: crew[i].Worker, silent: now.Sub(crew[i].at) > followQuiet}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	kinds := make(map[string][]*offer)
	for _, o := range f.lanes {
		kinds[o.lane.Kind] = append(kinds[o.lane.Kind], o)
	}
	f.crew = len(crew)
	for kind, offers := range kinds {
		slices.SortFunc(offers, func(a, b *offer) int { return strings.Compare(a.lane.Batcher, b.lane.Batcher) })
		open = append(open, f.chooseKind(kind, offers, crew, all)...)
	}
	maps.DeleteFunc(f.told, func(name string, _ []string) bool {
		return !slices.ContainsFunc(crew, func(h heard) bool { return h.Worker == name })
	})
	return all, open
}

// chooseKind adds the lanes of one kind to the workers' lists, and returns those that are open to all from now on. f.mu
// is held.
func (f *follows) chooseKind(kind string, offers []*offer, crew []heard, all []*follower) (open []wire.Lane) {
	var workers []follow.Worker
	var places []int // of workers in crew
	for i := range crew {
		h := &crew[i]
		if !all[i].silent && slices.Contains(h.Kinds, kind) {
			workers = append(workers, follow.Worker{Name: h.Worker, Slots: h.Slots, Idle: h.Running < h.Slots})
			places = append(places, i)
		}
	}
	lanes := make([]follow.Lane, len(offers))
	for i, o := range offers {
		lanes[i] = follow.Lane{Place: o.place, Slots: o.slots, Late: o.late, Left: func(n int) bool {
			_, leaves := crew[places[n]].leaves(kind, o.lane.Batcher)
			return leaves
		}}
	}
	chosen := follow.Choose(workers, lanes)
	count := make([]int, len(crew))
	for _, list := range chosen {
		for _, n := range list {
			count[places[n]]++
		}
	}
	if slices.ContainsFunc(count, func(n int) bool { return n > followList }) {
		clear(chosen)
	}
	everybody := make([]int, len(workers))
	for n := range everybody {
		everybody[n] = n
	}
	few := false
	for i, o := range offers {
		opens := o.few && chosen[i] == nil
		o.few = chosen[i] != nil
		o.lane.Few = o.few
		few = few || o.few
		if opens {
			open = append(open, o.lane)
			o.said = time.Now()
		}
		list := chosen[i]
		if !o.few {
			list = everybody
		}
		for _, n := range list {
			w := all[places[n]]
			w.lanes, w.runs = append(w.lanes, o.lane), append(w.runs, o.run)
		}
	}
	for _, n := range everybody {
		all[places[n]].crowded = all[places[n]].crowded || few
	}
	return open
}
