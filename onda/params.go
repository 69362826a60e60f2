package onda

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"time"
)

// Params describe a data set of labelled Onda signals and what to make of it.
// They travel as JSON; durations are text such as "10s". Every field but Dir
// has a default.
type Params struct {
	// Dir is the folder that holds the tables and, relative to it, the
	// samples, as coordinator and workers see it; or s3://bucket/prefix or
	// https://host/path. Not used if [Config].Source is set.
	Dir string `json:"dir,omitempty"`
	// AllowURLs lists what the file_paths of tables, and the names of tables, may
	// begin with besides Dir, such as "s3://bucket/eeg". Defaults to none: ErrPath.
	AllowURLs []string `json:"allow_urls,omitempty"`
	// AllowLinks follows symbolic links of Dir that lead out of it, as git-annex,
	// DVC and the caches of hubs have them. Defaults to false: ErrPath.
	AllowLinks bool `json:"allow_links,omitempty"`
	// Signals is the onda.signal@2 table. Its file_paths count from the folder
	// that it is in. Defaults to "onda.signals.arrow".
	Signals string `json:"signals,omitempty"`
	// Annotations is the onda.annotation@1 table with the labels. Defaults to
	// "onda.annotations.arrow".
	Annotations string `json:"annotations,omitempty"`
	// LabelSignals is an onda.signal@2 table of stored labels, in place of
	// Annotations: see [StoreLabels] and [AttachLabels]. Defaults to none.
	LabelSignals string `json:"label_signals,omitempty"`

	// SensorType keeps the signals of these types, such as "eeg": a name or a
	// list. Defaults to all.
	SensorType Names `json:"sensor_type,omitempty"`
	// SensorLabel keeps the signals with these labels: a name or a list.
	// Defaults to all.
	SensorLabel Names `json:"sensor_label,omitempty"`
	// ChannelMap gives channels their names: to each the names that tables may
	// have for it, such as "C3-A2": ["C3:A2", "EEG C3-A2"]. Defaults to none.
	ChannelMap map[string][]string `json:"channel_map,omitempty"`
	// Unit of x, such as "microvolt". Signals in multiples of it are converted,
	// others are ErrUnlike. Defaults to the unit of the first signal.
	Unit string `json:"unit,omitempty"`
	// OnBad is "refuse" ([OnBadRefuse]) or "drop" ([OnBadDrop]): whether
	// recordings that cannot be used as they are end the opening or are left
	// out, with all reasons listed either way. Defaults to "refuse".
	OnBad string `json:"on_bad,omitempty"`
	// Files is "check", which holds the length of every sample file against its
	// row when the data set is opened, or "trust". Defaults to "check".
	Files string `json:"files,omitempty"`
	// CacheDir is a folder of the worker's machine for what takes long to read
	// again: decompressed recordings of lpcm.zst files that have one frame, and
	// files from s3:// and https://. It is made if only it is missing. Several processes may share it, and copies
	// outlive them. Defaults to none: memory.
	CacheDir string `json:"cache_dir,omitempty"`
	// CacheBytes bounds the copies in CacheDir, or those that a process keeps in
	// memory. Negative keeps none. Defaults to 16 GiB in a folder, and to
	// [Config].CacheBytes in memory.
	CacheBytes int64 `json:"cache_bytes,omitempty"`
	// Fingerprint is "stat", by size and time of every sample file, or
	// "content", by what they hold: see [Dataset.Fingerprint]. Defaults to
	// "stat".
	Fingerprint string `json:"fingerprint,omitempty"`

	// LabelColumn of the annotations. Defaults to "label".
	LabelColumn string `json:"label_column,omitempty"`
	// GroupColumn of both tables says which annotations label which signals.
	// Defaults to "recording".
	GroupColumn string `json:"group_column,omitempty"`
	// LabelDuration is the length of one label, at least 1us. Defaults to 1s.
	LabelDuration Duration `json:"label_duration,omitzero"`
	// LabelRate, in place of LabelDuration, is labels per second, for labels
	// whose length is no whole number of nanoseconds: 3, 7 or 360. Defaults to
	// LabelDuration.
	LabelRate float64 `json:"label_rate,omitempty"`
	// RoundTo allows annotations that are a little off: see [LabelConfig].
	RoundTo Duration `json:"round_to,omitzero"`
	// SortAndTrim sorts the annotations of each group and cuts the last to
	// whole labels: see [SortAndTrimGroups]. Defaults to false.
	SortAndTrim bool `json:"sort_and_trim,omitempty"`
	// Encoding gives the number of each label. Defaults to the labels
	// themselves if their column has numbers, else to [SortedEncoding] of all
	// annotations; name it where the data may grow.
	Encoding map[string]uint8 `json:"encoding,omitempty"`
	// Ignore lists labels that are to be masked: in y they are IgnoreValue.
	// Defaults to none.
	Ignore []string `json:"ignore,omitempty"`
	// IgnoreValue, 1 to 255, which no other label may have. Defaults to 255.
	IgnoreValue uint8 `json:"ignore_value,omitempty"`
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
	// Resample brings all signals to this rate, in Hz, by a windowed sinc. Signals
	// of different rates are alike then. Defaults to each signal's own rate.
	Resample float64 `json:"resample,omitempty"`
	// Normalize has x count standard deviations from the mean, by channel, as
	// [Normalize] and "jetbatch onda normalize" compute them. Defaults to none.
	Normalize *Normalization `json:"normalize,omitempty"`
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

//go:embed params.go
var paramsGo string

// ParamsSource is this file, of which "jetbatch params onda" shows the comments.
func (Params) ParamsSource() string { return paramsGo }

// The values of Params.Selector and Params.DType.
const (
	selectZeroMissing = "zero_missing"
	selectEvenOdds    = "even_odds"
	dtypeFloat32      = "float32"
	dtypeFloat64      = "float64"
)

// Names is a list of names, whose JSON may be a single one.
type Names []string

// UnmarshalJSON reads a name or a list of names.
func (n *Names) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*n = Names{one}
		return nil
	}
	var list []string
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("%w: neither a name nor a list of names: %w", ErrParams, err)
	}
	*n = list
	return nil
}

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
	if p.LabelRate == 0 {
		p.LabelDuration = cmp.Or(p.LabelDuration, Duration(time.Second))
	}
	p.IgnoreValue = cmp.Or(p.IgnoreValue, 255)
	p.OnBad = cmp.Or(p.OnBad, OnBadRefuse)
	p.Files = cmp.Or(p.Files, filesCheck)
	p.Fingerprint = cmp.Or(p.Fingerprint, fingerprintStat)
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
	weighted := p.SignalWeights != nil || p.LabelWeights != nil || p.ClassWeights != nil
	annotated := p.Annotations != "" || p.LabelColumn != "" || p.Encoding != nil || p.Ignore != nil || p.SortAndTrim ||
		p.RoundTo != 0
	switch {
	case p.Mode != ModeRandom && p.Mode != ModeEpochs:
		return bad("mode %q is neither %q nor %q", p.Mode, ModeRandom, ModeEpochs)
	case p.DType != dtypeFloat32 && p.DType != dtypeFloat64:
		return bad("dtype %q is neither %q nor %q", p.DType, dtypeFloat32, dtypeFloat64)
	case p.OnBad != OnBadRefuse && p.OnBad != OnBadDrop:
		return bad("on_bad %q is neither %q nor %q", p.OnBad, OnBadRefuse, OnBadDrop)
	case p.Files != filesCheck && p.Files != filesTrust:
		return bad("files %q is neither %q nor %q", p.Files, filesCheck, filesTrust)
	case p.Fingerprint != fingerprintStat && p.Fingerprint != fingerprintContent:
		return bad("fingerprint %q is neither %q nor %q", p.Fingerprint, fingerprintStat, fingerprintContent)
	case p.LabelSignals != "" && annotated:
		return bad("label_signals come in place of annotations and all that says how to read them")
	case p.LabelSignals != "" && p.ClassWeights != nil:
		return bad("class_weights need annotations, not label_signals")
	case p.ClassWeights != nil && p.LabelWeights != nil:
		return bad("both class_weights and label_weights")
	case p.Mode != ModeRandom && weighted:
		return bad("weights are for mode %q", ModeRandom)
	case p.Mode != ModeEpochs && (p.Epochs != 0 || p.Stride != 0 || p.DropLast):
		return bad("epochs, stride and drop_last are for mode %q", ModeEpochs)
	case p.Selector == selectZeroMissing && (len(p.Channels) == 0 || p.NChannels != 0):
		return bad("selector %q takes channels, and not n_channels", selectZeroMissing)
	}
	return p.bounds()
}
