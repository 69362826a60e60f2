package wfdb

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// Signal is one signal of a record, as its line in the header describes it.
type Signal struct {
	// File that the samples are in, beside the header.
	File string
	// Format of the samples, such as 212: see [Formats].
	Format int
	// PerFrame is the number of samples in a frame, 1 for most signals.
	PerFrame int
	// Skew is how many frames later than signal 0 the samples of one moment are.
	Skew int
	// Offset is where the samples begin in the file, in bytes.
	Offset int64
	// A digital value d is (d-Baseline)/Gain units.
	Gain     float64
	Baseline int
	Unit     string
	// Zero is the middle of the converter's range, which the samples of some formats are relative to.
	Zero int
	// Initial is the first sample, which format 8 begins from.
	Initial int
	// Checksum is the sum of all samples, of which 16 bits count. HasChecksum says that the header has one.
	Checksum    int
	HasChecksum bool
	Description string
}

// Segment is one part of a record of several.
type Segment struct {
	// Name of the record, or "~" for a gap.
	Name string
	// Frames it has.
	Frames int64
}

// Header is a parsed header file.
type Header struct {
	Name string
	// Rate is frames per second.
	Rate float64
	// Frames of the record; 0 if the header does not say it.
	Frames  int64
	Signals []Signal
	// Segments, in place of Signals, of a record that has some.
	Segments []Segment
}

// Bounds of what a header may say.
const (
	maxSignals  = 9999
	maxSegments = 1 << 20
	maxPerFrame = 1 << 16
	maxSkew     = 1 << 30
	maxFrames   = 1 << 48
	maxRate     = 1e9
	minRate     = 1e-9
	defaultRate = 250
	defaultGain = 200
	gap         = "~"
)

// ParseHeader parses the text of a header file.
func ParseHeader(text []byte) (*Header, error) {
	var lines []string
	for line := range bytes.Lines(text) {
		if s := strings.TrimSpace(string(line)); s != "" && s[0] != '#' {
			lines = append(lines, s)
		}
	}
	if len(lines) == 0 {
		return nil, bad("a header without a line")
	}
	h := &Header{Rate: defaultRate}
	signals, segments, err := h.record(strings.Fields(lines[0]))
	if err != nil {
		return nil, err
	}
	lines = lines[1:]
	want := max(signals, 0)
	if segments >= 0 {
		want = segments
	}
	if len(lines) != want {
		return nil, bad("record %q: the header has %d lines of signals or segments, and says %d", h.Name, len(lines), want)
	}
	for _, line := range lines {
		if segments >= 0 {
			err = h.segment(strings.Fields(line))
		} else {
			err = h.signal(line)
		}
		if err != nil {
			return nil, err
		}
	}
	total := int64(0)
	for _, s := range h.Segments {
		if total += s.Frames; total > maxFrames {
			return nil, bad("record %q: its segments have more than %d frames", h.Name, int64(maxFrames))
		}
	}
	return h, nil
}

// record parses the first line: name[/segments] signals [rate[/counter[(base)]] [frames [time [date]]]].
func (h *Header) record(fields []string) (signals, segments int, err error) {
	name, count, several := strings.Cut(fields[0], "/")
	h.Name, segments = name, -1
	if several {
		if segments, err = strconv.Atoi(count); err != nil || segments < 1 || segments > maxSegments {
			return 0, 0, bad("record %q: %q segments", name, count)
		}
	}
	if len(fields) < 2 {
		return 0, 0, bad("record %q: no number of signals", name)
	}
	if signals, err = strconv.Atoi(fields[1]); err != nil || signals < 0 || signals > maxSignals {
		return 0, 0, bad("record %q: %q signals", name, fields[1])
	}
	if len(fields) > 2 {
		text, _, _ := strings.Cut(fields[2], "/")
		text, _, _ = strings.Cut(text, "(")
		if h.Rate, err = strconv.ParseFloat(text, 64); err != nil || !(h.Rate >= minRate && h.Rate <= maxRate) {
			return 0, 0, bad("record %q: a frequency of %q", name, fields[2])
		}
	}
	if len(fields) > 3 {
		if h.Frames, err = strconv.ParseInt(fields[3], 10, 64); err != nil || h.Frames < 0 || h.Frames > maxFrames {
			return 0, 0, bad("record %q: a length of %q", name, fields[3])
		}
	}
	return signals, segments, nil
}

