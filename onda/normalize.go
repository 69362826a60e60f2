package onda

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/jetbatch/jetbatch/dataset"
)

// Normalization has x count standard deviations from the mean, channel by channel: (v-mean)/scale. [Normalize] computes
// one over the training part of a split; the other parts are opened with the same.
type Normalization struct {
	// Channels by name, as ChannelMap leaves it.
	Channels map[string]Scale `json:"channels"`
	// Unit of means and scales, that of x without them.
	Unit string `json:"unit"`
	// Part of the split that they are computed over; empty without a split.
	Part string `json:"part,omitempty"`
	// Fingerprint of the tables and of the parameters that say which signals these are. Other data are ErrNormalize.
	Fingerprint string `json:"fingerprint"`
}

// Scale is the mean and the standard deviation of a channel; of one that is constant, 1 in its place.
type Scale struct {
	Mean  float64 `json:"mean"`
	Scale float64 `json:"scale"`
}

// Normalize reads all labelled samples of the part in use, as they are stored, and returns what Params.Normalize takes.
// Samples that are no finite numbers are passed over. Parameters and data alone decide on every bit of the result.
// progress, unless nil, hears of signals that are done, from several goroutines.
func Normalize(ctx context.Context, p Params, cfg Config, progress func(signals int)) (*Normalization, error) {
	p.Normalize = nil
	d, err := New(ctx, p, cfg)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	sums := make([]map[string]moments, len(d.signals))
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(max(1, cmp.Or(cfg.Concurrency, 8)))
	for i := range d.signals {
		if reading.Err() != nil {
			break
		}
		group.Go(func() error {
			var err error
			if sums[i], err = d.moments(reading, &d.signals[i]); err == nil && progress != nil {
				progress(1)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := map[string]moments{}
	for _, m := range sums { // in the order of the table
		for name, more := range m {
			all[name] = all[name].with(more)
		}
	}
	n := &Normalization{Channels: map[string]Scale{}, Unit: d.Unit()}
	if p.Split != nil {
		n.Part = p.Split.Use
	}
	for name, m := range all {
		if m.n == 0 {
			return nil, fmt.Errorf("%w: channel %q has no finite sample", ErrNormalize, name)
		}
		s := Scale{Mean: m.mean, Scale: math.Sqrt(m.squares / m.n)}
		if !(s.Scale > 0) {
			s.Scale = 1
		}
		n.Channels[name] = s
	}
	resolved := p.resolved()
	n.Fingerprint, err = resolved.normalizedData(n.Part, d.tables)
	return n, err
}

// moments are the number, the mean, and the sum of squares of the distances from it.
type moments struct{ n, mean, squares float64 }

// with merges two, after Chan, Golub and LeVeque.
func (m moments) with(o moments) moments {
	if m.n == 0 || o.n == 0 {
		return moments{m.n + o.n, m.mean + o.mean, m.squares + o.squares}
	}
	n, apart := m.n+o.n, o.mean-m.mean
	return moments{
		n: n, mean: m.mean + float64(apart*o.n)/n,
		squares: m.squares + o.squares + float64(float64(apart*apart)*float64(m.n*o.n))/n,
	}
}

func momentsOf(values []float64) (m moments) {
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			m.n++
			m.mean += v
		}
	}
	if m.n == 0 {
		return m
	}
	m.mean /= m.n
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			m.squares += float64((v - m.mean) * (v - m.mean))
		}
	}
	return m
}

// momentBlock is how many samples of a signal are read at a time.
const momentBlock = 1 << 15

// moments are those of the labelled samples of a signal, by channel.
func (d *Dataset) moments(ctx context.Context, s *LabeledSignal) (map[string]moments, error) {
	from, count, err := s.sampleRange(s.LabelSpan)
	if err != nil {
		return nil, err
	}
	channels, _ := channelIndices(s.Channels, nil)
	sums := make([]moments, len(channels))
	rows := make([]float64, len(channels)*int(min(momentBlock, count)))
	for done := int64(0); done < count; done += momentBlock {
		n := min(momentBlock, count-done)
		raw, err := d.reader.raw(ctx, &s.Signal, from+done, n)
		if err != nil {
			return nil, permanent(err)
		}
		decode(rows, &s.Signal, raw, channels)
		for i := range sums {
			sums[i] = sums[i].with(momentsOf(rows[int64(i)*n : (int64(i)+1)*n]))
		}
	}
	out := map[string]moments{}
	for i, c := range channels {
		out[s.Channels[c]] = sums[i]
	}
	return out, nil
}

// normalizedData is the fingerprint of what a normalization is computed over.
func (p *Params) normalizedData(part string, tables []dataset.Part) (string, error) {
	of := struct {
		Tables                  []dataset.Part
		SensorType, SensorLabel Names
		ChannelMap              map[string][]string
		Split                   *Split
		OnBad                   string
	}{tables, p.SensorType, p.SensorLabel, p.ChannelMap, nil, p.OnBad}
	if p.Split != nil {
		s := *p.Split
		s.Use = part
		of.Split = &s
	}
	data, err := json.Marshal(of)
	return digest(data), err
}

