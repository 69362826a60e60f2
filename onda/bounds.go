package onda

import (
	"cmp"
	"fmt"
	"math"
	"time"
)

// The bounds of parameters. Every trainer may send any, so each bound keeps one
// parameter from costing more than a run does.
const (
	// maxBatchSize windows, and maxJobBytes of their names and places, fit one
	// message of NATS, 1 MiB by default, with its headers.
	maxBatchSize = 7500
	maxJobBytes  = 1_000_000
	// itemBytes is the size of an item in a job without names, nameBytes that of
	// a name without its text.
	itemBytes = 120
	nameBytes = 3
	// maxBatchBytes bounds x: the largest batch that a trainer's default window
	// takes.
	maxBatchBytes = 1 << 30
	// maxWindowBytes bounds the samples of one window as they are read, with all
	// channels of the file, and as a selector sees them: a worker reads several
	// windows at once.
	maxWindowBytes = 128 << 20
	// maxChannels is above the number of any array of electrodes.
	maxChannels = 4096
	// maxName bounds names of channels, columns, sensors and labels.
	maxName = 256
	// maxNames bounds how many labels, weights by label, aliases or parts one
	// parameter may name.
	maxNames = 4096
	// maxCacheMemory is all of a large worker's memory.
	maxCacheMemory = 16 << 30
	// maxRoundTo is longer than any label that somebody scored by hand.
	maxRoundTo = time.Hour
)

func outOfBounds(name string, value any, bounds, reason string) error {
	return fmt.Errorf("%w: %s is %v, and may be %s: %s", ErrParams, name, value, bounds, reason)
}

// bounds checks each parameter against its bound.
func (p *Params) bounds() error {
	if err := validateGrid(time.Duration(p.LabelDuration), p.LabelRate); err != nil {
		return fmt.Errorf("%w: %w", ErrParams, err)
	}
	if p.BatchSize < 1 || p.BatchSize > maxBatchSize {
		return outOfBounds("batch_size", p.BatchSize, "1 to 7500",
			"a job names every window, and travels as one message")
	}
	if p.NChannels < 0 || p.NChannels > maxChannels {
		return outOfBounds("n_channels", p.NChannels, "0 to 4096", "no array of electrodes has more")
	}
	if p.Resample != 0 && !(p.Resample >= minRate && p.Resample <= maxSampleRate) {
		return outOfBounds("resample", p.Resample, "1e-9 to 1e9 Hz", "spans count nanoseconds")
	}
	var normalized []string
	if p.Normalize != nil {
		normalized = keysOf(p.Normalize.Channels)
	}
	for _, d := range []struct {
		name     string
		v        Duration
		min, max time.Duration
		reason   string
	}{
		{"round_to", p.RoundTo, 0, maxRoundTo, "it is for spans that are a little off"},
		{"batch_duration", p.BatchDuration, minLabelDuration, maxTime,
			"a window is a label long at least, and spans end there"},
		{"stride", p.Stride, 0, maxTime, "spans end there"},
	} {
		if v := time.Duration(d.v); v < d.min || v > d.max {
			return outOfBounds(d.name, v, fmt.Sprintf("%v to %v", d.min, d.max), d.reason)
		}
	}
	for name, path := range map[string]string{
		"dir": p.Dir, "cache_dir": p.CacheDir, "signals": p.Signals, "annotations": p.Annotations,
		"label_signals": p.LabelSignals,
	} {
		if len(path) > maxText {
			return outOfBounds(name, fmt.Sprintf("%d bytes long", len(path)), "up to 4096", "paths end there")
		}
	}
	if p.CacheDir == "" && p.CacheBytes > maxCacheMemory {
		return outOfBounds("cache_bytes", p.CacheBytes, "up to 16 GiB", "it is memory, unless there is a cache_dir")
	}
	if len(p.AllowURLs) > maxNames {
		return outOfBounds("allow_urls", len(p.AllowURLs), "up to 4096", "each is a place of data")
	}
	for _, prefix := range p.AllowURLs {
		if len(prefix) > maxText {
			return outOfBounds("allow_urls", fmt.Sprintf("%d bytes long", len(prefix)), "up to 4096", "paths end there")
		}
	}
	splitColumn := ""
	if p.Split != nil {
		splitColumn = p.Split.Column
	}
	for name, list := range map[string][]string{
		"label_column": {p.LabelColumn}, "group_column": {p.GroupColumn}, "split.column": {splitColumn},
		"unit": {p.Unit}, "normalize": normalized,
		"channels": p.Channels, "ignore": p.Ignore, "sensor_type": p.SensorType, "sensor_label": p.SensorLabel,
		"encoding": keysOf(p.Encoding), "class_weights": keysOf(p.ClassWeights), "channel_map": keysOf(p.ChannelMap),
	} {
		if err := boundNames(name, list); err != nil {
			return err
		}
	}
	aliases := 0
	for name, list := range p.ChannelMap {
		if err := boundNames("channel_map of "+name, list); err != nil {
			return err
		}
		if aliases += len(list); aliases > maxNames {
			return outOfBounds("channel_map", aliases, "up to 4096 names", "no array of electrodes has more channels")
		}
	}
	if p.Split != nil && len(p.Split.Parts) > maxNames {
		return outOfBounds("split.parts", len(p.Split.Parts), "up to 4096", "each is a part of the recordings")
	}
	return nil
}

