package owner

import (
	"fmt"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/wire"
	"github.com/jetbatch/jetbatch/schema"
)

func TestDesiredWorkers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		materialize, trainer     time.Duration // of one batch
		workers, slots, inFlight int
		want                     int
	}{
		"enough":                    {100 * time.Millisecond, 100 * time.Millisecond, 2, 4, 100, 1},
		"four times as slow":        {400 * time.Millisecond, 100 * time.Millisecond, 2, 4, 100, 3}, // 4 x 1.25 slots, 2 each
		"the trainer only takes":    {100 * time.Millisecond, 0, 4, 4, 1000, 9},
		"a window of three":         {400 * time.Millisecond, 10 * time.Millisecond, 4, 4, 3, 3},
		"nobody there yet":          {400 * time.Millisecond, 10 * time.Millisecond, 0, 0, 100, 1},
		"one there, many needed":    {time.Second, 10 * time.Millisecond, 1, 2, 1000, 3},
		"workers that all drain":    {100 * time.Millisecond, 100 * time.Millisecond, 2, 0, 100, 2},
		"nothing known, one for it": {0, 100 * time.Millisecond, 3, 6, 100, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n need
			var total schema.Timing
			now := time.Unix(0, 0)
			for range 40 {
				n.observe(now, total)
				now = now.Add(time.Second)
				total.Add(schema.Timing{Materialize: test.materialize, Trainer: test.trainer})
			}
			if got := n.workers(test.workers, test.slots, test.inFlight); got != test.want {
				t.Errorf("%d workers (%.2f slots), want %d", got, n.slots, test.want)
			}
		})
	}
}

// A span in which the trainer starved, and one with a new reader, leave what is known.
func TestNeedKeepsWhatItKnows(t *testing.T) {
	t.Parallel()
	var n need
	now := time.Unix(0, 0)
	n.observe(now, schema.Timing{})
	total := schema.Timing{Materialize: 8 * time.Second, Trainer: 2 * time.Second}
	n.observe(now.Add(needSpan), total)
	n.observe(now.Add(2*needSpan), total)
	n.observe(now.Add(3*needSpan), schema.Timing{})
	if n.slots != 4 {
		t.Errorf("%v slots, want 4", n.slots)
	}
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		s     wire.Settings
		batch int64
		want  int
	}{
		"default":      {wire.Settings{}, 0, maxWindow},
		"asked for":    {wire.Settings{Window: 7}, 100, 7},
		"by the bytes": {wire.Settings{WindowBytes: 1000}, 100, 10},
	} {
		if got := inFlight(test.s, test.batch); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// A rank that waits for a slow one looks like a trainer that only takes, and no worker can help it. The owner asks for
// as many workers as the slow rank needs. The order of the credits changes nothing, nor does a rank that left or that
// has taken nothing yet.
func TestDesiredWorkersOfRanks(t *testing.T) {
	t.Parallel()
	slow := schema.Timing{Materialize: 400 * time.Millisecond, Trainer: 400 * time.Millisecond} // 1.25 slots for it
	fast := schema.Timing{Materialize: 400 * time.Millisecond, Trainer: time.Millisecond, Wait: 399 * time.Millisecond}
	idle := schema.Timing{}
	for name, test := range map[string]struct {
		each []schema.Timing // of one batch, by rank
		left int             // the rank that leaves in the end; -1 for none
		want int
	}{
		"the slow one first":        {[]schema.Timing{slow, fast}, -1, 2},
		"the fast one first":        {[]schema.Timing{fast, slow}, -1, 2},
		"one that took nothing":     {[]schema.Timing{idle, fast, slow}, -1, 2},
		"one that took nothing yet": {[]schema.Timing{slow, fast, idle}, -1, 2},
		"all of them fast":          {[]schema.Timing{fast, fast}, -1, 9},
		"the slow one left":         {[]schema.Timing{fast, slow}, 1, 9},
		"the one that is known":     {[]schema.Timing{idle, fast}, -1, 9},
		"nothing known, one asked":  {[]schema.Timing{idle, idle}, -1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startWorld(t, len(test.each))
			s.o.Step(s.now, Fleet{Workers: 4, Slots: 4})
			sums := make([]schema.Timing, len(test.each))
			for n := range uint64(20) {
				s.now = s.now.Add(time.Second)
				for rank := range test.each {
					sums[rank].Add(test.each[rank])
					taken, waiting := n, ""
					if test.each[rank] == fast {
						taken, waiting = s.o.feeder.gen.Fed(), "batch 9 is not committed"
					}
					s.say(t, rank, taken, waiting, &sums[rank])
				}
			}
			if test.left >= 0 {
				s.must(t, fmt.Sprintf("stop leave reader=a%d request=9 world=A rank=%[1]d", test.left), "record ok")
			}
			if got := s.o.Status(s.now).Desired; got != test.want {
				t.Errorf("%d workers, want %d", got, test.want)
			}
		})
	}
}

