package wfdb

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
)

// format says how samples lie in a file: group of them in bytes, and how a group is decoded.
type format struct {
	samples, bytes int
	// partial is how many bytes the first k samples of a group take.
	partial []int
	invalid int32 // the value that marks a sample that is missing
	decode  func(out []int32, b []byte)
}

func u16(b []byte) int32 { return int32(b[0]) | int32(b[1])<<8 }

// signed is the value of the low bits of v, as two's complement.
func signed(v int32, bits int) int32 { return v << (32 - bits) >> (32 - bits) }

// formats are those of signal-5 that are not compressed. Format 8 has differences: see [reader].
var formats = map[int]format{
	8:   {1, 1, []int{0, 1}, -1 << 31, func(out []int32, b []byte) { out[0] = int32(int8(b[0])) }},
	16:  {1, 2, []int{0, 2}, -1 << 15, func(out []int32, b []byte) { out[0] = int32(int16(u16(b))) }},
	24:  {1, 3, []int{0, 3}, -1 << 23, func(out []int32, b []byte) { out[0] = signed(u16(b)|int32(b[2])<<16, 24) }},
	32:  {1, 4, []int{0, 4}, -1 << 31, func(out []int32, b []byte) { out[0] = u16(b) | u16(b[2:])<<16 }},
	61:  {1, 2, []int{0, 2}, -1 << 15, func(out []int32, b []byte) { out[0] = signed(int32(b[0])<<8|int32(b[1]), 16) }},
	80:  {1, 1, []int{0, 1}, -1 << 7, func(out []int32, b []byte) { out[0] = int32(b[0]) - 128 }},
	160: {1, 2, []int{0, 2}, -1 << 15, func(out []int32, b []byte) { out[0] = u16(b) - 1<<15 }},
	212: {2, 3, []int{0, 2, 3}, -1 << 11, func(out []int32, b []byte) {
		out[0] = signed(int32(b[0])|int32(b[1]&0x0f)<<8, 12)
		if len(out) > 1 {
			out[1] = signed(int32(b[2])|int32(b[1]&0xf0)<<4, 12)
		}
	}},
	310: {3, 4, []int{0, 2, 4, 4}, -1 << 9, func(out []int32, b []byte) {
		out[0] = signed(u16(b)>>1, 10)
		if len(out) > 1 {
			out[1] = signed(u16(b[2:])>>1, 10)
		}
		if len(out) > 2 {
			out[2] = signed(u16(b)>>11&0x1f|u16(b[2:])>>11&0x1f<<5, 10)
		}
	}},
	311: {3, 4, []int{0, 2, 3, 4}, -1 << 9, func(out []int32, b []byte) {
		for i, v := 0, uint32(b[0])|uint32(b[1])<<8|uint32(at(b, 2))<<16|uint32(at(b, 3))<<24; i < len(out); i++ {
			out[i] = signed(int32(v>>(10*i)), 10)
		}
	}},
}

