package chaos

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Liveness: once faults have stopped, a run must be at its end within settleTime and its own work.
const (
	settleTime = 60 * time.Second
	leakTime   = 40 * time.Second // above the collector's period
)

// courseOutcome is what one schedule came to.
type courseOutcome struct {
	batches    int
	ranks      int
	together   int // batches put together from the rows of several ranks
	faults     map[string]int
	classes    map[string]int
	wrong      []string
	hung       bool
	failure    string
	leaks      []string
	longest    time.Duration // wait of a trainer
	settled    time.Duration // from the end of the last fault to the end of the run
	recomputed int
	torn       int // transfers from workers that were cut or stalled midway
	unreadable int // stores that a broker could not start with
	missed     int // faults that could not be injected, because another one was in the way
}

// run follows a schedule to the end of the data.
func (c *course) run(plan schedule) (o courseOutcome) {
	o.faults = make(map[string]int)
	c.start()
	type heal struct {
		due time.Time
		end func()
	}
	var heals []heal
	began, calm := time.Now(), time.Now() // of the last fault, and since when nothing is wrong
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for next := 0; ; {
		now := time.Now()
		for i := 0; i < len(heals); {
			if h := heals[i]; now.After(h.due) {
				h.end()
				heals = append(heals[:i], heals[i+1:]...)
				calm = time.Now()
			} else {
				i++
			}
		}
		if c.crew != nil {
			c.crew.tend()
		}
		taken, last := c.snapshot()
		if last != nil && !c.excused(last, len(heals) > 0) {
			o.hung = last.Hung
			if !last.Done && last.Violation == "" {
				o.failure = last.Error
			}
			break
		}
		if next < len(plan.faults) && (taken >= plan.faults[next].at || now.Sub(began) > patience) {
			f := plan.faults[next]
			next++
			end, err := c.inject(f)
			if err != nil {
				c.s.t.Logf("not injected: %v: %v", f, err)
				o.missed++
			} else {
				o.faults[f.kind]++
				if c.crew != nil {
					c.crew.notes(f.kind)
				}
			}
			if end != nil {
				heals = append(heals, heal{time.Now().Add(f.hold), end})
			}
			began, calm = time.Now(), time.Now()
			continue
		}
		o.unreadable += c.revive(len(heals) > 0)
		if len(heals) == 0 && next == len(plan.faults) && time.Since(calm) > settleTime {
			o.hung = true
			break
		}
		select {
		case <-c.news:
		case <-tick.C:
		}
	}
	o.settled = time.Since(calm)
	for _, h := range heals {
		h.end()
	}
	c.mu.Lock()
	o.batches, o.ranks, o.wrong, o.classes, o.longest = c.taken, plan.ranks, c.wrong, c.classes, c.longest
	if c.crew != nil {
		o.batches, o.together = c.crew.taken(), c.crew.together
	}
	c.mu.Unlock()
	o.recomputed, o.torn = c.s.recomputed(), c.s.torn()
	if o.failure == "" && !o.hung && len(o.wrong) == 0 {
		if c.crew != nil {
			c.stop()
		}
		o.leaks = c.s.leaks(leakTime)
	}
	return o
}

// excused deals with a trainer that ended for the reason that another took over, which only one that was paused may
// say.
func (c *course) excused(last *trainerLine, faulty bool) bool {
	return c.crew == nil && last.Replaced && faulty && c.number > 1
}

// revive wipes the store of a broker that could not start with what was left of it, as its operator would.
func (c *course) revive(faulty bool) (unreadable int) {
	if faulty {
		return 0
	}
	for _, m := range c.s.brokers {
		if m.ended() && time.Since(m.started) > time.Second {
			m.wipe()
			m.start()
			unreadable++
		}
	}
	return unreadable
}

// figures of this tier, printed as JSON.
type figures struct {
	Tier string `json:"tier"`
	*tally
	Missed          int     `json:"faults_missed"`
	Unreadable      int     `json:"unreadable_stores"`
	Torn            int     `json:"transfers_torn"`
	Recomputed      int     `json:"recomputed"`
	RecomputedFault float64 `json:"recomputed_per_fault"`
	RecomputedMost  float64 `json:"recomputed_per_fault_worst_schedule"`
	WaitMS          int64   `json:"longest_wait_ms"`
	SettleMS        int64   `json:"longest_settle_ms"`
	Seconds         float64 `json:"seconds"`

	mu    sync.Mutex
	began time.Time
}

