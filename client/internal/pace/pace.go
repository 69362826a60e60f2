// Package pace says from when on a batch is a straggler: later than a job takes by far. It is a plain state
// machine: no clock, no goroutine, no NATS; durations are nanoseconds that the caller hands in.
//
// What a job takes is measured worker by worker, and of the workers' 95th percentiles the middle one counts. One
// distribution of all jobs would not do: a slow worker holds up the line, so that in a small window a good part of
// all results are its own, and lateness would be measured against the very worker that is late. A mixture of quick and
// slow jobs, on the other hand, is every worker's alike, and no worker's fault.
package pace

import "slices"

const (
	samples = 64   // jobs of one worker that are remembered
	enough  = 8    // jobs of one worker from which on it counts
	workers = 32   // that are remembered
	memory  = 1024 // jobs of all workers during which one that does none is remembered
	factor  = 3    // times the percentile

	// Least is the shortest patience, in nanoseconds: a job that is computed again costs a slot, and moments of
	// scheduling, garbage collection and network are no reason to.
	Least = 50e6
)

// Pace is what jobs take. The zero value knows nothing. Not safe for concurrent use.
type Pace struct {
	of       map[string]*worker
	count    uint64 // of observations
	patience int64  // 0 while unknown
}

type worker struct {
	took [samples]int64 // the last ones, as a ring
	n    int            // how many there were
	last uint64         // Pace.count at the last one
	high int64          // 95th percentile; 0 while there are not enough
}

// Observe takes what one job took on a worker.
func (p *Pace) Observe(name string, took int64) {
	p.count++
	w := p.of[name]
	if w == nil {
		if p.of == nil {
			p.of = make(map[string]*worker)
		}
		p.forget()
		w = new(worker)
		p.of[name] = w
	}
	w.took[w.n%samples] = took
	w.n++
	w.last = p.count
	if w.n%enough != 0 {
		return // the percentile moves slowly and costs a sort
	}
	recent := slices.Clone(w.took[:min(w.n, samples)])
	slices.Sort(recent)
	w.high = recent[(len(recent)*95+99)/100-1]
	p.settle()
}

// forget makes room for a worker.
func (p *Pace) forget() {
	if len(p.of) < workers {
		return
	}
	oldest := ""
	for name, w := range p.of {
		if oldest == "" || w.last < p.of[oldest].last {
			oldest = name
		}
	}
	delete(p.of, oldest)
}

// settle makes the patience out of the workers heard lately.
func (p *Pace) settle() {
	var highs []int64
	for name, w := range p.of {
		switch {
		case w.last+memory <= p.count:
			delete(p.of, name)
		case w.n >= enough:
			highs = append(highs, w.high)
		}
	}
	slices.Sort(highs)
	p.patience = max(factor*highs[(len(highs)-1)/2], Least)
}

// Patience returns how many nanoseconds a batch may be behind later ones before it is a straggler, and false while
// too few jobs were seen to say.
func (p *Pace) Patience() (ns int64, known bool) { return p.patience, p.patience > 0 }
