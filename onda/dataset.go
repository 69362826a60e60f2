package onda

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
)

// Name of the [Definition] that ships with jetbatch.
const Name = "onda"

// Config is what a program brings to the data set, rather than a trainer.
type Config struct {
	// Source of tables and samples. Defaults to [Dir] of Params.Dir.
	Source Source
	// Selector in place of the one that Params name. Defaults to that.
	Selector ChannelSelector
	// CacheBytes bounds the decompressed lpcm.zst recordings that are kept.
	// Negative keeps none. Defaults to 256 MiB.
	CacheBytes int64
	// Concurrency bounds the windows that are read at once, over all batches.
	// Defaults to 8.
	Concurrency int
	// Logger hears of signals that are dropped. Defaults to none.
	Logger *slog.Logger
}

// Dataset is a data set of labelled Onda signals. Next and Materialize are
// safe for concurrent use.
type Dataset struct {
	iterator dataset.Iterator[State, Job]
	start    State
	signals  []LabeledSignal
	encoding map[string]uint8
	double   bool
	selector ChannelSelector
	reader   *reader
	slots    chan struct{} // one per window being read
}

// Definition is the data set "onda" for coordinators and workers, with the
// defaults of [Config]. Its parameters are [Params] and its batches
// schema.Batch with x and y: see [Dataset.Materialize].
func Definition() dataset.Definition { return DefinitionWith(Name, Config{}) }

// DefinitionWith is a data set under another name: with a selector, a source
// or a logger of the program's own.
func DefinitionWith(name string, cfg Config) dataset.Definition {
	return dataset.Define(name, func(ctx context.Context, p Params) (*Dataset, error) { return New(ctx, p, cfg) })
}

// New reads the tables and checks everything that can be checked without
// reading samples. Which error means what is listed in this package's errors.
func New(ctx context.Context, params Params, cfg Config) (*Dataset, error) {
	p := params.resolved()
	if err := p.validate(); err != nil {
		return nil, err
	}
	selector, err := p.selector(cfg.Selector)
	if err != nil {
		return nil, err
	}
	source := cfg.Source
	if source == nil {
		if p.Dir == "" {
			return nil, fmt.Errorf("%w: no dir", ErrParams)
		}
		source = Dir(p.Dir)
	}
	signals, encoding, err := p.load(ctx, source, cfg.Logger)
	if err != nil {
		return nil, err
	}
	iterator, err := p.iterator(signals, encoding, cfg.Selector != nil)
	if err != nil {
		return nil, err
	}
	return &Dataset{
		iterator: iterator,
		start:    StartState(p.Mode, p.Seed),
		signals:  signals,
		encoding: encoding,
		double:   p.DType == dtypeFloat64,
		selector: selector,
		reader:   &reader{source: source, cache: newByteCache(cmp.Or(cfg.CacheBytes, 256<<20))},
		slots:    make(chan struct{}, max(1, cmp.Or(cfg.Concurrency, 8))),
	}, nil
}

func (p *Params) selector(own ChannelSelector) (ChannelSelector, error) {
	switch {
	case own != nil && p.Selector != "":
		return nil, fmt.Errorf("%w: selector %q in a data set that has its own", ErrParams, p.Selector)
	case own != nil:
		return own, nil
	case p.Selector == "":
		return nil, nil
	case p.Selector == selectZeroMissing:
		return ZeroMissingChannels(p.Channels), nil
	case p.Selector == selectEvenOdds:
		return EvenOdds{}, nil
	}
	return nil, fmt.Errorf("%w: selector %q", ErrParams, p.Selector)
}

