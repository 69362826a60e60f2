package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/wfdb"
)

// maxHeader bounds headers and annotation files, which are read as a whole: a header of a million segments is shorter.
const maxHeader = 32 << 20

func readWhole(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxHeader {
		return nil, fmt.Errorf("%w: %s is no regular file of up to %d bytes", wfdb.ErrFormat, filepath.Base(name), maxHeader)
	}
	return os.ReadFile(name)
}

// onDisk is the path of a file that a header names, or that belongs to it. On disks that once were without case it may
// be in capitals, or not, where the header says otherwise.
func onDisk(dir, name string) string {
	path := filepath.Join(dir, filepath.FromSlash(name))
	folder, base := filepath.Split(path)
	end := filepath.Ext(base)
	for _, other := range []string{
		base, strings.TrimSuffix(base, end) + strings.ToUpper(end), strings.ToUpper(base), strings.ToLower(base),
	} {
		if _, err := os.Stat(folder + other); err == nil {
			return folder + other
		}
	}
	return path
}

// segmentsOf are the headers of the records that a header has as its segments; none if it cannot be read.
func segmentsOf(name string) (segments []string) {
	text, err := readWhole(name)
	if err != nil {
		return nil
	}
	if h, err := wfdb.ParseHeader(text); err == nil {
		for _, s := range h.Segments {
			segments = append(segments, onDisk(filepath.Dir(name), s.Name+".hea"))
		}
	}
	return segments
}

func (p *planner) readWFDB(name string) (*material, error) {
	m := &material{}
	h, err := m.header(name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(name)
	at := int64(0)
	if h.Segments == nil {
		if at, err = m.wfdbStretch(dir, h, 0, h.Rate); err != nil {
			return nil, err
		}
	}
	for _, s := range h.Segments {
		if s.Frames == 0 || s.Name == "~" { // a layout, or a gap
			at += s.Frames
			continue
		}
		segment, err := m.header(onDisk(dir, s.Name+".hea"))
		if err != nil {
			return nil, err
		}
		if segment.Rate != h.Rate || segment.Frames != 0 && segment.Frames != s.Frames || segment.Segments != nil {
			return nil, fmt.Errorf("%w: segment %s has %d frames at %v Hz, and the record says %d at %v",
				wfdb.ErrFormat, s.Name, segment.Frames, segment.Rate, s.Frames, h.Rate)
		}
		segment.Frames = s.Frames
		if _, err := m.wfdbStretch(dir, segment, at, h.Rate); err != nil {
			return nil, err
		}
		at += s.Frames
	}
	if len(m.stretches) == 0 {
		return nil, fmt.Errorf("%w: record %q has no samples", wfdb.ErrFormat, h.Name)
	}
	if first := m.stretches[0].start; first > 0 { // a gap before anything: the recording begins with samples
		m.first = first
		for i := range m.stretches {
			m.stretches[i].start -= first
		}
	}
	return m, p.wfdbNotes(m, onDisk(dir, base(name)+"."+p.Annotator), h.Rate, at)
}

func (m *material) header(name string) (*wfdb.Header, error) {
	text, err := readWhole(name)
	if err != nil {
		return nil, err
	}
	m.identity = append(m.identity, text...)
	m.files = append(m.files, name)
	return wfdb.ParseHeader(text)
}

// wfdbStretch adds a record of one segment and gives how many frames it has.
func (m *material) wfdbStretch(dir string, h *wfdb.Header, at int64, rate float64) (int64, error) {
	path := func(name string) string { return onDisk(dir, name) }
	r, err := wfdb.NewRecord(h, func(name string) (int64, error) {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return 0, fmt.Errorf("%w: record %q: its samples are in %q, which leaves the folder", wfdb.ErrFormat, h.Name, name)
		}
		info, err := os.Stat(path(name))
		if err != nil {
			return 0, err
		}
		m.files = append(m.files, path(name))
		return info.Size(), nil
	})
	if err != nil {
		return 0, err
	}
	s := stretch{start: onda.TimeOf(rate, at)}
	var present []int
	for i := range h.Signals {
		w := &h.Signals[i]
		skip := int64(w.Skew) * int64(w.PerFrame)
		samples := r.Frames*int64(w.PerFrame) - skip
		if w.Missing() || samples <= 0 {
			continue
		}
		c := channel{label: cmp.Or(w.Description, "channel"), samples: samples, skip: skip, encoding: encoding{
			unit: w.Unit, rate: h.Rate * float64(w.PerFrame), resolution: 1 / w.Gain,
			offset: -float64(w.Baseline) / w.Gain, sampleType: wfdbTypes[w.Format],
		}}
		if w.Baseline == 0 {
			c.offset = 0 // and not -0
		}
		invalid := int64(w.Invalid())
		if w.Format != 8 {
			c.invalid = &invalid
		}
		s.channels, present = append(s.channels, c), append(present, i)
	}
	s.blocks = func(ctx context.Context) iter.Seq2[[][]int64, error] {
		return wfdbBlocks(r.Blocks(ctx, func(name string) (io.ReadCloser, error) { return os.Open(path(name)) }), present)
	}
	if len(present) > 0 {
		m.stretches = append(m.stretches, s)
	}
	return r.Frames, nil
}

// wfdbTypes are the narrowest sample types that hold what a format has; differences may add up to anything.
var wfdbTypes = map[int]string{
	8: "int32", 16: "int16", 24: "int32", 32: "int32", 61: "int16", 80: "int8", 160: "int16", 212: "int16", 310: "int16",
	311: "int16",
}

func wfdbBlocks(blocks iter.Seq2[[][]int32, error], present []int) iter.Seq2[[][]int64, error] {
	return func(yield func([][]int64, error) bool) {
		out := make([][]int64, len(present))
		for block, err := range blocks {
			if err != nil {
				yield(nil, err)
				return
			}
			for i, s := range present {
				out[i] = out[i][:0]
				for _, v := range block[s] {
					out[i] = append(out[i], int64(v))
				}
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// wfdbNotes adds the annotations of a record of so many frames, if there are any.
func (p *planner) wfdbNotes(m *material, name string, rate float64, frames int64) error {
	data, err := readWhole(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	m.files = append(m.files, name)
	notes, own, err := wfdb.ParseAnnotations(data)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	end := onda.TimeOf(rate, frames)
	rate = cmp.Or(own, rate)
	last := map[string]int{}
	for _, n := range notes {
		if n.Sample < 0 || n.Sample >= maxSample {
			return fmt.Errorf("%w: %s: an annotation at sample %d", wfdb.ErrFormat, filepath.Base(name), n.Sample)
		}
		at := onda.TimeOf(rate, n.Sample)
		text := cmp.Or(strings.TrimPrefix(n.Text, "("), n.Symbol)
		if !slices.Contains(p.Lasting, n.Symbol) {
			if n.Symbol != "+" && n.Symbol != `"` {
				text = n.Symbol // of a beat the text is an aside
			}
			m.notes = append(m.notes, note{at, 0, text})
			continue
		}
		if i, ok := last[n.Symbol]; ok {
			m.notes[i].duration = max(0, at-m.notes[i].onset)
		}
		last[n.Symbol] = len(m.notes)
		m.notes = append(m.notes, note{at, max(0, end-at), text})
	}
	return nil
}

// maxSample keeps times within a time.Duration at any rate that a record may have.
const maxSample = int64(100*365*24*time.Hour/time.Second) * 1e6
