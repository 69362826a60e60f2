package schedule

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const ms = int64(1e6)

// arrive delivers n jobs that were asked for.
func arrive(t *testing.T, s *Scheduler[string, string], lane string, n int, more bool, now int64) {
	t.Helper()
	for i := range n {
		if !s.Arrive(lane, false, more, now, fmt.Sprintf("%s%d", lane, i)) {
			t.Fatalf("lane %s took no job", lane)
		}
	}
}

// startAll starts what can start and returns the lanes in order.
func startAll(s *Scheduler[string, string]) []string {
	var lanes []string
	for lane, _, ok := s.Next(); ok; lane, _, ok = s.Next() {
		lanes = append(lanes, lane)
	}
	return lanes
}

func TestAsksForFreeSlotsOnly(t *testing.T) {
	t.Parallel()
	s := New[string, string](4)
	s.Open("a")
	if got := s.Asks(0); !slices.Equal(got, []Ask[string]{{"a", 4}}) {
		t.Fatalf("asked %v", got)
	}
	if got := s.Asks(0); got != nil {
		t.Fatalf("asked again: %v", got)
	}
	arrive(t, s, "a", 4, true, 0)
	if got := startAll(s); len(got) != 4 || s.Asks(0) != nil {
		t.Fatalf("started %v", got)
	}
	s.Done("a", 30_000*ms)
	if got := s.Asks(0); !slices.Equal(got, []Ask[string]{{"a", 1}}) {
		t.Fatalf("slow jobs: asked %v", got)
	}
}

func TestQuickJobsHaveAReserve(t *testing.T) {
	t.Parallel()
	s := New[string, string](2)
	s.Open("a")
	s.Asks(0)
	arrive(t, s, "a", 2, true, 0)
	startAll(s)
	s.Done("a", 1000)
	if got := s.Asks(0); !slices.Equal(got, []Ask[string]{{"a", maxReserve + 1}}) {
		t.Fatalf("asked %v", got)
	}
	arrive(t, s, "a", 10, true, 0)
	startAll(s)
	s.Done("a", 1000)
	if got := s.Asks(0); got != nil {
		t.Fatalf("a request for a small part of the reserve: %v", got)
	}
	s.Open("b")
	if got := s.Asks(0); !slices.Equal(got, []Ask[string]{{"b", 1}}) {
		t.Fatalf("a new lane beside one that has all the room: asked %v", got)
	}
}

// TestRunsCount lets messages bring several jobs each: fewer are asked for.
// TestIdleSlotAsksManyLanes has one slot and lanes that may be empty: it does not try one after the other, and does not
// ask for more than it could soon start.
func TestIdleSlotAsksManyLanes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ took, want int64 }{{0, 1 + unknownBeside}, {50 * ms, 2 + maxBeside}, {250 * ms, 2 + 1}, {5000 * ms, 1 + 1}} {
		s := New[string, string](1)
		for i := range 20 {
			s.Open(fmt.Sprint(i))
		}
		if test.took > 0 {
			s.Arrive("0", false, false, 0, "job")
			startAll(s)
			s.Done("0", test.took)
		}
		asked := int64(0)
		for asks := s.Asks(0); asks != nil; asks = s.Asks(0) {
			for _, a := range asks {
				asked += int64(a.N)
			}
		}
		if asked != test.want {
			t.Errorf("jobs of %d ms: asked for %d, want %d", test.took/ms, asked, test.want)
		}
		s.Arrive("1", false, false, 0, "job")
		startAll(s)
		if got := s.Asks(0); got != nil {
			t.Errorf("jobs of %d ms: asked %v while the slot is at work", test.took/ms, got)
		}
	}
}

