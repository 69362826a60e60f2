package top

import (
	"time"

	"github.com/jetbatch/jetbatch/schema"
)

// track is the last minute of one batcher.
type track struct{ samples []sample }

type sample struct {
	at     time.Time
	gen    string
	reader string
	taken  uint64
	timing schema.Timing
}

func (t *track) add(at time.Time, b schema.Status) {
	t.samples = append(t.samples, sample{at, b.Gen, b.Reader, b.Taken, b.Timing})
	t.samples = t.samples[older(t.samples, at.Add(-span), func(s sample) time.Time { return s.at }):]
}

// older is how many samples can go so that one at most is before since.
func older[T any](samples []T, since time.Time, at func(T) time.Time) int {
	n := 0
	for n+1 < len(samples) && !at(samples[n+1]).After(since) {
		n++
	}
	return n
}

// taken is how many batches were taken between two samples. A new generation counts anew.
func taken(a, b sample) uint64 {
	if a.gen != b.gen || b.taken < a.taken {
		return 0
	}
	return b.taken - a.taken
}

// rates returns the batches per second of the last minute before now in n equal parts, the oldest first; -1 where
// nothing is known.
func (t *track) rates(now time.Time, n int) []float64 {
	rates := make([]float64, n)
	part := span / time.Duration(n)
	for i := range rates {
		from := now.Add(-span + time.Duration(i)*part)
		rates[i] = t.rate(from, from.Add(part))
	}
	return rates
}

// rate is the mean of what is known of a time, or -1.
func (t *track) rate(from, to time.Time) float64 {
	var batches float64
	var known time.Duration
	for i := 1; i < len(t.samples); i++ {
		a, b := t.samples[i-1], t.samples[i]
		length := b.at.Sub(a.at)
		common := earlier(b.at, to).Sub(later(a.at, from))
		if length <= 0 || common <= 0 {
			continue
		}
		batches += float64(taken(a, b)) * float64(common) / float64(length)
		known += common
	}
	if known == 0 {
		return -1
	}
	return batches / known.Seconds()
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// timing is where the trainer's time went in the last minute, or since its process took the batcher, and for how many
// batches.
func (t *track) timing() (sum schema.Timing, batches uint64) {
	for i := len(t.samples) - 1; i > 0; i-- {
		a, b := t.samples[i-1], t.samples[i]
		if a.reader != b.reader || b.timing.Wait < a.timing.Wait || b.timing.Trainer < a.timing.Trainer {
			break
		}
		batches += taken(a, b)
		d := b.timing
		d.Sub(a.timing)
		sum.Add(d)
	}
	return sum, batches
}

// pace is how many jobs a worker has done lately, and where the time of those of the last minute went.
type pace struct{ samples, long []doneAt }

type doneAt struct {
	at    time.Time
	done  uint64
	spent []schema.Spent
}

func (p *pace) add(at time.Time, w schema.WorkerStatus) {
	if n := len(p.samples); n > 0 && w.Done < p.samples[n-1].done {
		p.samples, p.long = nil, nil // another process of the same name
	}
	when := func(s doneAt) time.Time { return s.at }
	p.samples = append(p.samples, doneAt{at, w.Done, nil})
	p.samples = p.samples[older(p.samples, at.Add(-shortSpan), when):]
	p.long = append(p.long, doneAt{at, w.Done, w.Spent})
	p.long = p.long[older(p.long, at.Add(-span), when):]
}

// spent is where the time went in the last minute.
func (p *pace) spent() (lately []schema.Spent) {
	first, last := p.long[0], p.long[len(p.long)-1]
	for _, s := range last.spent {
		before := find(first.spent, func(b schema.Spent) bool { return b.Kind == s.Kind })
		lately = append(lately, schema.Spent{
			Kind: s.Kind, Queue: less(s.Queue, before.Queue), Materialize: less(s.Materialize, before.Materialize),
			Store: less(s.Store, before.Store),
		})
	}
	return lately
}

func less(a, b schema.Sum) schema.Sum {
	if a.N < b.N {
		return a
	}
	return schema.Sum{Total: a.Total - b.Total, N: a.N - b.N}
}

func (p *pace) rate() (perSecond float64, known bool) {
	if p == nil || len(p.samples) < 2 {
		return 0, false
	}
	a, b := p.samples[0], p.samples[len(p.samples)-1]
	d := b.at.Sub(a.at).Seconds()
	if d <= 0 {
		return 0, false
	}
	return float64(b.done-a.done) / d, true
}
