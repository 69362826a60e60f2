package importer

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/onda/edf"
)

func readEDF(f *os.File, size int64) (*material, error) {
	e, err := edf.Read(f, size)
	if err != nil {
		return nil, err
	}
	notes, onsets, err := e.Annotations()
	if err != nil {
		return nil, err
	}
	m := &material{files: []string{f.Name()}, identity: e.Header()}
	if start, err := time.Parse("02.01.06 15.04.05", e.Date+" "+e.Time); err == nil {
		m.start = start
	}
	if len(onsets) > 0 {
		m.first = onsets[0]
	} else if slices.ContainsFunc(e.Signals, func(s edf.Signal) bool { return !s.Annotations }) {
		return nil, fmt.Errorf("%w: no samples", edf.ErrFormat)
	}
	for _, n := range notes {
		m.notes = append(m.notes, note{n.Onset, n.Duration, n.Text})
	}
	parts, err := edfStretches(e, onsets)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		s := stretch{start: onsets[part[0]] - m.first}
		var signals []int
		for i := range e.Signals {
			if !e.Signals[i].Annotations {
				s.channels, signals = append(s.channels, edfChannel(e, i, part[1]-part[0])), append(signals, i)
			}
		}
		name, header := f.Name(), e.Header()
		s.blocks = func(ctx context.Context) iter.Seq2[[][]int64, error] {
			return edfBlocks(ctx, name, header, signals, part)
		}
		if len(signals) > 0 {
			m.stretches = append(m.stretches, s)
		}
	}
	return m, nil
}

func edfChannel(e *edf.File, i, records int) channel {
	s := &e.Signals[i]
	c := channel{label: s.Label, samples: int64(s.PerRecord) * int64(records), encoding: encoding{
		unit: cmp.Or(s.Unit, "unknown"), rate: e.Rate(i),
		resolution: (s.PhysicalMax - s.PhysicalMin) / float64(s.DigitalMax-s.DigitalMin),
		sampleType: map[int]string{2: "int16", 3: "int32"}[e.Width],
	}}
	c.offset = s.PhysicalMin - float64(float64(s.DigitalMin)*c.resolution)
	return c
}

// edfStretches divides the records of a file where time is missing between them, at least half a sample of the quickest
// signal: times are rounded, in the header, too.
func edfStretches(f *edf.File, onsets []time.Duration) ([][2]int, error) {
	quickest := 1
	for _, s := range f.Signals {
		if !s.Annotations {
			quickest = max(quickest, s.PerRecord)
		}
	}
	tolerance := max(time.Microsecond, f.Since(1)/time.Duration(2*quickest))
	var out [][2]int
	from := 0
	for r := 1; r <= f.Records; r++ {
		if r < f.Records {
			off := onsets[r] - onsets[from] - f.Since(r-from)
			if off.Abs() <= tolerance {
				continue
			}
			if off < 0 {
				return nil, fmt.Errorf("%w: data record %d begins before the one before it ends", edf.ErrFormat, r)
			}
		}
		out = append(out, [2]int{from, r})
		from = r
	}
	return out, nil
}

// edfBlocks reads records one by one.
func edfBlocks(
	ctx context.Context, name string, header []byte, signals []int, part [2]int,
) iter.Seq2[[][]int64, error] {
	return func(yield func([][]int64, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			yield(nil, err)
			return
		}
		e, err := edf.Read(f, info.Size())
		if err == nil && !bytes.Equal(e.Header(), header) {
			err = errChanged
		}
		if err != nil {
			yield(nil, err)
			return
		}
		var record []byte
		out := make([][]int64, len(signals))
		for r := part[0]; r < part[1]; r++ {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			if record, err = e.ReadRecord(r, record); err != nil {
				yield(nil, err)
				return
			}
			for i, s := range signals {
				out[i] = out[i][:0]
				for raw := e.Raw(record, s); len(raw) > 0; raw = raw[e.Width:] {
					out[i] = append(out[i], int64(e.Sample(raw)))
				}
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}