func keysOf[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

func boundNames(param string, names []string) error {
	if len(names) > maxNames {
		return outOfBounds(param, fmt.Sprintf("%d names long", len(names)), "up to 4096",
			"no array of electrodes has more channels, and no data set that many labels")
	}
	for _, name := range names {
		if len(name) > maxName {
			return outOfBounds(param, fmt.Sprintf("a name of %d bytes", len(name)), "up to 256",
				"names travel with every job")
		}
	}
	return nil
}

// fits checks the sizes of one job, one window and one batch.
func (p *Params) fits(o *opened) error {
	drawn := o.channels
	widest := &o.signals[0]
	sensor := 0
	for i := range o.signals {
		sensor = max(sensor, len(o.signals[i].SensorLabel)+nameBytes)
		if s := &o.signals[i]; s.frame()*s.perWindow(p) > widest.frame()*widest.perWindow(p) {
			widest = s
		}
	}
	if len(drawn) == 0 && p.NChannels > 0 {
		drawn = widest.Channels
	}
	names := 0
	for _, name := range drawn {
		names += len(name) + nameBytes
	}
	if p.NChannels > 0 && p.NChannels < len(drawn) {
		names = 0
		for range p.NChannels {
			names += maxLen(drawn) + nameBytes
		}
	}
	item := itemBytes + sensor + names
	if job := p.BatchSize * item; job > maxJobBytes {
		value := fmt.Sprintf("%d, for jobs of %d bytes with the names of their channels", p.BatchSize, job)
		return outOfBounds("batch_size", value, fmt.Sprintf("up to %d", maxJobBytes/item), "a job travels as one message")
	}
	count := widest.perWindow(p)
	if count < 1 {
		return fmt.Errorf("%w: batch_duration %v is shorter than a sample of recording %s, at %v Hz",
			ErrWindow, time.Duration(p.BatchDuration), widest.Recording, widest.SampleRate)
	}
	for i := range o.signals {
		s := &o.signals[i]
		wide := 8 * float64(max(len(s.Channels), len(drawn)))
		size := max(float64(s.frame()), wide) * float64(s.perRead(p))
		if size = max(size, wide*float64(count)); size > maxWindowBytes {
			value := fmt.Sprintf("%v, %.0f bytes of recording %s", time.Duration(p.BatchDuration), size, s.Recording)
			return outOfBounds("batch_duration", value, "up to 128 MiB", "a worker reads several windows at once")
		}
	}
	taken := len(widest.Channels)
	if len(drawn) > 0 {
		taken = len(drawn)
	}
	if p.NChannels > 0 {
		taken = p.NChannels
	}
	width := 4.0
	if p.DType == dtypeFloat64 {
		width = 8
	}
	labels := float64(widest.grid().nearest(time.Duration(p.BatchDuration)))
	if size := float64(p.BatchSize) * (width*float64(taken)*float64(count) + labels); size > maxBatchBytes {
		return outOfBounds("batch_size", fmt.Sprintf("%d, for batches of %.0f bytes", p.BatchSize, size),
			"as many as make 1 GiB",
			"it is the largest batch that a trainer's default window takes")
	}
	return nil
}

// perWindow is the samples of a channel in one window of x.
func (l *LabeledSignal) perWindow(p *Params) int64 {
	return sampleIndex(cmp.Or(p.Resample, l.SampleRate), p.window())
}

// window is the length of a window by its labels, from which BatchDuration may
// be a nanosecond off.
func (p *Params) window() time.Duration {
	d := time.Duration(p.BatchDuration)
	if grid := labelGrid(time.Duration(p.LabelDuration), p.LabelRate); !grid.onGrid() {
		return grid.at(grid.nearest(d))
	}
	return d
}

// perRead is the samples of a channel that are read for one window: with those beside it that a filter needs.
func (l *LabeledSignal) perRead(p *Params) int64 {
	n := sampleIndex(l.SampleRate, time.Duration(p.BatchDuration))
	if p.Resample != 0 {
		n += 2 * int64(math.Ceil(zeroCrossings*max(1, l.SampleRate/p.Resample)))
	}
	return min(n, l.samples())
}

func maxLen(names []string) int {
	n := 0
	for _, name := range names {
		n = max(n, len(name))
	}
	return n
}
