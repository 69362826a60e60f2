package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/client"
	"github.com/jetbatch/jetbatch/internal/testset"
	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

// crew are the trainers of a course that take each batch together: the ranks of one launch after another, each a
// process. A rank that was killed comes again from where it was, once the others are there; when the run is over for
// all of them, they are launched anew from the one state that all have, as many as before or not. All of it but hear is
// the course's goroutine; c.mu guards what hear knows.
type crew struct {
	c        *course
	rng      *rand.Rand
	patience time.Duration

	launch   int
	size     int
	ranks    []*crewRank
	points   map[int]*crewPoint // that some ranks have taken in this launch, and not all
	over     time.Time          // since when the run is over for all; zero while it is not
	failed   *trainerLine       // what no fault explains
	together int

	disturbed bool // a fault came in this launch
	killed    bool // of a rank
	forgot    bool // a fault may have taken the record back, or away, in this launch
}

// crewRank is one rank of the launch: a process, or one after another.
type crewRank struct {
	m      *member
	rank   int
	number int // of the present process
	at     int // batches before it, from the beginning of the data
	state  schema.State
	last   *trainerLine // of the present process; nil while it runs
	due    bool         // it is to be started
	from   time.Time    // but not before
}

// crewPoint is a batch that ranks have taken.
type crewPoint struct {
	prev, next schema.State
	parts      []*trainerLine // by rank
}

func newCrew(c *course, size int, seed uint64) *crew {
	rng := rand.New(rand.NewPCG(seed, 4))
	return &crew{c: c, rng: rng, size: size, patience: []time.Duration{5 * time.Second, 15 * time.Second}[rng.IntN(2)]}
}

// begin launches a world of size ranks where the slowest of the ones before is. Some of its processes come late.
func (w *crew) begin() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	at, state := 0, w.c.state
	for i, r := range w.ranks {
		if i == 0 || r.at < at {
			at, state = r.at, r.state
		}
	}
	w.launch++
	w.over, w.disturbed, w.killed, w.forgot = time.Time{}, false, false, false
	w.points, w.ranks = make(map[int]*crewPoint), nil
	for i := range w.size {
		for len(w.c.s.trainers) <= i {
			m := &member{s: w.c.s, name: fmt.Sprintf("trainer-%d", len(w.c.s.trainers)), role: "trainer"}
			if !w.c.s.direct {
				m.link = newProxy(w.c.s.t, w.c.s.addrs[0])
			}
			w.c.s.trainers = append(w.c.s.trainers, m)
		}
		r := &crewRank{m: w.c.s.trainers[i], rank: i, at: at, state: state, due: true, from: time.Now()}
		if w.rng.IntN(3) == 0 {
			r.from = r.from.Add(time.Duration(w.rng.Int64N(int64(3 * time.Second))))
		}
		w.ranks = append(w.ranks, r)
	}
}

// victim is the rank that a fault is about.
func (w *crew) victim(target int) *crewRank { return w.ranks[target%len(w.ranks)] }

// start starts the process of a rank.
func (w *crew) start(r *crewRank) {
	w.c.mu.Lock()
	w.c.number++
	r.number, r.last, r.due = w.c.number, nil, false
	n, cfg := r.number, w.c.cfg
	cfg.State = r.state
	w.c.mu.Unlock()
	cfg.World = &client.World{
		ID: fmt.Sprintf("launch-%d", w.launch), Rank: r.rank, Size: w.size, Whole: []string{"y"}, Patience: w.patience,
	}
	r.m.env = []string{trainerEnvOf(w.c.s.t, &cfg)}
	r.m.line = func(line []byte) { w.c.hear(n, line) }
	r.m.start()
}

// hear takes a line of the process of that number, if it is a present one. Called with c.mu held.
func (w *crew) hear(number int, line *trainerLine) {
	for _, r := range w.ranks {
		if r.number != number {
			continue
		}
		if line.Done || line.Error != "" {
			r.last = line
			return
		}
		if !bytes.Equal(line.Prev.Data, r.state.Data) {
			w.wrong(testset.Stale, "rank %d: label %d follows %v, the checkpoint is %v", r.rank, line.Label, line.Prev,
				r.state)
		}
		w.put(r, line)
		r.state = line.Next
		r.at++
	}
}

func (w *crew) wrong(class, format string, args ...any) {
	w.c.wrong = append(w.c.wrong, fmt.Sprintf(format, args...))
	w.c.classes[class]++
}