func TestRestingLaneIsNotAsked(t *testing.T) {
	t.Parallel()
	s := New[string, string](2)
	s.Open("a")
	s.Open("b")
	s.Asks(0)
	arrive(t, s, "a", 1, true, 0)
	s.Rest("a", true)
	s.Rest("a", true)
	s.Rest("unknown", true)
	arrive(t, s, "a", 1, true, 0) // under way when it was left
	if got := startAll(s); len(got) != 2 {
		t.Fatalf("started %v: what is here is run", got)
	}
	s.Done("a", ms)
	s.Done("a", ms)
	if got := s.Asks(0); len(got) != 1 || got[0].Lane != "b" {
		t.Fatalf("asked %v", got)
	}
	s.Expired("b", -1)
	s.Rest("b", true)
	if got := s.Asks(0); got != nil {
		t.Fatalf("asked %v, and all lanes rest", got)
	}
	s.Rest("a", false)
	if got := s.Asks(0); len(got) != 1 || got[0].Lane != "a" {
		t.Fatalf("asked %v after the rest", got)
	}
}

func TestRunsCount(t *testing.T) {
	t.Parallel()
	s := New[string, string](2)
	s.Open("a")
	s.Asks(0)
	s.Arrive("a", false, true, 0, "a1", "a2", "a3", "a4")
	s.Arrive("a", false, true, 0, "b1", "b2", "b3", "b4")
	if got := startAll(s); len(got) != 2 || s.Waiting() != 6 {
		t.Fatalf("started %v, %d wait", got, s.Waiting())
	}
	s.Done("a", 1000) // 1 runs and 6 wait: there is room for slots + reserve - 7 jobs
	if got, want := s.Asks(0), (2+maxReserve-7+3)/4; !slices.Equal(got, []Ask[string]{{"a", want}}) {
		t.Fatalf("asked %v, want %d", got, want)
	}
}

func TestFewestRunningFirst(t *testing.T) {
	t.Parallel()
	s := New[string, string](4)
	s.Open("a")
	s.Open("b")
	arrive(t, s, "a", 4, true, 0)
	arrive(t, s, "b", 4, true, 0)
	if got := startAll(s); !slices.Equal(got, []string{"a", "b", "a", "b"}) {
		t.Fatalf("started %v", got)
	}
	s.Done("b", ms)
	s.Done("a", ms)
	if got := startAll(s); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("started %v", got)
	}
}

func TestQuietLaneTakesNoRoom(t *testing.T) {
	t.Parallel()
	s := New[string, string](2)
	s.Open("empty")
	s.Open("full")
	if got := s.Asks(0); len(got) != 2 {
		t.Fatalf("asked %v", got)
	}
	arrive(t, s, "full", 1, true, 10*ms)
	startAll(s)
	if got := s.Asks(10 * ms); got != nil {
		t.Fatalf("asked %v before the other lane could answer", got)
	}
	if got := s.Asks(200 * ms); !slices.Equal(got, []Ask[string]{{"full", 1}}) {
		t.Fatalf("asked %v; the idle slot belongs to the lane that has jobs", got)
	}
}

func TestSuspectRunsAlone(t *testing.T) {
	t.Parallel()
	s := New[string, string](3)
	s.Open("a")
	arrive(t, s, "a", 1, true, 0)
	startAll(s)
	s.Arrive("a", true, true, 0, "suspect")
	arrive(t, s, "a", 2, true, 0)
	if got := startAll(s); got != nil || s.Asks(0) != nil {
		t.Fatal("started beside a suspect that waits")
	}
	if got := s.Stale(1); len(got) != 2 {
		t.Fatalf("handed back %v", got)
	}
	s.Done("a", ms)
	if _, job, ok := s.Next(); !ok || job != "suspect" {
		t.Fatalf("started %q", job)
	}
	arrive(t, s, "a", 1, true, 0)
	if got := startAll(s); got != nil || s.Asks(0) != nil {
		t.Fatal("started beside a suspect that runs")
	}
	s.Done("a", ms)
	if got := startAll(s); len(got) != 1 {
		t.Fatal("nothing started after the suspect")
	}
}

