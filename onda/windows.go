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

// check does without what windows keep of each signal.
func (cfg *WindowConfig) check() error {
	if len(cfg.Signals) == 0 {
		return ErrNoSignals
	}
	if cfg.BatchSize < 1 || cfg.NChannels < 0 {
		return fmt.Errorf("%w: batch_size %d, n_channels %d", ErrParams, cfg.BatchSize, cfg.NChannels)
	}
	if cfg.BatchDuration <= 0 {
		return fmt.Errorf("%w: batch_duration %v", ErrWindow, cfg.BatchDuration)
	}
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		if err := s.Validate(); err != nil {
			return err
		}
		grid := s.grid()
		labels, whole := grid.whole(cfg.BatchDuration)
		if !whole || labels < 1 {
			return fmt.Errorf("%w: batch_duration %v is not a whole number of labels of %v",
				ErrWindow, cfg.BatchDuration, grid)
		}
		if labels > int64(s.LabelCount()) {
			return fmt.Errorf("%w: batch_duration %v, recording %s has labels for %v",
				ErrWindow, cfg.BatchDuration, s.Recording, s.LabelSpan)
		}
		if err := cfg.checkChannels(s); err != nil {
			return err
		}
	}
	return nil
}

// newWindows takes a configuration that check accepts.
func newWindows(cfg WindowConfig) windows {
	n := len(cfg.Signals)
	w := windows{WindowConfig: cfg, ids: make([]string, n), labels: make([]int, n), grids: make([]rate, n)}
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		grid := s.grid()
		w.ids[i], w.grids[i], w.labels[i] = s.Recording.String(), grid, int(grid.nearest(cfg.BatchDuration))
	}
	return w
}

func (cfg *WindowConfig) checkChannels(s *LabeledSignal) error {
	if !cfg.MissingChannels {
		for _, c := range cfg.Channels {
			if !slices.Contains(s.Channels, c) {
				return fmt.Errorf("%w: recording %s has %q, not %q", ErrChannels, s.Recording, s.Channels, c)
			}
		}
	}
	if n := len(cfg.candidates(s)); cfg.NChannels > n {
		return fmt.Errorf("%w: n_channels %d of %d in recording %s", ErrChannels, cfg.NChannels, n, s.Recording)
	}
	return nil
}

func (cfg *WindowConfig) candidates(s *LabeledSignal) []string {
	if len(cfg.Channels) > 0 {
		return cfg.Channels
	}
	return s.Channels
}

// item is the window of signal i that begins with the given label. Where
// labels begin between nanoseconds, BatchDuration may be rounded up, and would
// reach beyond the last label. Channels are drawn from d only if some are to be
// drawn.
func (w *windows) item(i, label int, d func() dice) Item {
	s, grid := &w.Signals[i], w.grids[i]
	start := s.LabelSpan.Start + grid.at(int64(label))
	item := Item{
		Signal: i, Recording: w.ids[i], Sensor: s.SensorLabel,
		Start: int64(start), Stop: int64(min(start+grid.at(int64(w.labels[i])), s.LabelSpan.Stop)),
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
