package onda

import (
	"cmp"
	"fmt"
	"time"
)

// Params describe a data set of labelled Onda signals and what to make of it.
// They travel as JSON; durations are text such as "10s". Every field but Dir
// has a default.
type Params struct {
	// Dir is the folder that holds the tables and, relative to it, the
	// samples, as coordinator and workers see it. Not used if [Config].Source
	// is set.
	Dir string `json:"dir,omitempty"`
	// Signals is the onda.signal@2 table. Defaults to "onda.signals.arrow".
	Signals string `json:"signals,omitempty"`
	// Annotations is the onda.annotation@1 table with the labels. Defaults to
	// "onda.annotations.arrow".
	Annotations string `json:"annotations,omitempty"`
	// LabelSignals is an onda.signal@2 table of stored labels, in place of
	// Annotations: see [StoreLabels] and [AttachLabels]. Defaults to none.
	LabelSignals string `json:"label_signals,omitempty"`

	// LabelColumn of the annotations. Defaults to "label".
	LabelColumn string `json:"label_column,omitempty"`
	// GroupColumn of both tables says which annotations label which signals.
	// Defaults to "recording".
	GroupColumn string `json:"group_column,omitempty"`
	// LabelDuration is the length of one label. Defaults to 1s.
	LabelDuration Duration `json:"label_duration,omitzero"`
	// RoundTo rounds the durations of annotations: see [LabelConfig].
	RoundTo Duration `json:"round_to,omitzero"`
	// SortAndTrim sorts the annotations of each group and cuts the last to
	// whole labels: see [SortAndTrimGroups]. Defaults to false.
	SortAndTrim bool `json:"sort_and_trim,omitempty"`
	// Encoding gives the number of each label. Defaults to [SortedEncoding] of
	// all annotations; name it where the data may grow.
	Encoding map[string]uint8 `json:"encoding,omitempty"`
	// Split keeps a part of the recordings. Defaults to all.
	Split *Split `json:"split,omitempty"`

	// Mode is "random" or "epochs". Defaults to "random".
	Mode string `json:"mode,omitempty"`
	// BatchSize is the number of windows in a batch. Defaults to 16.
	BatchSize int `json:"batch_size,omitempty"`
	// BatchDuration is the length of a window. Defaults to 10s.
	BatchDuration Duration `json:"batch_duration,omitzero"`
	// Channels by name, in the order that x has them. Defaults to all, in the
	// order of the file.
	Channels []string `json:"channels,omitempty"`
	// NChannels is how many of them are drawn for each window. Defaults to 0:
	// all.
	NChannels int `json:"n_channels,omitempty"`
	// Selector is "zero_missing" ([ZeroMissingChannels] of Channels) or
	// "even_odds" ([EvenOdds]). Defaults to selection by name.
	Selector string `json:"selector,omitempty"`
	// DType of x, "float32" or "float64". Defaults to "float32".
	DType string `json:"dtype,omitempty"`
	// Seed of the first state. Defaults to 0.
	Seed uint64 `json:"seed,omitempty"`

	// SignalWeights, of mode "random", weighs the labelled signals in the
	// order of the table, after split and dropping. Defaults to equal.
	SignalWeights []float64 `json:"signal_weights,omitempty"`
	// LabelWeights, of mode "random", weighs every label of every signal.
	// Defaults to equal.
	LabelWeights [][]float64 `json:"label_weights,omitempty"`
	// ClassWeights, of mode "random" and in place of LabelWeights, weighs
	// labels by name; those not named weigh 1. Defaults to equal.
	ClassWeights map[string]float64 `json:"class_weights,omitempty"`

	// Epochs, of mode "epochs", after which the data ends. Defaults to 0:
	// endless.
	Epochs uint64 `json:"epochs,omitempty"`
	// Stride, of mode "epochs", from window to window. Defaults to
	// BatchDuration.
	Stride Duration `json:"stride,omitzero"`
	// DropLast, of mode "epochs", leaves out a smaller last batch of an epoch.
	// Defaults to false.
	DropLast bool `json:"drop_last,omitempty"`
}

// The values of Params.Selector and Params.DType.
const (
	selectZeroMissing = "zero_missing"
	selectEvenOdds    = "even_odds"
	dtypeFloat32      = "float32"
	dtypeFloat64      = "float64"
)

// Duration is a time.Duration whose text is like "10s" or "1m30s".
type Duration time.Duration

// MarshalText gives the text.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrParams, err)
	}
	*d = Duration(parsed)
	return nil
}

// resolved is p with its defaults.
func (p Params) resolved() Params {
	p.Signals = cmp.Or(p.Signals, "onda.signals.arrow")
	if p.LabelSignals == "" {
		p.Annotations = cmp.Or(p.Annotations, "onda.annotations.arrow")
		p.LabelColumn = cmp.Or(p.LabelColumn, "label")
	}
	p.GroupColumn = cmp.Or(p.GroupColumn, columnRecording)
	p.LabelDuration = cmp.Or(p.LabelDuration, Duration(time.Second))
	p.Mode = cmp.Or(p.Mode, ModeRandom)
	p.BatchSize = cmp.Or(p.BatchSize, 16)
	p.BatchDuration = cmp.Or(p.BatchDuration, Duration(10*time.Second))
	p.DType = cmp.Or(p.DType, dtypeFloat32)
	return p
}

// validate checks what no later step does.
func (p *Params) validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrParams, fmt.Sprintf(format, args...))
	}
	switch {
	case p.Mode != ModeRandom && p.Mode != ModeEpochs:
		return bad("mode %q is neither %q nor %q", p.Mode, ModeRandom, ModeEpochs)
	case p.DType != dtypeFloat32 && p.DType != dtypeFloat64:
		return bad("dtype %q is neither %q nor %q", p.DType, dtypeFloat32, dtypeFloat64)
	case p.LabelDuration <= 0 || p.RoundTo < 0 || p.BatchDuration <= 0 || p.Stride < 0:
		return bad("a duration is negative")
	case p.LabelSignals != "" && (p.Annotations != "" || p.LabelColumn != "" || p.Encoding != nil || p.SortAndTrim || p.RoundTo != 0):
		return bad("label_signals come in place of annotations and all that says how to read them")
	case p.LabelSignals != "" && p.ClassWeights != nil:
		return bad("class_weights need annotations, not label_signals")
	case p.ClassWeights != nil && p.LabelWeights != nil:
		return bad("both class_weights and label_weights")
	case p.Mode != ModeRandom && (p.SignalWeights != nil || p.LabelWeights != nil || p.ClassWeights != nil):
		return bad("weights are for mode %q", ModeRandom)
	case p.Mode != ModeEpochs && (p.Epochs != 0 || p.Stride != 0 || p.DropLast):
		return bad("epochs, stride and drop_last are for mode %q", ModeEpochs)
	case p.Selector == selectZeroMissing && (len(p.Channels) == 0 || p.NChannels != 0):
		return bad("selector %q takes channels, and not n_channels", selectZeroMissing)
	}
	return nil
}
