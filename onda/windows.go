package onda

import (
	"fmt"
	"slices"
	"time"
)

// WindowConfig is what both iterators need to know of windows.
type WindowConfig struct {
	// Signals to cut windows from. Required.
	Signals []LabeledSignal
	// BatchSize is the number of windows in a batch. Required.
	BatchSize int
	// BatchDuration is the length of a window, a whole number of labels.
	// Required.
	BatchDuration time.Duration
	// Channels to choose from, by name. Defaults to all of the signal's.
	Channels []string
	// NChannels is how many channels are drawn for each window, without
	// replacement. Defaults to 0: all of them, in the order of Channels or of
	// the file.
	NChannels int
	// MissingChannels accepts signals that lack some of Channels, for a
	// [ChannelSelector] that knows what to do about it. Defaults to false.
	MissingChannels bool
}

// windows cuts windows; it is the part that both iterators share.
type windows struct {
	WindowConfig
	ids    []string // of the recording of each signal
	labels []int    // labels per window, of each signal
	grids  []rate   // of the labels of each signal
}

func newWindows(cfg WindowConfig) (windows, error) {
	w := windows{WindowConfig: cfg}
	if len(cfg.Signals) == 0 {
		return w, ErrNoSignals
	}
	if cfg.BatchSize < 1 || cfg.NChannels < 0 {
		return w, fmt.Errorf("%w: batch_size %d, n_channels %d", ErrParams, cfg.BatchSize, cfg.NChannels)
	}
	if cfg.BatchDuration <= 0 {
		return w, fmt.Errorf("%w: batch_duration %v", ErrWindow, cfg.BatchDuration)
	}
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		if err := s.validate(); err != nil {
			return w, err
		}
		grid := s.grid()
		labels, whole := grid.whole(cfg.BatchDuration)
		if !whole || labels < 1 {
			return w, fmt.Errorf("%w: batch_duration %v is not a whole number of labels of %v",
				ErrWindow, cfg.BatchDuration, grid)
		}
		if cfg.BatchDuration > s.LabelSpan.Duration() {
			return w, fmt.Errorf("%w: batch_duration %v, recording %s has labels for %v",
				ErrWindow, cfg.BatchDuration, s.Recording, s.LabelSpan)
		}
		if err := w.checkChannels(s); err != nil {
			return w, err
		}
		w.ids = append(w.ids, s.Recording.String())
		w.labels = append(w.labels, int(labels))
		w.grids = append(w.grids, grid)
	}
	return w, nil
}

func (w *windows) checkChannels(s *LabeledSignal) error {
	if !w.MissingChannels {
		for _, c := range w.Channels {
			if !slices.Contains(s.Channels, c) {
				return fmt.Errorf("%w: recording %s has %q, not %q", ErrChannels, s.Recording, s.Channels, c)
			}
		}
	}
	if n := len(w.candidates(s)); w.NChannels > n {
		return fmt.Errorf("%w: n_channels %d of %d in recording %s", ErrChannels, w.NChannels, n, s.Recording)
	}
	return nil
}

func (w *windows) candidates(s *LabeledSignal) []string {
	if len(w.Channels) > 0 {
		return w.Channels
	}
	return s.Channels
}

// item is the window of signal i that begins with the given label. Channels
// are drawn from d only if some are to be drawn.
func (w *windows) item(i, label int, d func() dice) Item {
	s := &w.Signals[i]
	start := s.LabelSpan.Start + w.grids[i].at(int64(label))
	item := Item{
		Signal: i, Recording: w.ids[i], Sensor: s.SensorLabel,
		Start: int64(start), Stop: int64(start + w.BatchDuration),
	}
	if w.NChannels > 0 {
		from := w.candidates(s)
		item.Channels = make([]string, w.NChannels)
		for j, c := range d().choose(len(from), w.NChannels) {
			item.Channels[j] = from[c]
		}
	} else if len(w.Channels) > 0 {
		item.Channels = slices.Clone(w.Channels)
	}
	return item
}
