package onda

import "fmt"

// RandomConfig configures [NewRandomBatches].
type RandomConfig struct {
	WindowConfig
	// SignalWeights weighs the signals, one weight each. Defaults to equal.
	SignalWeights []float64
	// LabelWeights weighs the labels of each signal, one weight for each
	// label. A nil entry weighs that signal's labels alike. Defaults to equal.
	LabelWeights [][]float64
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
	w, err := newWindows(cfg.WindowConfig)
	if err != nil {
		return nil, err
	}
	r := &RandomBatches{windows: w}
	if r.signals, err = newWeights("signals", len(cfg.Signals), cfg.SignalWeights); err != nil {
		return nil, err
	}
	if cfg.LabelWeights != nil && len(cfg.LabelWeights) != len(cfg.Signals) {
		return nil, fmt.Errorf("%w: label weights for %d of %d signals", ErrWeights, len(cfg.LabelWeights), len(cfg.Signals))
	}
	for i := range cfg.Signals {
		var values []float64
		if cfg.LabelWeights != nil {
			values = cfg.LabelWeights[i]
		}
		within, err := newWeights("labels", cfg.Signals[i].LabelCount(), values)
		if err != nil {
			return nil, fmt.Errorf("recording %s: %w", r.ids[i], err)
		}
		r.within = append(r.within, within)
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