func (h *Header) segment(fields []string) error {
	if len(fields) < 2 {
		return bad("record %q: a segment without a length", h.Name)
	}
	n, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || n < 0 || n > maxFrames {
		return bad("record %q: segment %q of length %q", h.Name, fields[0], fields[1])
	}
	if strings.Contains(fields[0], "/") {
		return bad("record %q: segment %q has segments of its own", h.Name, fields[0])
	}
	h.Segments = append(h.Segments, Segment{Name: fields[0], Frames: n})
	return nil
}

// signal parses: file format[xsamples][:skew][+offset] [gain[(baseline)][/unit] [resolution [zero [initial [checksum
// [block [description]]]]]]].
func (h *Header) signal(line string) error {
	fields := strings.Fields(line)
	wrong := func(what, text string) error {
		return bad("record %q: signal %d has %s %q", h.Name, len(h.Signals), what, text)
	}
	if len(fields) < 2 {
		return wrong("no format", line)
	}
	s := Signal{File: fields[0], PerFrame: 1, Gain: defaultGain, Unit: "mV"}
	var err error
	if err = s.format(fields[1]); err != nil {
		return wrong("a format", fields[1])
	}
	hasBaseline := false
	if len(fields) > 2 {
		if hasBaseline, err = s.gain(fields[2]); err != nil {
			return wrong("a gain", fields[2])
		}
	}
	for i, number := range []*int{nil, nil, nil, nil, &s.Zero, &s.Initial, &s.Checksum, nil} {
		if number == nil || i >= len(fields) {
			continue
		}
		if *number, err = strconv.Atoi(fields[i]); err != nil || *number != int(int32(*number)) {
			return wrong("a number", fields[i])
		}
	}
	if len(fields) < 6 {
		s.Initial = s.Zero
	}
	s.HasChecksum = len(fields) > 6
	if !hasBaseline {
		s.Baseline = s.Zero
	}
	if len(fields) > 8 {
		s.Description = strings.Join(fields[8:], " ")
	}
	h.Signals = append(h.Signals, s)
	return nil
}

func (s *Signal) format(text string) error {
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	format, err := strconv.Atoi(text[:end])
	if err != nil {
		return err
	}
	s.Format = format
	for text = text[end:]; text != ""; {
		mark := text[0]
		end := 1
		for end < len(text) && text[end] >= '0' && text[end] <= '9' {
			end++
		}
		n, err := strconv.ParseInt(text[1:end], 10, 64)
		switch {
		case err != nil:
			return err
		case mark == 'x' && n >= 1 && n <= maxPerFrame:
			s.PerFrame = int(n)
		case mark == ':' && n <= maxSkew:
			s.Skew = int(n)
		case mark == '+':
			s.Offset = n
		default:
			return strconv.ErrRange
		}
		text = text[end:]
	}
	return nil
}

// gain parses gain[(baseline)][/unit]. No gain, or one of 0, is that of an uncalibrated signal.
func (s *Signal) gain(text string) (hasBaseline bool, err error) {
	text, unit, _ := strings.Cut(text, "/")
	if unit != "" {
		s.Unit = unit
	}
	text, rest, hasBaseline := strings.Cut(text, "(")
	if hasBaseline {
		if s.Baseline, err = strconv.Atoi(strings.TrimSuffix(rest, ")")); err != nil {
			return false, err
		}
	}
	g, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(g) || math.IsInf(g, 0) {
		return false, strconv.ErrRange
	}
	if g != 0 {
		s.Gain = g
	}
	return hasBaseline, nil
}

// Missing reports whether the signal is in the header only, as in the layout of a record of several segments.
func (s *Signal) Missing() bool { return s.File == gap }
