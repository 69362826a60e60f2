package onda

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/jetbatch/jetbatch/dataset"
)

// Name of the [Definition] that ships with jetbatch.
const Name = "onda"

// Config is what a program brings to the data set, rather than a trainer.
type Config struct {
	// Source of tables and samples. Defaults to [Dir] of Params.Dir.
	Source Source
	// Remote opens the URLs, s3:// and https://, that Params or tables name: see
	// package onda/remote. Defaults to none: ErrParams.
	Remote Source
	// Selector in place of the one that Params name. Defaults to that.
	Selector ChannelSelector
	// OpenBytes bounds what one opening may hold, over all that it reads and
	// makes: tables and what they decompress to, rows, labels, weights.
	// Parameters and tables that come to more are a *BudgetError. Defaults to
	// half of GOMEMLIMIT, or, if that is not set, to 512 MiB, half of what the
	// Compose files give a coordinator.
	OpenBytes int64
	// CacheBytes bounds what is kept in memory of decompressed lpcm.zst
	// recordings, where Params do not say so. Negative keeps none. Defaults to
	// 256 MiB, or to a quarter of GOMEMLIMIT if that is less.
	CacheBytes int64
	// Concurrency bounds the windows that are read at once, over all batches.
	// Defaults to 8, and to 64 where reads are far.
	Concurrency int
	// Logger hears of recordings that are dropped. Defaults to none.
	Logger *slog.Logger
}

// Dataset is a data set of labelled Onda signals. Next and Materialize are
// safe for concurrent use.
type Dataset struct {
	iterator func() (dataset.Iterator[State, Job], error) // made by the first Next: workers have none
	start    State
	signals  []LabeledSignal
	encoding map[string]uint8
	report   Report
	tables   []dataset.Part // what the fingerprint says of each
	content  bool           // and whether of files it says what they hold
	double   bool
	selector ChannelSelector
	shaping  shaping
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
		if source, err = p.source(ctx, cfg.Remote); err != nil {
			return nil, err
		}
	} else if p.AllowLinks || len(p.AllowURLs) > 0 {
		return nil, fmt.Errorf("%w: allow_links or allow_urls in a data set that has its own source", ErrParams)
	}
	if p.CacheDir != "" {
		if err := dataset.Allowed(ctx, p.CacheDir); err != nil {
			return nil, fmt.Errorf("onda: cache_dir: %w", err)
		}
	}
	b := &budget{limit: cmp.Or(cfg.OpenBytes, openBytes(debug.SetMemoryLimit(-1)))}
	opened, err := p.open(ctx, source, b, cfg.Selector != nil, cfg.Logger)
	if err != nil {
		return nil, err
	}
	iterator, err := p.iterator(&opened, b, cfg.Selector != nil)
	if err != nil {
		return nil, err
	}
	if err := p.fits(&opened); err != nil {
		return nil, err
	}
	shaping, err := p.shaping(&opened, b, cfg.Selector != nil)
	if err != nil {
		return nil, err
	}
	reader, err := newReader(source, p.CacheDir, p.cacheBytes(cmp.Or(cfg.CacheBytes, cacheBytes(debug.SetMemoryLimit(-1)))), int64(len(opened.signals)))
	if err != nil {
		return nil, err
	}
	concurrency := cmp.Or(cfg.Concurrency, 8)
	if cfg.Concurrency == 0 && reader.near >= 0 {
		concurrency = 64
	}
	return &Dataset{
		iterator: sync.OnceValues(iterator),
		start:    StartState(p.Mode, p.Seed),
		signals:  opened.signals,
		encoding: opened.encoding,
		report:   opened.report,
		tables:   opened.tables,
		content:  p.Fingerprint == fingerprintContent,
		double:   p.DType == dtypeFloat64,
		selector: selector,
		shaping:  shaping,
		reader:   reader,
		slots:    make(chan struct{}, max(1, concurrency)),
	}, nil
}

// Close closes the files that are kept open for the next window.
func (d *Dataset) Close() error {
	d.reader.kept.close()
	return nil
}

// cacheBytes bounds the folder or the memory that windows are kept in.
func (p *Params) cacheBytes(memory int64) int64 {
	if p.CacheDir != "" {
		return cmp.Or(p.CacheBytes, 16<<30)
	}
	return cmp.Or(p.CacheBytes, memory)
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

// iterator checks all that the iterator will ask for, and returns how it is
// made.
func (p *Params) iterator(o *opened, b *budget, ownSelector bool) (func() (dataset.Iterator[State, Job], error),
	error) {
	cfg := WindowConfig{
		Signals: o.signals, BatchSize: p.BatchSize, BatchDuration: time.Duration(p.BatchDuration),
		Channels: o.channels, NChannels: p.NChannels,
		// The program's own selector decides what a missing channel means.
		MissingChannels: p.Selector == selectZeroMissing || ownSelector,
	}
	if p.Mode == ModeEpochs {
		epochs := EpochConfig{
			WindowConfig: cfg, Stride: time.Duration(p.Stride), Epochs: p.Epochs, DropLast: p.DropLast,
		}
		return func() (dataset.Iterator[State, Job], error) { return newEpochBatches(epochs), nil }, epochs.check()
	}
	random := RandomConfig{WindowConfig: cfg, SignalWeights: p.SignalWeights, LabelWeights: p.LabelWeights}
	if p.ClassWeights != nil {
		random.ClassWeights = make(map[uint8]float64, len(p.ClassWeights))
		runs := int64(0)
		for i := range o.signals {
			runs += int64(len(o.signals[i].Labels.ends))
		}
		if err := b.take("the weights of labels", 8*runs); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.ClassWeights)) {
		code, ok := o.encoding[name]
		if !ok {
			return nil, fmt.Errorf("%w: class weight for %q", ErrEncoding, name)
		}
		random.ClassWeights[code] = p.ClassWeights[name]
	}
	return func() (dataset.Iterator[State, Job], error) { return newRandomBatches(random) }, random.check()
}

// Start is the first state, from Params.Seed.
func (d *Dataset) Start() (State, error) { return d.start, nil }

// Next is the mode's [RandomBatches] or [EpochBatches].
func (d *Dataset) Next(state State) (Job, State, error) {
	iterator, err := d.iterator()
	if err != nil {
		return Job{}, state, err
	}
	return iterator.Next(state)
}

// Progress says how far a state is. Random batches are one epoch without end.
func (d *Dataset) Progress(state State) (dataset.Progress, error) {
	iterator, err := d.iterator()
	if err != nil {
		return dataset.Progress{}, err
	}
	if epochs, ok := iterator.(*EpochBatches); ok {
		return epochs.Progress(state)
	}
	return dataset.Progress{Epoch: 1, Batch: state.Index}, state.check(ModeRandom)
}

// Signals are the labelled signals that windows are cut from. Do not change
// them.
func (d *Dataset) Signals() []LabeledSignal { return d.signals }

// Unit is that of x, or, if it is normalized, of what it was before.
func (d *Dataset) Unit() string { return d.signals[0].Unit }

// Report says what became of the recordings when the data set was opened.
func (d *Dataset) Report() Report { return d.report }

// Encoding gives the number of each label, ignored ones included; nil if labels
// are stored.
func (d *Dataset) Encoding() map[string]uint8 { return maps.Clone(d.encoding) }