func newFigures(tier string) *figures {
	return &figures{Tier: tier, tally: newTally(), began: time.Now()}
}

func (f *figures) add(o courseOutcome) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Schedules++
	f.Ranks[strconv.Itoa(max(o.ranks, 1))]++
	f.Together += o.together
	f.Batches += o.batches
	for class, n := range o.classes {
		f.Violations[class] += n
	}
	injected := 0
	for kind, n := range o.faults {
		f.Faults[kind] += n
		injected += n
	}
	if o.hung {
		f.Hangs++
	}
	if o.failure != "" && !o.hung {
		f.Failures++
	}
	f.Leaks += len(o.leaks)
	f.Missed += o.missed
	f.Unreadable += o.unreadable
	f.Torn += o.torn
	f.Recomputed += o.recomputed
	f.RecomputedMost = max(f.RecomputedMost, float64(o.recomputed)/float64(max(injected, 1)))
	f.WaitMS = max(f.WaitMS, o.longest.Milliseconds())
	f.SettleMS = max(f.SettleMS, o.settled.Milliseconds())
}

func (f *figures) print() {
	f.mu.Lock()
	defer f.mu.Unlock()
	injected := 0
	for _, n := range f.Faults {
		injected += n
	}
	f.RecomputedFault = float64(f.Recomputed) / float64(max(injected, 1))
	f.Seconds = time.Since(f.began).Seconds()
	printFigures(f)
}

func printFigures(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // numbers and strings
	}
	fmt.Printf("chaos: %s\n", data)
}

// check fails the test for whatever is wrong with an outcome.
func (o courseOutcome) check(t *testing.T, plan schedule) {
	t.Helper()
	if len(o.wrong) > 0 || o.hung || o.failure != "" || len(o.leaks) > 0 {
		t.Errorf("%v\nafter %d batches: wrong %q, hung %v, failure %q, left behind %q", plan, o.batches, o.wrong, o.hung, o.failure, o.leaks)
	}
}

// seeds are those of the schedules to run: the one asked for, or n.
func seeds(n int) []uint64 {
	if *seedFlag != 0 {
		return []uint64{*seedFlag}
	}
	all := make([]uint64, cmp.Or(*countFlag, n))
	for i := range all {
		all[i] = *firstFlag + uint64(i)
	}
	return all
}

var countFlag = flag.Int("chaos.count", 0, "schedules of processes and of a cluster to run; 0 for the usual number")

var ciFlag = flag.Bool("chaos.ci", false, "of the processes and the cluster, run what fits into some minutes")

// scale chooses by how much is to be run.
func scale[T any](slice, ci, full T) T {
	switch {
	case *fullFlag:
		return full
	case *ciFlag:
		return ci
	}
	return slice
}

// onlyAtScale skips a test that takes longer than "go test ./..." may.
func onlyAtScale(t *testing.T) {
	t.Helper()
	if !*fullFlag && !*ciFlag {
		t.Skip("runs with -chaos.ci and -chaos.full")
	}
}

// What the trainer takes is right while roles, the broker, the network and the store fail.
func TestProcessSchedules(t *testing.T) {
	t.Parallel()
	f := newFigures("processes")
	t.Cleanup(f.print)
	for _, seed := range seeds(scale(2, 16, 100)) {
		plan := newSchedule(seed, scale(150, 500, 500), scale(2, 6, 6), scale(time.Second, maxHold, maxHold))
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			t.Log(plan)
			s := newSystem(t, plan.coordinators, plan.workers)
			c := newCourse(s, trainerConfig{Params: plan.params})
			if plan.ranks > 1 {
				c.crew = newCrew(c, plan.ranks, seed)
			}
			o := c.run(plan)
			o.check(t, plan)
			f.add(o)
		})
	}
}

// A schedule is a function of its seed.
func TestSchedulesReplay(t *testing.T) {
	t.Parallel()
	for range 20 {
		seed := rand.Uint64()
		a, b := newSchedule(seed, 500, 6, maxHold), newSchedule(seed, 500, 6, maxHold)
		if a.String() != b.String() || a.String() == newSchedule(seed+1, 500, 6, maxHold).String() {
			t.Fatalf("seed %d: %v and %v", seed, a, b)
		}
	}
}