// The slots that a run can use are the slow rank's, too, as long as the ranks that wait have all that is fed. When the
// slowest itself waits for a batch, it can use all that it may have.
func TestDemandOfRanks(t *testing.T) {
	t.Parallel()
	s := startWorld(t, 2)
	slow, fast := schema.Timing{}, schema.Timing{}
	for range 20 {
		s.now = s.now.Add(time.Second)
		slow.Add(schema.Timing{Materialize: 400 * time.Millisecond, Trainer: 400 * time.Millisecond})
		fast.Add(schema.Timing{Materialize: 400 * time.Millisecond, Trainer: time.Millisecond})
		s.say(t, 0, 0, "", &slow)
		s.say(t, 1, s.o.feeder.gen.Fed(), "rank 0", &fast)
	}
	if got := s.o.Demand(); got != 2 {
		t.Errorf("%d slots while a rank waits for another, want 2", got)
	}
	if late := s.o.Late(s.now); late != 0 {
		t.Errorf("a rank that waits for another is late since %v", late)
	}
	s.say(t, 0, 0, "batch 1", &slow)
	if got, all := s.o.Demand(), s.o.feeder.gen.Limit(); got != all {
		t.Errorf("%d slots while the slowest waits for a batch, want all %d", got, all)
	}
}

// startWorld has a world of ranks a0, a1 and so on run from state 0, with some batches fed.
func startWorld(t *testing.T, size int) *script {
	t.Helper()
	s := &script{now: time.Unix(1000, 0)}
	s.must(t, "new window=9")
	for rank := range size {
		s.must(t, fmt.Sprintf("seat open reader=a%d request=1 world=A rank=%[1]d size=%d", rank, size))
		if rank == 0 {
			s.must(t, "opened #1")
		}
		s.must(t, "record ok")
	}
	s.must(t, fmt.Sprintf("seat start reader=a0 request=2 world=A rank=0 size=%d state=0", size),
		"ready", "record ok", "made G1", "produced 9", "credit reader=a0 world=A rank=0 taken=0", "record ok")
	for rank := 1; rank < size; rank++ {
		s.must(t, fmt.Sprintf("seat start reader=a%d request=2 world=A rank=%[1]d size=%d state=0", rank, size), "record ok")
	}
	return s
}

func (s *script) must(t *testing.T, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if _, err := s.run(command); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
}

// say credits a rank of the world A.
func (s *script) say(t *testing.T, rank int, taken uint64, waiting string, total *schema.Timing) {
	t.Helper()
	at := wire.Rank{World: "A", Rank: rank}
	s.o.Step(s.now, Credited{0, &wire.Credit{
		Gen: s.o.ledger.rec.Gen, Seat: s.o.ledger.seatOf(rank), Reader: fmt.Sprint("a", rank), Rank: at, Taken: taken,
		Waiting: waiting, Late: waiting != "", Timing: total, BatchBytes: 1 << 20,
	}})
	for s.o.ledger.writing != nil {
		s.must(t, "record ok")
	}
}
