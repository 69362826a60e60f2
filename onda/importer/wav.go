package importer

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"math"
	"os"

	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/wav"
)

func readWAV(f *os.File, size int64) (*material, error) {
	w, err := wav.Read(f, size)
	if err != nil {
		return nil, err
	}
	m := &material{files: []string{f.Name()}}
	// What comes before the samples says what they are; how many there are says more.
	m.identity = binary.LittleEndian.AppendUint64(fmt.Appendf(nil, "%d %d %d %v ", w.Channels, w.Rate, w.Bits, w.Float),
		uint64(w.Samples))
	rate := float64(w.Rate)
	for _, n := range w.Marks {
		at := onda.TimeOf(rate, n.Sample)
		m.notes = append(m.notes, note{at, onda.TimeOf(rate, n.Sample+n.Length) - at, n.Text})
	}
	if w.Samples == 0 {
		return nil, fmt.Errorf("%w: no samples", wav.ErrFormat)
	}
	// The full scale of integers is 1, as that of floats is.
	enc := encoding{unit: "full_scale", rate: rate, resolution: math.Ldexp(1, 1-w.Bits)}
	switch {
	case w.Float:
		enc.sampleType, enc.resolution = fmt.Sprintf("float%d", w.Bits), 1
	case w.Bits == 8:
		enc.sampleType, enc.offset = "uint8", -1
	case w.Bits == 16:
		enc.sampleType = "int16"
	default:
		enc.sampleType = "int32"
	}
	s := stretch{}
	for c := range w.Channels {
		s.channels = append(s.channels, channel{
			label: fmt.Sprintf("sound %d", c+1), samples: w.Samples, encoding: enc,
		})
	}
	name := f.Name()
	s.blocks = func(ctx context.Context) iter.Seq2[[][]int64, error] { return wavBlocks(ctx, name, w) }
	m.stretches = append(m.stretches, s)
	return m, nil
}

func wavBlocks(ctx context.Context, name string, w *wav.File) iter.Seq2[[][]int64, error] {
	return func(yield func([][]int64, error) bool) {
		f, err := os.Open(name)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		src := bufio.NewReaderSize(io.NewSectionReader(f, w.At, w.Samples*int64(w.Frame())), 256<<10)
		const step = 1 << 14
		width := w.Bits / 8
		buf := make([]byte, step*w.Frame())
		out := make([][]int64, w.Channels)
		for done := int64(0); done < w.Samples; done += step {
			n := int(min(step, w.Samples-done))
			if err = ctx.Err(); err == nil {
				_, err = io.ReadFull(src, buf[:n*w.Frame()])
			}
			if err != nil {
				yield(nil, fmt.Errorf("%w: samples %d to %d: %w", wav.ErrFormat, done, done+int64(n), err))
				return
			}
			for c := range out {
				out[c] = out[c][:0]
				for t := range n {
					out[c] = append(out[c], bitsOf(buf[t*w.Frame()+c*width:][:width]))
				}
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// bitsOf is the value of a whole number, of which those of 8 bits have no sign, or the bits of a float.
func bitsOf(b []byte) int64 {
	v := uint64(0)
	for i, x := range b {
		v |= uint64(x) << (8 * i)
	}
	if len(b) == 1 {
		return int64(v)
	}
	unused := 64 - 8*len(b)
	return int64(v<<unused) >> unused
}