// load reads the tables and gives the labelled signals of the split, and the
// encoding if the labels came from annotations.
func (p *Params) load(ctx context.Context, source Source, logger *slog.Logger) ([]LabeledSignal, map[string]uint8, error) {
	signals, err := ReadSignals(ctx, source, p.Signals, p.GroupColumn)
	if err != nil {
		return nil, nil, err
	}
	if p.Split != nil {
		if signals, err = p.Split.apply(signals); err != nil {
			return nil, nil, err
		}
	}
	if p.LabelSignals != "" {
		labels, err := ReadSignals(ctx, source, p.LabelSignals, "")
		if err != nil {
			return nil, nil, err
		}
		labeled, err := AttachLabels(signals, labels, time.Duration(p.LabelDuration), logger)
		return labeled, nil, err
	}
	annotations, err := ReadAnnotations(ctx, source, p.Annotations, p.LabelColumn, p.GroupColumn)
	if err != nil {
		return nil, nil, err
	}
	// From all annotations, so that every part of a split numbers alike.
	encoding := p.Encoding
	if encoding == nil {
		if encoding, err = SortedEncoding(annotations); err != nil {
			return nil, nil, err
		}
	}
	annotations = annotationsOf(annotations, signals)
	if p.SortAndTrim {
		if annotations, err = SortAndTrimGroups(annotations, time.Duration(p.LabelDuration)); err != nil {
			return nil, nil, err
		}
	}
	if len(annotations) == 0 {
		return nil, nil, ErrNoSignals
	}
	labeled, err := LabelSignals(signals, annotations, LabelConfig{
		Duration: time.Duration(p.LabelDuration), Encoding: encoding, RoundTo: time.Duration(p.RoundTo), Logger: logger,
	})
	return labeled, encoding, err
}

// annotationsOf keeps the annotations of groups that have a signal.
func annotationsOf(annotations []Annotation, signals []Signal) []Annotation {
	groups := map[string]bool{}
	for _, s := range signals {
		groups[s.Group] = true
	}
	return slices.DeleteFunc(annotations, func(a Annotation) bool { return !groups[a.Group] })
}

func (p *Params) iterator(signals []LabeledSignal, encoding map[string]uint8, ownSelector bool) (dataset.Iterator[State, Job], error) {
	cfg := WindowConfig{
		Signals: signals, BatchSize: p.BatchSize, BatchDuration: time.Duration(p.BatchDuration),
		Channels: p.Channels, NChannels: p.NChannels,
		// The program's own selector decides what a missing channel means.
		MissingChannels: p.Selector == selectZeroMissing || ownSelector,
	}
	if p.Mode == ModeEpochs {
		return NewEpochBatches(EpochConfig{
			WindowConfig: cfg, Stride: time.Duration(p.Stride), Epochs: p.Epochs, DropLast: p.DropLast,
		})
	}
	labelWeights := p.LabelWeights
	if p.ClassWeights != nil {
		var err error
		if labelWeights, err = classWeights(signals, encoding, p.ClassWeights); err != nil {
			return nil, err
		}
	}
	return NewRandomBatches(RandomConfig{WindowConfig: cfg, SignalWeights: p.SignalWeights, LabelWeights: labelWeights})
}

// classWeights spreads weights by label name over the labels of each signal.
func classWeights(signals []LabeledSignal, encoding map[string]uint8, byName map[string]float64) ([][]float64, error) {
	var byCode [256]float64
	for i := range byCode {
		byCode[i] = 1
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		code, ok := encoding[name]
		if !ok {
			return nil, fmt.Errorf("%w: class weight for %q", ErrEncoding, name)
		}
		byCode[code] = byName[name]
	}
	out := make([][]float64, len(signals))
	for i, s := range signals {
		out[i] = make([]float64, len(s.Labels))
		for j, code := range s.Labels {
			out[i][j] = byCode[code]
		}
	}
	return out, nil
}

// Start is the first state, from Params.Seed.
func (d *Dataset) Start() (State, error) { return d.start, nil }

// Next is the mode's [RandomBatches] or [EpochBatches].
func (d *Dataset) Next(state State) (Job, State, error) { return d.iterator.Next(state) }

// Signals are the labelled signals that windows are cut from. Do not change
// them.
func (d *Dataset) Signals() []LabeledSignal { return d.signals }

// Encoding gives the number of each label; nil if labels are stored.
func (d *Dataset) Encoding() map[string]uint8 { return maps.Clone(d.encoding) }
