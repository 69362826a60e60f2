package onda

import (
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// Window is the samples of one item, before channels are selected.
type Window struct {
	Recording uuid.UUID
	// Channels of the signal, in the order of the file.
	Channels []string
	// Wanted are the channels that the job asks for; none means all.
	Wanted []string
	// SampleRate is in samples per second: that of the signal, or Params.Resample.
	SampleRate float64
	// Span is what the samples cover, from the start of the recording.
	Span Span
	// Time is the number of samples per channel.
	Time int
	// Data holds channel c at Data[c*Time:(c+1)*Time], in the signal's unit, or as Params.Normalize scales it.
	Data []float64
}

// Row is the samples of channel c.
func (w *Window) Row(c int) []float64 { return w.Data[c*w.Time : (c+1)*w.Time : (c+1)*w.Time] }

// ChannelSelector turns the samples of one item into what x holds for it, in
// place of the plain selection by name. Select is called concurrently, has to
// be a pure function of w, and must not keep w.Data or change it.
type ChannelSelector interface {
	// Select returns the item's values in row-major order and their shape,
	// without the batch dimension: {channel, time}, or with as many
	// dimensions as it likes. All items of a batch need the same shape.
	Select(w Window) (shape []int, data []float64, err error)
}

// SelectorFunc makes a function a ChannelSelector.
type SelectorFunc func(w Window) (shape []int, data []float64, err error)

// Select calls f.
func (f SelectorFunc) Select(w Window) ([]int, []float64, error) { return f(w) }

// ZeroMissingChannels selects these channels in this order, with zeros for
// those that a signal lacks: shape {len(channels), time}. Set
// [WindowConfig].MissingChannels if the iterator's channels may be missing.
type ZeroMissingChannels []string

// Select implements ChannelSelector.
func (z ZeroMissingChannels) Select(w Window) ([]int, []float64, error) {
	out := make([]float64, len(z)*w.Time)
	for i, name := range z {
		if c := slices.Index(w.Channels, name); c >= 0 {
			copy(out[i*w.Time:], w.Row(c))
		}
	}
	return []int{len(z), w.Time}, out, nil
}

// EvenOdds sorts the wanted channels into two compartments, a dimension before
// the channels: shape {2, channels/2, time}, first the second, fourth and
// further even channels, then the first, third and further odd ones. An odd
// number of channels is ErrChannels.
type EvenOdds struct{}

// Select implements ChannelSelector.
func (EvenOdds) Select(w Window) ([]int, []float64, error) {
	channels, err := channelIndices(w.Channels, w.Wanted)
	if err != nil {
		return nil, nil, err
	}
	if len(channels)%2 != 0 {
		return nil, nil, fmt.Errorf("%w: even and odd of %d channels", ErrChannels, len(channels))
	}
	out := make([]float64, 0, len(channels)*w.Time)
	for _, first := range []int{1, 0} {
		for i := first; i < len(channels); i += 2 {
			out = append(out, w.Row(channels[i])...)
		}
	}
	return []int{2, len(channels) / 2, w.Time}, out, nil
}

// channelIndices finds the wanted channels among those of a signal; none
// wanted means all.
func channelIndices(channels, wanted []string) ([]int, error) {
	if len(wanted) == 0 {
		all := make([]int, len(channels))
		for i := range all {
			all[i] = i
		}
		return all, nil
	}
	out := make([]int, len(wanted))
	for i, name := range wanted {
		if out[i] = slices.Index(channels, name); out[i] < 0 {
			return nil, fmt.Errorf("%w: %q has no %q", ErrChannels, channels, name)
		}
	}
	return out, nil
}
