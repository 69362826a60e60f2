package chaos

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/jetbatch/jetbatch/internal/testset"
)

// plan is what a seed decides of a schedule before it begins. The events under way are drawn from the same seed, by
// generators of their own for the faults, the trainer and the fates of single messages; which goroutine runs first is
// the scheduler's, so that a seed replays the same faults and not always the same interleaving.
type plan struct {
	Seed         uint64         `json:"seed"`
	Batches      int            `json:"batches"` // to be taken in all
	Params       testset.Params `json:"params"`
	Workers      int            `json:"workers"`
	Slots        int            `json:"slots"`
	Coordinators int            `json:"coordinators"`
	Window       int            `json:"window"` // 0 for the default
	Retain       int            `json:"retain"` // 0 for the default
	Transfer     transport      `json:"transfer"`
	Torn         float64        `json:"torn"` // share of the transfers from workers that do not come to their end in a storm
	InOrder      bool           `json:"in_order"`
	Ranks        int            `json:"ranks"`    // that take each batch together; 1 is a trainer alone
	Patience     time.Duration  `json:"patience"` // of ranks with one of them that is silent
	ThinkUS      int64          `json:"think_us"` // mean of what the trainer does between batches
	Faults       int            `json:"faults"`   // of one storm, at most
	GapUS        int64          `json:"gap_us"`   // mean between two of them
	LateUS       int64          `json:"late_us"`  // the most that a credit is late in a storm, so that some are of the seat before
}

func newPlan(seed uint64, batches int) plan {
	p := plan{Seed: seed, Batches: batches}
	r := p.rand(0)
	p.Workers, p.Slots, p.Coordinators = 1+r.IntN(4), 1+r.IntN(3), 1+r.IntN(3)
	p.Params = testset.Params{Salt: seed, Size: 16 << r.IntN(7), Delay: time.Millisecond << r.IntN(6), Jitter: true}
	p.ThinkUS = 500 << r.IntN(5)
	p.InOrder = r.IntN(3) == 0
	if r.IntN(2) == 0 {
		p.Params.HoleEvery = 2 + r.Uint64N(20)
	}
	if r.IntN(2) == 0 {
		p.Params.N = 5 + r.Uint64N(uint64(2*batches))
	}
	if r.IntN(4) == 0 {
		p.Params.BigEvery, p.Params.BigSize = 20+r.Uint64N(40), 512<<10+r.IntN(1<<20)
	}
	if r.IntN(2) == 0 {
		p.Params.SlowEvery, p.Params.Slow = 10+r.Uint64N(90), p.Params.Delay*time.Duration(10+r.IntN(90))
	}
	if r.IntN(3) == 0 {
		p.Window = 1 + r.IntN(24)
	}
	if r.IntN(3) == 0 {
		p.Retain = r.IntN(40) - 1
	}
	// The faults of a storm fall into the time that its batches would take without them, and then some.
	p.Faults = 3 + r.IntN(20)
	alone := max(p.ThinkUS, p.Params.Delay.Microseconds()/int64(p.Workers*p.Slots)) * int64(batches/storms)
	p.GapUS = max(alone*(1+r.Int64N(4))/int64(p.Faults), 10_000)
	if r.IntN(4) == 0 { // quick jobs in a wide window: they travel in runs
		p.Params.Delay, p.Window = 10*time.Microsecond<<r.IntN(5), 8*p.Workers*p.Slots+r.IntN(200)
	}
	if d := p.rand(4); p.Params.BigEvery > 0 || d.IntN(3) == 0 {
		if p.Params.BigEvery == 0 {
			p.Params.BigEvery, p.Params.BigSize = 3+d.Uint64N(10), 512<<10+d.IntN(256<<10)
		}
		p.Transfer = []transport{directly, directly, inChunks, unreachable}[d.IntN(4)]
		p.Torn = d.Float64()
	}
	if r := p.rand(5); r.IntN(2) == 0 || p.Transfer != "" {
		p.LateUS = 1000 << r.IntN(10)
	}
	r = p.rand(9)
	p.Ranks = []int{1, 2, 4}[r.IntN(3)]
	p.Patience = []time.Duration{3 * time.Second, 10 * time.Second, time.Minute, time.Minute}[r.IntN(4)]
	return p
}

// transport is how large payloads come to the trainer.
type transport string

const (
	directly    transport = "direct"      // from the workers that made them
	inChunks    transport = "chunks"      // in chunks, from the store
	unreachable transport = "unreachable" // from workers of which every second one cannot be dialled
)

func (p plan) rand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(p.Seed, stream)) }

func (p plan) String() string {
	data, _ := json.Marshal(p) // plain fields
	return string(data)
}

// about is a random duration with the given mean.
func about(r *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(r.ExpFloat64() * float64(mean))
}