func TestStaleEndsTheReserve(t *testing.T) {
	t.Parallel()
	s := New[string, string](1)
	s.Open("a")
	arrive(t, s, "a", 3, true, 0)
	startAll(s)
	s.Done("a", ms)
	startAll(s)
	if got := s.Stale(1); len(got) != 1 || s.Waiting() != 0 {
		t.Fatalf("handed back %v", got)
	}
	if got := s.Asks(0); got != nil {
		t.Fatalf("asked %v for what was just handed back", got)
	}
}

func TestDrainAndClose(t *testing.T) {
	t.Parallel()
	s := New[string, string](1)
	s.Open("a")
	s.Open("b")
	arrive(t, s, "a", 2, true, 0)
	arrive(t, s, "b", 2, true, 0)
	if got := s.Close("a"); len(got) != 2 || s.Arrive("a", false, false, 0, "late") {
		t.Fatalf("closing returned %v", got)
	}
	if got := s.Drain(); len(got) != 2 || s.Arrive("b", false, false, 0, "late") || s.Asks(0) != nil {
		t.Fatalf("draining returned %v", got)
	}
	if _, _, ok := s.Next(); ok {
		t.Fatal("started while draining")
	}
}

func TestLostSlot(t *testing.T) {
	t.Parallel()
	s := New[string, string](2)
	s.Open("a")
	arrive(t, s, "a", 3, true, 0)
	startAll(s)
	s.Lose("a")
	if s.Slots() != 1 || s.Running() != 1 || len(startAll(s)) != 0 {
		t.Fatal("a lost slot was used")
	}
	s.Regain()
	if len(startAll(s)) != 1 {
		t.Fatal("a slot that came back was not used")
	}
}

// plain is the scheduler's rule for starting, written as slowly and obviously as can be: a list of waiting
// jobs and a list of running ones.
type plain struct {
	slots    int
	waiting  []plainJob
	running  []plainJob
	started  map[string]int
	starts   int
	draining bool
}

type plainJob struct {
	lane    string
	id      int
	suspect bool
}

func (p *plain) count(lane string) (n int) {
	for _, j := range p.running {
		if j.lane == lane {
			n++
		}
	}
	return n
}

func (p *plain) next() (plainJob, bool) {
	if p.draining || len(p.running) >= p.slots {
		return plainJob{}, false
	}
	for _, j := range p.running {
		if j.suspect {
			return plainJob{}, false
		}
	}
	best := -1
	for i, j := range p.waiting {
		if j.suspect {
			if len(p.running) > 0 {
				return plainJob{}, false
			}
			best = i
			break
		}
		if best < 0 || p.count(j.lane) < p.count(p.waiting[best].lane) ||
			p.count(j.lane) == p.count(p.waiting[best].lane) && p.started[j.lane] < p.started[p.waiting[best].lane] {
			best = i
		}
	}
	if best < 0 {
		return plainJob{}, false
	}
	j := p.waiting[best]
	p.waiting = slices.Delete(p.waiting, best, best+1)
	p.running = append(p.running, j)
	p.starts++
	p.started[j.lane] = p.starts
	return j, true
}

