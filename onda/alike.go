package onda

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// likeness lists the properties that signals of one tensor share.
type likeness struct {
	window    time.Duration
	unit      string   // that all are converted to; empty for the reference's
	channels  []string // that all have to have; empty for the reference's
	anyOf     bool     // channels are drawn: each signal may have its own
	selecting bool     // a program's own selector sees rates and channels
	resample  bool     // all are brought to one rate
	missing   bool     // a selector fills in for a missing channel
}

// reference chooses the signal that the others are compared with, among all
// that are selected, so that every part of a split has the same: the first, or
// the first of the largest group of like ones.
func (l *likeness) reference(signals []Signal, largest bool) *Signal {
	best := &signals[0]
	if !largest {
		return best
	}
	type group struct {
		first *Signal
		n     int
	}
	groups := map[string]*group{}
	most := 0
	for i := range signals {
		s := &signals[i]
		quantity, _, ok := parseUnit(s.Unit)
		if !ok {
			quantity = s.Unit
		}
		key := fmt.Sprintf("%q %q", s.SensorType, quantity)
		if !l.selecting {
			if !l.resample {
				key += fmt.Sprint(rateOf(s.SampleRate))
			}
			if len(l.channels) == 0 && !l.anyOf {
				key += fmt.Sprintf("%q", slices.Sorted(slices.Values(s.Channels)))
			}
		}
		g := groups[key]
		if g == nil {
			g = &group{first: s}
			groups[key] = g
		}
		if g.n++; g.n > most {
			most, best = g.n, g.first
		}
	}
	return best
}

// maxRateError is how far rates may be apart to count as one: those of tables
// that keep them as float32, or in six digits, are a millionth off.
const maxRateError = 1e-6

// compare checks that s can share a tensor with ref. The error is ErrUnlike or
// ErrChannels.
func (l *likeness) compare(ref, s *Signal) error {
	unlike := func(what string, one, other any) error {
		return fmt.Errorf("%w: recording %s has %s %v, recording %s has %v",
			ErrUnlike, ref.Recording, what, one, s.Recording, other)
	}
	if s.SensorType != ref.SensorType {
		return unlike("sensor_type", ref.SensorType, s.SensorType)
	}
	unit := ref.Unit
	if l.unit != "" {
		unit = l.unit
	}
	if _, ok := unitPower(s.Unit, unit); !ok {
		if l.unit != "" {
			return fmt.Errorf("%w: recording %s has sample_unit %s, which is not converted to unit %s",
				ErrUnlike, s.Recording, s.Unit, l.unit)
		}
		return unlike("sample_unit", ref.Unit, s.Unit)
	}
	if l.selecting {
		return nil
	}
	if !l.resample && (math.Abs(s.SampleRate-ref.SampleRate) > maxRateError*ref.SampleRate ||
		sampleIndex(s.SampleRate, l.window) != sampleIndex(ref.SampleRate, l.window)) {
		return unlike("sample_rate", ref.SampleRate, s.SampleRate)
	}
	switch {
	case l.missing:
		if !slices.ContainsFunc(l.channels, func(c string) bool { return slices.Contains(s.Channels, c) }) {
			return fmt.Errorf("%w: recording %s has %s, none of those asked for", ErrChannels, s.Recording,
				brackets(s.Channels))
		}
	case len(l.channels) > 0:
		for _, c := range l.channels {
			if !slices.Contains(s.Channels, c) {
				return fmt.Errorf("%w: recording %s has %q, not %q", ErrChannels, s.Recording, s.Channels, c)
			}
		}
	case !l.anyOf && !sameNames(ref.Channels, s.Channels):
		return unlike("channels", brackets(ref.Channels), brackets(s.Channels))
	}
	return nil
}

func brackets(names []string) string { return "[" + strings.Join(names, ", ") + "]" }

// sameNames reports whether two lists without repetition hold the same names.
func sameNames(a, b []string) bool {
	if slices.Equal(a, b) {
		return true
	}
	return len(a) == len(b) && slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// channelMap gives channels their names: other names of a channel by the one
// that it is to have.
type channelMap map[string][]string

// names turns the map around: the name to have by the name in the table.
func (m channelMap) names() (map[string]string, error) {
	out := map[string]string{}
	for name, others := range m {
		for _, other := range others {
			if before, ok := out[other]; ok && before != name {
				return nil, fmt.Errorf("%w: channel_map has %q as %q and as %q", ErrParams, other, min(before, name),
					max(before, name))
			}
			if _, ok := m[other]; ok && other != name {
				return nil, fmt.Errorf("%w: channel_map has %q as %q and as a name of its own", ErrParams, other, name)
			}
			out[other] = name
		}
	}
	return out, nil
}

// renamed is s with the names of a turned channel map. Two channels that end up
// with one name are ErrChannels.
func renamed(s Signal, names map[string]string) (Signal, error) {
	var channels []string
	for i, c := range s.Channels {
		if name, ok := names[c]; ok && name != c {
			if channels == nil {
				channels = slices.Clone(s.Channels)
			}
			channels[i] = name
		}
	}
	if channels == nil {
		return s, nil
	}
	if len(slices.Compact(slices.Sorted(slices.Values(channels)))) < len(channels) {
		return s, fmt.Errorf("%w: recording %s: by channel_map %s is %s, with a name twice",
			ErrChannels, s.Recording, brackets(s.Channels), brackets(channels))
	}
	s.Channels = channels
	return s, nil
}