// shaping is what is done to samples on their way into a batch besides decoding.
type shaping struct {
	rate      float64 // of all windows; 0 for that of each signal
	filters   map[float64]*resampler
	normalize map[string]Scale
}

// shaping checks that every signal can be brought to the rate, and has its means and scales.
func (p *Params) shaping(o *opened, b *budget, ownSelector bool) (shaping, error) {
	sh := shaping{rate: p.Resample, filters: map[float64]*resampler{}}
	room := maxFilters
	for i := range o.signals {
		hz := o.signals[i].SampleRate
		if p.Resample == 0 || math.Abs(hz-p.Resample) <= maxRateError*p.Resample || sh.filters[hz] != nil {
			continue
		}
		filter, err := newResampler(hz, p.Resample, room, b)
		if err != nil {
			return sh, err
		}
		sh.filters[hz], room = filter, room-len(filter.taps)
	}
	if p.Normalize == nil {
		return sh, nil
	}
	sh.normalize = p.Normalize.Channels
	data, err := p.normalizedData(p.Normalize.Part, o.tables)
	if err != nil {
		return sh, err
	}
	if data != p.Normalize.Fingerprint {
		return sh, fmt.Errorf("%w: its fingerprint is %s, and that of this data, sensors, channel_map and split is %s: "+
			"compute it again", ErrNormalize, p.Normalize.Fingerprint, data)
	}
	if unit := o.signals[0].Unit; unit != p.Normalize.Unit {
		return sh, fmt.Errorf("%w: it is in %s, and x in %s", ErrNormalize, p.Normalize.Unit, unit)
	}
	for name, s := range sh.normalize {
		if !(s.Scale > 0) || math.IsInf(s.Scale, 0) || math.IsNaN(s.Mean) || math.IsInf(s.Mean, 0) {
			return sh, fmt.Errorf("%w: channel %q has mean %v and scale %v", ErrNormalize, name, s.Mean, s.Scale)
		}
	}
	for i := range o.signals {
		s := &o.signals[i]
		for _, c := range s.Channels {
			if !ownSelector && len(o.channels) > 0 && !slices.Contains(o.channels, c) {
				continue // it is not asked for
			}
			if _, ok := sh.normalize[c]; !ok {
				return sh, fmt.Errorf("%w: recording %s has channel %q, which it lacks", ErrNormalize, s.Recording, c)
			}
		}
	}
	return sh, nil
}

// rateFor is the rate at which a window of the signal comes.
func (sh *shaping) rateFor(s *Signal) float64 { return cmp.Or(sh.rate, s.SampleRate) }

// sampleRange gives the samples of a window, at the rate for windows, as many as its length has. A signal within a
// millionth of that rate keeps its samples and their places, and has as many in a window as the others: at its end
// these may be more than it has.
func (sh *shaping) sampleRange(s *Signal, span Span, length time.Duration) (first, count int64, err error) {
	hz := sh.rateFor(s)
	if hz == s.SampleRate || sh.filters[s.SampleRate] != nil {
		return s.sampleRangeAt(hz, span, length)
	}
	first, _, err = s.sampleRange(span)
	count = sampleIndex(hz, length)
	return max(0, min(first, s.samples()-count)), count, err
}

// plain reports whether samples of the signal are only decoded.
func (sh *shaping) plain(s *Signal) bool {
	return sh.filters[s.SampleRate] == nil && sh.normalize == nil
}

// inputs are the samples, as they are stored, that a window is made of.
func (d *Dataset) inputs(w *window) (from, to int64) {
	if filter := d.shaping.filters[w.signal.SampleRate]; filter != nil {
		return filter.inputs(w.first, w.count, w.signal.samples())
	}
	return w.first, min(w.first+w.count, max(w.signal.samples(), 1))
}

// rows gives a window of these channels, one row for each, at the rate for windows. raw are its inputs. A signal goes
// on with its last sample where it ends before the window.
func (d *Dataset) rows(w *window, raw []byte, channels []int) []float64 {
	s, first, count := &w.signal.Signal, w.first, w.count
	filter := d.shaping.filters[s.SampleRate]
	from, to := d.inputs(w)
	rows := make([]float64, int64(len(channels))*(to-from))
	decode(rows, s, raw, channels)
	if filter != nil || to-from < count {
		all := rows
		rows = make([]float64, int64(len(channels))*count)
		for i := range int64(len(channels)) {
			out, in := rows[i*count:(i+1)*count], all[i*(to-from):(i+1)*(to-from)]
			if filter != nil {
				filter.apply(out, in, first, from)
				continue
			}
			for t := copy(out, in); t < len(out); t++ {
				out[t] = in[len(in)-1]
			}
		}
	}
	if d.shaping.normalize != nil {
		for i, c := range channels {
			scale, ok := d.shaping.normalize[s.Channels[c]]
			if !ok {
				continue // nobody asks for it
			}
			row := rows[int64(i)*count : int64(i+1)*count]
			for t := range row {
				row[t] = (row[t] - scale.Mean) / scale.Scale
			}
		}
	}
	return rows
}