// at is b[i], or 0 where the last group of a file is cut.
func at(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

// Formats are the numbers of the formats that are read.
func Formats() []int { return slices.Sorted(maps.Keys(formats)) }

// Invalid is the value that marks a missing sample of a signal; none does in format 8.
func (s *Signal) Invalid() int32 { return formats[s.Format].invalid }

// file is a signal file with the signals in it, whose samples are interleaved frame by frame.
type file struct {
	name    string
	format  format
	number  int
	offset  int64
	signals []int
	frame   int // samples
}

// Record is a record of one segment.
type Record struct {
	*Header
	files []file
	sizes []int64
}

// NewRecord checks the signals of a header against the sizes of their files, and counts its frames if the header does
// not. size is called for every file once.
func NewRecord(h *Header, size func(name string) (int64, error)) (*Record, error) {
	r := &Record{Header: h}
	for i := range h.Signals {
		s := &h.Signals[i]
		if s.Missing() {
			continue
		}
		form, ok := formats[s.Format]
		if !ok {
			return nil, bad("record %q: signal %d is in format %d, and those that are read are %v", h.Name, i, s.Format,
				Formats())
		}
		last := len(r.files) - 1
		if last < 0 || r.files[last].name != s.File {
			if slices.ContainsFunc(r.files, func(f file) bool { return f.name == s.File }) {
				return nil, bad("record %q: the signals of %s are not one after the other", h.Name, s.File)
			}
			r.files = append(r.files, file{name: s.File, format: form, number: s.Format, offset: s.Offset})
			last++
		}
		f := &r.files[last]
		if f.number != s.Format || s.Offset != f.offset && s.Offset != 0 {
			return nil, bad("record %q: the signals of %s differ in format or offset", h.Name, s.File)
		}
		f.signals, f.frame = append(f.signals, i), f.frame+s.PerFrame
	}
	for i := range r.files {
		f := &r.files[i]
		n, err := size(f.name)
		if err != nil {
			return nil, err
		}
		if n < f.offset {
			return nil, bad("record %q: samples from byte %d on, and %s has %d", h.Name, f.offset, f.name, n)
		}
		whole := f.framesIn(n)
		if h.Frames == 0 && i == 0 {
			h.Frames = whole
		}
		if h.Frames > whole {
			return nil, bad("record %q: %d frames, and %s holds %d", h.Name, h.Frames, f.name, whole)
		}
		r.sizes = append(r.sizes, n)
	}
	return r, nil
}

// framesIn is how many frames a file of n bytes holds.
func (f *file) framesIn(n int64) int64 {
	n -= f.offset
	samples := n / int64(f.format.bytes) * int64(f.format.samples)
	rest := int(n % int64(f.format.bytes))
	for k := f.format.samples; k > 0; k-- {
		if f.format.partial[k] <= rest {
			samples += int64(k)
			break
		}
	}
	return samples / int64(f.frame)
}

// Bytes is the size of all signal files.
func (r *Record) Bytes() int64 {
	n := int64(0)
	for _, size := range r.sizes {
		n += size
	}
	return n
}

// blockSamples is how many samples of a file a block has, about.
const blockSamples = 1 << 16

// Blocks reads the record from its beginning, block by block: the samples of every signal, nil of one that is missing.
// What is yielded is overwritten by the next block. Signal files are opened by open. After the last block the checksums
// of the header are compared.
func (r *Record) Blocks(
	ctx context.Context, open func(name string) (io.ReadCloser, error),
) iter.Seq2[[][]int32, error] {
	return func(yield func([][]int32, error) bool) {
		readers := make([]*reader, 0, len(r.files))
		defer func() {
			for _, rd := range readers {
				rd.src.Close()
			}
		}()
		widest := 1
		for i := range r.files {
			rd, err := newReader(&r.files[i], r.Header, open)
			if err != nil {
				yield(nil, err)
				return
			}
			readers = append(readers, rd)
			widest = max(widest, r.files[i].frame)
		}
		out := make([][]int32, len(r.Signals))
		sums := make([]int32, len(r.Signals))
		if len(readers) == 0 {
			return
		}
		step := int64(max(1, blockSamples/widest))
		for done := int64(0); done < r.Frames; done += step {
			frames := int(min(step, r.Frames-done))
			for _, rd := range readers {
				if err := rd.read(ctx, frames, out); err != nil {
					yield(nil, err)
					return
				}
			}
			for i, samples := range out {
				for _, v := range samples {
					sums[i] += v
				}
			}
			if !yield(out, nil) {
				return
			}
		}
		for i := range r.Signals {
			s := &r.Signals[i]
			if s.HasChecksum && !s.Missing() && int16(s.Checksum) != int16(sums[i]) {
				yield(nil, bad("record %q: the checksum of signal %d is %d, and the header says %d", r.Name, i,
					int16(sums[i]), int16(s.Checksum)))
				return
			}
		}
	}
}

// reader decodes a signal file.
type reader struct {
	*file
	header *Header
	src    io.ReadCloser
	buf    []byte
	flat   []int32 // decoded, interleaved
	left   []int32 // of a group that the last block took a part of
	last   []int32 // sample of each signal, which a difference is added to
}

func newReader(f *file, h *Header, open func(string) (io.ReadCloser, error)) (*reader, error) {
	src, err := open(f.name)
	if err != nil {
		return nil, err
	}
	rd := &reader{file: f, header: h, src: src, last: make([]int32, len(f.signals))}
	for i, s := range f.signals {
		rd.last[i] = int32(h.Signals[s].Initial)
	}
	if _, err := io.CopyN(io.Discard, src, f.offset); err != nil {
		src.Close()
		return nil, fmt.Errorf("wfdb: %s: %w", f.name, notEOF(err))
	}
	return rd, nil
}

// read decodes the next frames into out, by signal.
func (rd *reader) read(ctx context.Context, frames int, out [][]int32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	want := frames * rd.frame
	rd.flat = append(rd.flat[:0], rd.left...)
	if err := rd.fill(want); err != nil {
		return fmt.Errorf("wfdb: %s: %w", rd.name, err)
	}
	rd.left = append(rd.left[:0], rd.flat[want:]...)
	at := 0
	for i, s := range rd.signals {
		n := rd.header.Signals[s].PerFrame
		samples := slices.Grow(out[s][:0], frames*n)
		for f := range frames {
			samples = append(samples, rd.flat[f*rd.frame+at:f*rd.frame+at+n]...)
		}
		if rd.number == 8 {
			for k := range samples {
				rd.last[i] += samples[k]
				samples[k] = rd.last[i]
			}
		}
		out[s] = samples
		at += n
	}
	return nil
}

// fill decodes groups until there are want samples.
func (rd *reader) fill(want int) error {
	form := rd.format
	groups := max(0, want-len(rd.flat)+form.samples-1) / form.samples
	rd.buf = slices.Grow(rd.buf[:0], groups*form.bytes)[:groups*form.bytes]
	n, err := io.ReadFull(rd.src, rd.buf)
	for b := rd.buf[:n]; len(b) > 0; {
		k := form.samples
		if len(b) < form.bytes {
			for k > 0 && form.partial[k] > len(b) {
				k--
			}
		}
		at := len(rd.flat)
		rd.flat = append(rd.flat, make([]int32, k)...)
		if k > 0 {
			form.decode(rd.flat[at:], b)
		}
		b = b[min(len(b), form.bytes):]
	}
	if len(rd.flat) < want {
		return notEOF(err)
	}
	return nil
}
