package onda

import (
	"fmt"
	"math"
)

// RandomConfig configures [NewRandomBatches].
type RandomConfig struct {
	WindowConfig
	// SignalWeights weighs the signals, one weight each. Defaults to equal.
	SignalWeights []float64
	// LabelWeights weighs the labels of each signal, one weight for each
	// label. A nil entry weighs that signal's labels alike. Defaults to equal.
	LabelWeights [][]float64
	// ClassWeights, in place of LabelWeights, weighs labels by their number;
	// those not named weigh 1. The labels have to be held in memory. Defaults to
	// equal.
	ClassWeights map[uint8]float64
}

// RandomBatches draws batches of windows at random, without end. For every
// window it draws a signal, then one of its labels, then the window's position
// uniformly among those that contain the label and lie inside the labels, then
// its channels.
type RandomBatches struct {
	windows
	signals weights
	within  []weights
}

// NewRandomBatches checks the configuration: weights of another length than
// what they weigh, negative or NaN are ErrWeights, windows that do not fit the
// labels ErrWindow, unknown channels ErrChannels.
func NewRandomBatches(cfg RandomConfig) (*RandomBatches, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return newRandomBatches(cfg)
}

// check does without what is kept for drawing.
func (cfg *RandomConfig) check() error {
	if err := cfg.WindowConfig.check(); err != nil {
		return err
	}
	n := len(cfg.Signals)
	if err := checkWeights("signals", n, cfg.SignalWeights); err != nil {
		return err
	}
	if cfg.LabelWeights != nil && (len(cfg.LabelWeights) != n || cfg.ClassWeights != nil) {
		return fmt.Errorf("%w: label weights for %d of %d signals, and %d class weights", ErrWeights,
			len(cfg.LabelWeights), n, len(cfg.ClassWeights))
	}
	byLabel, err := cfg.byLabel()
	if err != nil {
		return err
	}
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		var err error
		switch {
		case cfg.LabelWeights != nil:
			err = checkWeights("labels", s.LabelCount(), cfg.LabelWeights[i])
		case byLabel != nil && s.Stored != nil:
			err = fmt.Errorf("%w: class weights for stored labels", ErrWeights)
		case byLabel != nil:
			err = checkRunWeights(&s.Labels, byLabel)
		}
		if err != nil {
			return fmt.Errorf("recording %s: %w", s.Recording, err)
		}
	}
	return nil
}

// byLabel is ClassWeights for all numbers, or nil if there are none.
func (cfg *RandomConfig) byLabel() (*labelWeights, error) {
	if cfg.ClassWeights == nil {
		return nil, nil
	}
	var byLabel labelWeights
	for i := range byLabel {
		byLabel[i] = 1
	}
	for label, v := range cfg.ClassWeights {
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
			return nil, fmt.Errorf("%w: %v for label %d", ErrWeights, v, label)
		}
		byLabel[label] = v
	}
	return &byLabel, nil
}

// newRandomBatches takes a configuration that check accepts.
func newRandomBatches(cfg RandomConfig) (*RandomBatches, error) {
	signals, err := newWeights("signals", len(cfg.Signals), cfg.SignalWeights)
	if err != nil {
		return nil, err
	}
	byLabel, err := cfg.byLabel()
	if err != nil {
		return nil, err
	}
	r := &RandomBatches{windows: newWindows(cfg.WindowConfig), signals: signals}
	r.within = make([]weights, len(cfg.Signals))
	for i := range cfg.Signals {
		s := &cfg.Signals[i]
		if byLabel != nil {
			r.within[i] = newRunWeights(&s.Labels, byLabel)
			continue
		}
		var values []float64
		if cfg.LabelWeights != nil {
			values = cfg.LabelWeights[i]
		}
		if r.within[i], err = newWeights("labels", s.LabelCount(), values); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Next draws the batch after state. It is a pure function of state, safe for
// concurrent use, and never returns io.EOF.
func (r *RandomBatches) Next(state State) (Job, State, error) {
	if err := state.check(ModeRandom); err != nil {
		return Job{}, state, err
	}
	d := state.Generator.dice()
	job := Job{Items: make([]Item, r.BatchSize)}
	for i := range job.Items {
		job.Items[i] = r.draw(d)
	}
	state.Index++
	state.Generator = d.generator()
	return job, state, nil
}

func (r *RandomBatches) draw(d dice) Item {
	signal := r.signals.draw(d)
	label := r.within[signal].draw(d)
	length := r.labels[signal]
	earliest := max(0, label-length+1)
	latest := min(label, r.within[signal].n-length)
	start := earliest + d.below(latest-earliest+1)
	return r.item(signal, start, func() dice { return d })
}