// put adds the rows that a rank took of a batch. Those of all ranks, put together, must be the batch.
func (w *crew) put(r *crewRank, line *trainerLine) {
	p := w.points[r.at]
	if p == nil {
		p = &crewPoint{prev: line.Prev, next: line.Next, parts: make([]*trainerLine, w.size)}
		w.points[r.at] = p
	}
	if !bytes.Equal(p.prev.Data, line.Prev.Data) || !bytes.Equal(p.next.Data, line.Next.Data) {
		w.wrong(testset.Stale, "rank %d has batch %d from %v to %v, another from %v to %v", r.rank, r.at, line.Prev,
			line.Next, p.prev, p.next)
	}
	p.parts[r.rank] = line
	for _, part := range p.parts {
		if part == nil {
			return
		}
	}
	delete(w.points, r.at)
	want, err := newOracle(w.c.cfg.Params, schema.State{}).At(p.prev)
	if err != nil {
		w.wrong(testset.WrongEnd, "batch %d: %v", r.at, err)
		return
	}
	whole, _ := want.Batch.Get("x")
	at := 0
	for rank, part := range p.parts {
		rows := part.Rows
		if rows.From != at || rows.To < at || rows.Of != len(whole.Data) || rows != rowsOf(rows.Of, rank, w.size) {
			w.wrong(testset.Different, "rank %d has rows %+v of batch %d", rank, rows, r.at)
			return
		}
		if at = rows.To; wire.Sum(whole.Data[rows.From:rows.To]) != part.Sum {
			w.wrong(testset.Different, "the rows of rank %d are not those of batch %d", rank, r.at)
			return
		}
	}
	if at != len(whole.Data) {
		w.wrong(testset.Different, "%d of %d rows of batch %d", at, len(whole.Data), r.at)
	}
	w.together++
}

// taken is how far all ranks are. Called with c.mu held, as end is.
func (w *crew) taken() int {
	at := w.ranks[0].at
	for _, r := range w.ranks {
		at = min(at, r.at)
	}
	return at
}

// end is how the course ended: at the end of the data for all ranks, or as no fault explains; nil while it goes on.
func (w *crew) end() *trainerLine {
	if w.failed != nil {
		return w.failed
	}
	for _, r := range w.ranks {
		if r.last == nil || !r.last.Done {
			return nil
		}
	}
	return &trainerLine{Done: true}
}

// notes takes down what a fault may do to the launch.
func (w *crew) notes(kind string) {
	w.disturbed = true
	w.killed = w.killed || kind == "trainer.kill" || kind == "trainer.drain"
	w.forgot = w.forgot || strings.HasPrefix(kind, "store.") ||
		strings.HasPrefix(kind, "broker.") && kind != "broker.pause"
}

// explains reports whether a fault of this launch explains how a rank ended.
func (w *crew) explains(line *trainerLine) bool {
	switch {
	case line.Violation != "" || line.Hung:
		return false
	case line.Lost:
		return w.disturbed // it was silent
	case line.Diverged:
		return w.killed || w.forgot // it took more than its checkpoint says, or the record is of another place
	case line.Replaced, line.Stopped:
		return w.forgot
	}
	return false
}

// tend starts the processes that are to be, and launches all anew when the run is over for them and each has heard so.
func (w *crew) tend() {
	due, heard := w.look()
	for _, r := range due {
		w.start(r)
	}
	if !heard {
		return
	}
	w.stop()
	if w.rng.IntN(2) == 0 {
		w.size = 1 + w.rng.IntN(4)
	}
	w.begin()
}

// look returns the ranks that are to be started, and reports whether the run is over for all ranks.
func (w *crew) look() (due []*crewRank, over bool) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	waits := false
	for _, r := range w.ranks {
		switch {
		case r.last != nil && r.last.Done:
		case r.last != nil && !w.explains(r.last):
			w.failed = r.last
			return nil, false
		case r.last != nil && w.over.IsZero():
			w.over = time.Now()
			w.c.s.t.Logf("launch %d of %d ranks is over at %d: rank %d: %s", w.launch, w.size, w.taken(), r.rank,
				r.last.Error)
		case r.due && time.Now().After(r.from) && w.caughtUp(r):
			due = append(due, r)
		}
		waits = waits || !r.due && r.last == nil
	}
	if w.over.IsZero() {
		return due, false
	}
	return nil, !waits
}

// stop ends what still runs of the launch.
func (w *crew) stop() {
	for _, r := range w.ranks {
		if r.number > 0 && !r.m.ended() {
			r.m.proc.Kill()
		}
	}
}

// caughtUp reports whether no other rank is more than a step behind: a rank that comes again ahead of the others would
// be at another place than they are.
func (w *crew) caughtUp(r *crewRank) bool {
	for _, other := range w.ranks {
		if other.at < r.at-1 {
			return false
		}
	}
	return true
}

// disturb breaks the process of a rank, or its network.
func (w *crew) disturb(r *crewRank, what string) (heal func(), err error) {
	if r.number == 0 || r.due {
		return nil, fmt.Errorf("rank %d does not run", r.rank)
	}
	if what != "usurp" {
		heal, err = w.c.disturb(r.m, what)
		if what != "kill" {
			return heal, err
		}
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		r.due, r.from = r.last == nil, time.Now().Add(maxHold)
		return func() { r.from = time.Now() }, err
	}
	var procs []func()
	for _, other := range w.ranks { // which are paused, and wake later
		if other.number > 0 && !other.m.ended() {
			other.m.proc.Pause()
			procs = append(procs, other.m.proc.Resume)
		}
	}
	w.begin()
	return func() {
		for _, resume := range procs {
			resume()
		}
	}, nil
}

// stop stops the batcher, once all ranks are at the end.
func (c *course) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	nc, err := c.s.connect(ctx)
	if err != nil {
		c.s.t.Error(err)
		return
	}
	defer nc.Close()
	b, err := openPatiently(ctx, nc, client.Config{
		Name: trainBatcher, Dataset: sequenceName, Params: c.cfg.Params, TakeOver: true,
	})
	if err == nil {
		err = errors.Join(b.Stop(ctx), b.Close())
	}
	if err != nil {
		c.s.t.Error(err)
	}
}
