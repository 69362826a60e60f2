package onda

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Span is a half-open stretch of time, measured from the start of the
// recording (not of the signal): Start is inside, Stop is not.
type Span struct {
	Start time.Duration
	Stop  time.Duration
}

// Duration is Stop minus Start.
func (s Span) Duration() time.Duration { return s.Stop - s.Start }

// Contains reports whether all of other lies inside s.
func (s Span) Contains(other Span) bool {
	return s.Start <= other.Start && other.Stop <= s.Stop && other.Start <= other.Stop
}

// validate refuses what no table may have.
func (s Span) validate() error {
	if s.Start < 0 || s.Stop < s.Start || s.Stop > maxTime {
		return fmt.Errorf("span %v", s)
	}
	return nil
}

// String gives the span as [start, stop).
func (s Span) String() string { return fmt.Sprintf("[%v, %v)", s.Start, s.Stop) }

// Signal is one row of an onda.signal@2 table: samples of one sensor of one
// recording, and how they are encoded.
//
// Field names and meanings follow the Onda format,
// https://github.com/beacon-biosignals/Onda.jl.
type Signal struct {
	Recording   uuid.UUID
	SensorType  string
	SensorLabel string
	// Channels names the channels in the order in which they are interleaved.
	Channels []string
	// Unit is what a decoded sample counts, such as "millivolt".
	Unit string
	// Resolution and Offset decode a stored sample: stored*Resolution + Offset.
	Resolution float64
	Offset     float64
	// SampleType is one of int8 to int64, uint8 to uint64, float32, float64.
	SampleType string
	// SampleRate is in samples per second.
	SampleRate float64
	// Path is where the samples lie, as the Source understands it.
	Path string
	// Format is "lpcm" or "lpcm.zst".
	Format string
	// Span is what the samples cover.
	Span Span
	// Group is the value of the group column, the recording by default.
	Group string
}

const (
	formatLPCM = "lpcm"
	formatZstd = "lpcm.zst"

	// maxSampleRate is where the nanosecond grid of spans ends.
	maxSampleRate = 1e9
	// maxTime bounds spans (36 years), so that sample counts fit an int64.
	maxTime time.Duration = 1 << 60
)

// Validate refuses what cannot be read from a table, so that nothing later
// divides by a rate of zero or allocates for a negative span: ErrSignal.
func (s *Signal) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: recording %s: %s", ErrSignal, s.Recording, fmt.Sprintf(format, args...))
	}
	switch {
	case len(s.Channels) == 0:
		return bad("no channels")
	case len(s.Channels) > maxChannels:
		return bad("%d channels, at most %d", len(s.Channels), maxChannels)
	case !(s.SampleRate >= minRate && s.SampleRate <= maxSampleRate):
		return bad("sample_rate %v is not in [1e-9, 1e9]", s.SampleRate)
	case math.IsNaN(s.Resolution) || math.IsInf(s.Resolution, 0):
		return bad("sample_resolution_in_unit is %v", s.Resolution)
	case math.IsNaN(s.Offset) || math.IsInf(s.Offset, 0):
		return bad("sample_offset_in_unit is %v", s.Offset)
	case s.Span.validate() != nil:
		return bad("span %v", s.Span)
	case s.Format != formatLPCM && s.Format != formatZstd:
		return bad("file_format %q is neither %q nor %q", s.Format, formatLPCM, formatZstd)
	case s.Path == "":
		return bad("no file_path")
	}
	width, ok := sampleWidth(s.SampleType)
	if !ok {
		return bad("sample_type %q", s.SampleType)
	}
	if n := sampleIndex(s.SampleRate, s.Span.Duration()); n > math.MaxInt64/int64(width*len(s.Channels)) {
		return bad("span %v holds too many samples", s.Span)
	}
	for _, texts := range [][]string{{s.SensorType, s.SensorLabel, s.Unit, s.Path}, s.Channels} {
		for _, text := range texts {
			if err := checkText(text); err != nil {
				return bad("%v", err)
			}
		}
	}
	sorted := slices.Sorted(slices.Values(s.Channels))
	if len(slices.Compact(sorted)) != len(s.Channels) {
		return bad("a channel name occurs twice in %q", s.Channels)
	}
	return nil
}

// frame is the number of bytes of one sample of every channel.
func (s *Signal) frame() int64 {
	width, _ := sampleWidth(s.SampleType)
	return int64(width * len(s.Channels))
}

// samples is how many samples per channel the span promises.
func (s *Signal) samples() int64 { return sampleIndex(s.SampleRate, s.Span.Duration()) }

// sampleRange gives the samples that span covers, counted from the start of
// the signal. The start is rounded down to a sample, and the count depends on
// nothing but the duration, so that windows of one duration always have one
// shape, wherever they begin.
func (s *Signal) sampleRange(span Span) (first, count int64, err error) {
	return s.sampleRangeAt(s.SampleRate, span, span.Duration())
}

// sampleRangeAt is sampleRange at another rate than the signal's, and with the
// count of a duration that span may be a nanosecond off from.
func (s *Signal) sampleRangeAt(hz float64, span Span, length time.Duration) (first, count int64, err error) {
	if !s.Span.Contains(span) {
		return 0, 0, fmt.Errorf("%w: recording %s: %v is not inside %v", ErrOutsideSignal, s.Recording, span, s.Span)
	}
	first = sampleIndex(hz, span.Start-s.Span.Start)
	count = sampleIndex(hz, length)
	// Both indices may have been snapped to a sample less than a nanosecond
	// away, which together can reach one sample past the end.
	if over := first + count - sampleIndex(hz, s.Span.Duration()); over > 0 {
		first = max(0, first-over)
	}
	return first, count, nil
}

// sampleIndex is the index of the last sample taken at or before t.
func sampleIndex(hz float64, t time.Duration) int64 { return rateOf(hz).index(t) }

// Annotation is one row of an onda.annotation@1 table, with the label that
// one of its further columns gives.
type Annotation struct {
	Recording uuid.UUID
	ID        uuid.UUID
	Span      Span
	Label     string
	// Group is the value of the group column, the recording by default.
	Group string
}

// Validate refuses what cannot be read from a table: ErrLabels.
func (a *Annotation) Validate() error {
	if err := cmp.Or(a.Span.validate(), checkText(a.Label)); err != nil {
		return fmt.Errorf("%w: recording %s: %w", ErrLabels, a.Recording, err)
	}
	return nil
}