func TestAgainstPlainVersion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lanes := []string{"a", "b", "c"}
		slots := rapid.IntRange(1, 5).Draw(t, "slots")
		s := New[string, plainJob](slots)
		p := &plain{slots: slots, started: map[string]int{}}
		for i, lane := range lanes {
			// Opened one by one with a start in between, lanes never tie.
			s.Open(lane)
			s.lane(lane).started = uint64(i)
			p.started[lane] = i
		}
		s.clock, p.starts = 10, 10
		id, now := 0, int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"arrive": func(t *rapid.T) {
				id++
				now += ms
				j := plainJob{rapid.SampledFrom(lanes).Draw(t, "lane"), id, rapid.IntRange(0, 9).Draw(t, "suspect") == 0}
				s.Arrive(j.lane, j.suspect, rapid.Bool().Draw(t, "more"), now, j)
				p.waiting = append(p.waiting, j)
			},
			"next": func(t *rapid.T) {
				lane, got, ok := s.Next()
				want, wantOK := p.next()
				if got != want || ok != wantOK || ok && lane != want.lane {
					t.Fatalf("started %v %v, want %v %v", got, ok, want, wantOK)
				}
			},
			"done": func(t *rapid.T) {
				if len(p.running) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(p.running)-1).Draw(t, "which")
				s.Done(p.running[i].lane, rapid.Int64Range(1, 3e9).Draw(t, "took"))
				p.running = slices.Delete(p.running, i, i+1)
			},
			"stale": func(t *rapid.T) {
				before := rapid.Int64Range(0, now+1).Draw(t, "before")
				for _, j := range s.Stale(before) {
					i := slices.Index(p.waiting, j)
					if i < 0 || j.suspect {
						t.Fatalf("handed back %v", j)
					}
					p.waiting = slices.Delete(p.waiting, i, i+1)
				}
			},
			"asks": func(t *rapid.T) {
				now += rapid.Int64Range(0, 300).Draw(t, "ms") * ms
				before := 0
				for _, l := range s.lanes {
					before += l.asked
				}
				asked := 0
				for _, a := range s.Asks(now) {
					if a.N <= 0 {
						t.Fatalf("asked %v", a)
					}
					asked += a.N
				}
				// However it is shared out, one round never asks for more than a full load per lane.
				if most := (slots + maxReserve) * len(lanes); asked > most {
					t.Fatalf("asked for %d beside %d", asked, before)
				}
			},
			"expired": func(t *rapid.T) {
				s.Expired(rapid.SampledFrom(lanes).Draw(t, "lane"), rapid.IntRange(-1, 5).Draw(t, "n"))
			},
			"": func(t *rapid.T) {
				if s.Running() != len(p.running) || s.Waiting() != len(p.waiting) {
					t.Fatalf("%d running and %d waiting, want %d and %d", s.Running(), s.Waiting(), len(p.running), len(p.waiting))
				}
				for _, l := range s.lanes {
					if l.asked < 0 || l.running < 0 {
						t.Fatalf("lane %+v", l)
					}
				}
			},
		})
	})
}

// TestNoLaneStarves runs lanes that always have jobs and lanes that never do on few slots: every slot is
// always used and the lanes with jobs get equal shares.
func TestNoLaneStarves(t *testing.T) {
	t.Parallel()
	s := New[string, string](2)
	for _, lane := range []string{"empty1", "a", "empty2", "b", "c"} {
		s.Open(lane)
	}
	has := map[string]bool{"a": true, "b": true, "c": true}
	outstanding, starts := map[string]int{}, map[string]int{}
	var running []string
	idle := 0
	for round := range int64(600) {
		now := round * 200 * ms // longer than quietAfter: each round, all that can answer has
		for range 4 {           // asking, answering and asking again is quick beside a round
			for _, a := range s.Asks(now) {
				outstanding[a.Lane] += a.N
			}
			for lane, n := range outstanding {
				if has[lane] {
					for range n {
						s.Arrive(lane, false, true, now, "")
					}
					outstanding[lane] = 0
				}
			}
		}
		for lane, _, ok := s.Next(); ok; lane, _, ok = s.Next() {
			running = append(running, lane)
			starts[lane]++
		}
		if len(running) < 2 {
			idle++
		}
		if len(running) > 0 {
			s.Done(running[0], 2000*ms)
			running = running[1:]
		}
	}
	if idle > 10 {
		t.Errorf("a slot was idle in %d of 600 rounds", idle)
	}
	for lane := range has {
		if starts[lane] < 150 {
			t.Errorf("starts by lane: %v", starts)
		}
	}
}
