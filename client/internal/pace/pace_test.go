package pace

import (
	"math"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// dumb remembers everything and looks through all of it.
type dumb struct {
	seen []observation
	last int64 // what the patience was made to be
}

type observation struct {
	worker string
	took   int64
}

func (d *dumb) of(name string, until int) (took []int64, last int) {
	for i, o := range d.seen[:until] {
		if o.worker == name {
			took, last = append(took, o.took), i+1
		}
	}
	return took, last
}

func (d *dumb) observe(name string, took int64) {
	d.seen = append(d.seen, observation{name, took})
	if mine, _ := d.of(name, len(d.seen)); len(mine)%enough != 0 {
		return
	}
	var highs []int64
	for w := range 4 {
		all, last := d.of(strconv.Itoa(w), len(d.seen))
		all = all[:len(all)/enough*enough] // what came since is not looked at yet
		if len(all) == 0 || last+memory <= len(d.seen) {
			continue
		}
		all = slices.Clone(all[max(0, len(all)-samples):])
		slices.Sort(all)
		highs = append(highs, all[int(math.Ceil(float64(len(all))*0.95))-1])
	}
	slices.Sort(highs)
	d.last = max(3*highs[(len(highs)-1)/2], Least)
}

func TestAgainstDumb(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var p Pace
		d := new(dumb)
		for range rapid.IntRange(0, 400).Draw(t, "observations") {
			name := strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "worker"))
			took := rapid.Int64Range(0, 1e9).Draw(t, "took")
			p.Observe(name, took)
			d.observe(name, took)
			if ns, known := p.Patience(); ns != d.last || known != (d.last > 0) {
				t.Fatalf("after %d: patience %d, %v; want %d", len(d.seen), ns, known, d.last)
			}
		}
	})
}

func TestPatience(t *testing.T) {
	t.Parallel()
	const ms = int64(1e6)
	tests := []struct {
		name string
		feed func(p *Pace)
		want int64 // 0: unknown
	}{
		{"nothing seen", func(*Pace) {}, 0},
		{"too little seen", func(p *Pace) { repeat(p, "a", enough-1, 100*ms) }, 0},
		{"too little seen of each", func(p *Pace) {
			for i := range 20 {
				repeat(p, strconv.Itoa(i), enough-1, 100*ms)
			}
		}, 0},
		{"quick jobs", func(p *Pace) { repeat(p, "a", 100, ms) }, Least},
		{"even jobs", func(p *Pace) { repeat(p, "a", 100, 100*ms) }, 300 * ms},
		{"one job in forty is slow", func(p *Pace) {
			for range 4 {
				repeat(p, "a", 39, 20*ms)
				repeat(p, "a", 1, 2000*ms)
			}
		}, 60 * ms},
		{"one job in four is slow", func(p *Pace) {
			for range 20 {
				repeat(p, "a", 3, 20*ms)
				repeat(p, "a", 1, 2000*ms)
			}
		}, 6000 * ms},
		{"one worker of two is slow, and holds a small window up", func(p *Pace) {
			for range 20 {
				repeat(p, "a", 4, 20*ms)
				repeat(p, "b", 1, 2000*ms)
			}
		}, 60 * ms},
		{"two workers of three are slow", func(p *Pace) {
			for range 20 {
				repeat(p, "a", 4, 20*ms)
				repeat(p, "b", 1, 2000*ms)
				repeat(p, "c", 1, 2000*ms)
			}
		}, 6000 * ms},
		{"jobs became quick", func(p *Pace) {
			repeat(p, "a", 100, 2000*ms)
			repeat(p, "a", samples+enough, 20*ms)
		}, 60 * ms},
		{"a worker that left no longer counts", func(p *Pace) {
			repeat(p, "a", 20, 20*ms)
			repeat(p, "b", memory+samples, 2000*ms)
		}, 6000 * ms},
		{"of many workers the latest count", func(p *Pace) {
			for i := range 2 * workers {
				repeat(p, strconv.Itoa(i), enough, int64(i+1)*100*ms)
			}
		}, 3 * (workers + workers/2) * 100 * ms},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var p Pace
			tt.feed(&p)
			if ns, known := p.Patience(); ns != tt.want || known != (tt.want > 0) {
				t.Errorf("patience %d, %v; want %d", ns, known, tt.want)
			}
		})
	}
}

func repeat(p *Pace, worker string, n int, took int64) {
	for range n {
		p.Observe(worker, took)
	}
}
