package onda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/dataset"
)

// opened is the result of an opening.
type opened struct {
	signals  []LabeledSignal
	encoding map[string]uint8
	// channels are those of Params, or, if the signals have theirs in several
	// orders, all in the order of the first.
	channels []string
	report   Report
	tables   []dataset.Part // a digest of each that was read
}

// opening reads the tables, compares and labels.
type opening struct {
	p      *Params
	source Source
	budget *budget
	like   likeness

	table  signalTable
	ref    *Signal
	part   []*Signal // that are used: of the sensor, of the part, and not bad
	tally  tally
	of     map[uuid.UUID]bool // recordings of the part
	kept   map[uuid.UUID]bool
	result opened
}

// open gives the labelled signals of the part in use. Nothing of it depends on
// anything but parameters, tables and files.
func (p *Params) open(
	ctx context.Context, source Source, b *budget, ownSelector bool, logger *slog.Logger,
) (opened, error) {
	o := &opening{
		p: p, source: source, budget: b, of: map[uuid.UUID]bool{}, kept: map[uuid.UUID]bool{},
		like: likeness{
			window: p.window(), unit: p.Unit, channels: p.Channels,
			anyOf: p.NChannels > 0 && len(p.Channels) == 0, selecting: ownSelector,
			missing: p.Selector == selectZeroMissing, resample: p.Resample != 0,
		},
	}
	steps := []func(context.Context) error{o.readSignals, o.compare, o.checkFiles, o.label}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return opened{}, err
		}
	}
	if p.OnBad != OnBadDrop {
		if err := o.tally.refused(len(o.of)); err != nil {
			return opened{}, err
		}
	}
	o.result.report = o.tally.report(len(o.of), o.kept)
	if len(o.result.signals) == 0 {
		return opened{}, fmt.Errorf("%w: %v%s", ErrNoSignals, o.result.report, o.result.report.details())
	}
	o.log(cmp.Or(logger, slog.New(slog.DiscardHandler)))
	return o.result, nil
}

func (o *opening) log(logger *slog.Logger) {
	logger.Info("data set opened", "recordings", o.result.report.String())
	for _, r := range o.result.report.Reasons {
		if r.Dropped {
			logger.Warn("recordings dropped", "count", r.Recordings, "reason", r.What, "first", r.First)
		}
	}
}

// readSignals reads the table and keeps the rows of the sensor and of the part.
func (o *opening) readSignals(ctx context.Context) error {
	p := o.p
	splitColumn := ""
	if p.Split != nil {
		splitColumn = p.Split.Column
	}
	var err error
	if o.table, err = readSignals(ctx, o.source, o.budget, p.Signals, p.GroupColumn, splitColumn); err != nil {
		return err
	}
	signals := o.table.signals
	o.result.tables = append(o.result.tables, dataset.Part{Name: "signals", Value: o.table.digest})
	in := func(int) bool { return true }
	if p.Split != nil {
		if in, err = p.Split.part(o.table); err != nil {
			return err
		}
	}
	names, err := channelMap(p.ChannelMap).names()
	if err != nil {
		return err
	}
	const row = int64(unsafe.Sizeof(Signal{}) + 8)
	if err := o.budget.take("the signals of the sensor", row*int64(len(signals))); err != nil {
		return err
	}
	all := make([]Signal, 0, len(signals)) // of the sensor, in any part
	parts := make([]bool, 0, len(signals))
	for i, s := range signals {
		if !p.SensorType.have(s.SensorType) || !p.SensorLabel.have(s.SensorLabel) {
			continue
		}
		s, err := renamed(s, names)
		if in(i) {
			o.of[s.Recording] = true
			if err != nil {
				o.tally.bad(whatChannels, s.Recording, err)
			}
		}
		if err != nil {
			continue
		}
		all, parts = append(all, s), append(parts, in(i))
	}
	if len(all) == 0 {
		return o.noSensor()
	}
	o.ref = o.like.reference(all, p.OnBad == OnBadDrop)
	bad := p.duplicates(all)
	for i := range all {
		switch {
		case !parts[i]:
		case bad[i] != nil:
			o.tally.bad(whatDuplicate, all[i].Recording, bad[i])
		default:
			o.part = append(o.part, &all[i])
		}
	}
	return nil
}

// have reports whether a name is wanted; none wanted means all.
func (n Names) have(name string) bool { return len(n) == 0 || slices.Contains(n, name) }

// noSensor is the error of a selection without signals; it lists the sensors.
func (o *opening) noSensor() error {
	seen := map[string]bool{}
	for _, s := range o.table.signals {
		if len(seen) < 20 {
			seen[fmt.Sprintf("%s/%s", s.SensorType, s.SensorLabel)] = true
		}
	}
	return fmt.Errorf("%w: of %d rows in %s none is of sensor_type %q and sensor_label %q; there are %s",
		ErrNoSignals, len(o.table.signals), o.p.Signals, o.p.SensorType, o.p.SensorLabel,
		strings.Join(slices.Sorted(maps.Keys(seen)), ", "))
}

// duplicates finds rows that repeat one that is kept before them: samples of one
// sensor over the same time, or the same file.
func (p *Params) duplicates(signals []Signal) []error {
	bad := make([]error, len(signals))
	type sensor struct {
		recording uuid.UUID
		label     string
	}
	kept := map[sensor][]int{} // in the order of their spans, which do not overlap
	files := map[string]int{}
	for i, s := range signals {
		place := p.place(s.Path)
		if before, ok := files[place]; ok {
			bad[i] = fmt.Errorf("%w: recordings %s and %s have the file %s",
				ErrDuplicate, signals[before].Recording, s.Recording, s.Path)
			continue
		}
		key := sensor{s.Recording, s.SensorLabel}
		rows := kept[key]
		at, _ := slices.BinarySearchFunc(rows, s.Span, func(row int, span Span) int {
			of := signals[row].Span
			return cmp.Or(cmp.Compare(of.Start, span.Start), cmp.Compare(of.Stop, span.Stop))
		})
		for _, row := range rows[max(0, at-1):min(at+1, len(rows))] {
			if of := signals[row].Span; of.Start < s.Span.Stop && s.Span.Start < of.Stop {
				bad[i] = fmt.Errorf("%w: recording %s has two signals %q, of %v and %v",
					ErrDuplicate, key.recording, key.label, of, s.Span)
			}
		}
		if bad[i] == nil {
			files[place], kept[key] = i, slices.Insert(rows, at, i)
		}
	}
	return bad
}

// compare holds every signal of the part against the reference, and gives it
// the reference's unit.
func (o *opening) compare(context.Context) error {
	o.result.channels = o.p.Channels
	unit := cmp.Or(o.p.Unit, o.ref.Unit)
	ordered := false
	kept := o.part[:0]
	for _, s := range o.part {
		if err := o.like.compare(o.ref, s); err != nil {
			what := whatUnlike
			if errors.Is(err, ErrChannels) {
				what = whatChannels
			}
			o.tally.bad(what, s.Recording, err)
			continue
		}
		if power, _ := unitPower(s.Unit, unit); s.Unit != unit {
			*s = s.inUnit(unit, power)
			if power != 0 {
				o.tally.mended(whatUnit, s.Recording)
			}
		}
		if !o.like.anyOf && !o.like.selecting && !o.like.missing && len(o.p.Channels) == 0 &&
			!slices.Equal(s.Channels, o.ref.Channels) {
			ordered = true
			o.tally.mended(whatOrdered, s.Recording)
		}
		kept = append(kept, s)
	}
	if o.part = kept; ordered {
		// By name then, in one order.
		o.result.channels = o.ref.Channels
	}
	return nil
}

func (o *opening) checkFiles(ctx context.Context) error {
	if o.p.Files == filesTrust {
		return nil
	}
	errs, err := checkFiles(ctx, o.source, o.part)
	if err != nil {
		return err
	}
	kept := o.part[:0]
	for i, s := range o.part {
		if errs[i] != nil {
			o.tally.bad(whatFile, s.Recording, errs[i])
			continue
		}
		kept = append(kept, s)
	}
	o.part = kept
	return nil
}

func (o *opening) label(ctx context.Context) error {
	if o.p.LabelSignals != "" {
		return o.labelStored(ctx)
	}
	p := o.p
	t, err := readLabels(ctx, o.source, o.budget, p.Annotations, p.LabelColumn, p.GroupColumn)
	if err != nil {
		return err
	}
	o.result.tables = append(o.result.tables, dataset.Part{Name: "annotations", Value: t.digest})
	if o.result.encoding, err = p.encodingOf(&t); err != nil {
		return err
	}
	o.absent(&t)
	cfg := p.labelConfig(o.result.encoding, o.budget)
	known := map[string]groupLabels{}
	o.result.signals = make([]LabeledSignal, 0, len(o.part))
	for _, s := range o.part {
		g, ok := known[s.Group]
		if !ok {
			notes, unlabeled := t.notes(s.Group)
			g, err = cfg.group(notes, unlabeled, p.OnBad == OnBadDrop, p.SortAndTrim)
			if err != nil {
				return err
			}
			known[s.Group] = g
		}
		if err := o.labelWith(s, &cfg, g); err != nil {
			return err
		}
	}
	return nil
}

// absent counts the recordings that have annotations, and no signal at all.
func (o *opening) absent(t *labelTable) {
	groups := map[string]bool{}
	for i := range o.table.signals {
		groups[o.table.signals[i].Group] = true
	}
	for _, group := range slices.Sorted(maps.Keys(t.groups)) {
		if !groups[group] {
			o.noSignal(t.groups[group].recording, group)
		}
	}
}

func (o *opening) noSignal(id uuid.UUID, group string) {
	if o.p.OnBad == OnBadDrop {
		o.tally.mended(whatAbsent, id)
		return
	}
	o.tally.bad(whatAbsent, id, fmt.Errorf("%w: %s has annotations of %s, which has no signal in %s",
		ErrLabels, o.p.Annotations, group, o.p.Signals))
}

// encodingOf gives numbers to all labels, so that every part of a split numbers
// alike: those of Params; or the labels themselves, if they are numbers; or
// their places in the order of names. Ignored labels all have one number.
func (p *Params) encodingOf(t *labelTable) (map[string]uint8, error) {
	encoding := p.Encoding
	if encoding == nil {
		named := slices.DeleteFunc(slices.Clone(t.labels), func(l string) bool { return slices.Contains(p.Ignore, l) })
		number := sortedEncoding
		if t.numbers {
			number = numberEncoding
		}
		var err error
		if encoding, err = number(named); err != nil {
			return nil, err
		}
	}
	ignored := map[string]bool{}
	for _, name := range p.Ignore {
		ignored[name] = true
	}
	if len(ignored) == 0 {
		return encoding, nil
	}
	merged := maps.Clone(encoding)
	for _, name := range slices.Sorted(maps.Keys(encoding)) {
		if ignored[name] {
			return nil, fmt.Errorf("%w: label %q is in encoding and in ignore", ErrParams, name)
		}
		if encoding[name] == p.IgnoreValue {
			return nil, fmt.Errorf("%w: label %q has the number %d, which is ignore_value", ErrParams, name,
				p.IgnoreValue)
		}
	}
	for name := range ignored {
		merged[name] = p.IgnoreValue
	}
	return merged, nil
}

// numberEncoding keeps labels that are numbers.
func numberEncoding(labels []string) (map[string]uint8, error) {
	encoding := map[string]uint8{}
	for _, label := range labels {
		n, err := strconv.ParseUint(label, 10, 8)
		if err != nil {
			return nil, fmt.Errorf("%w: label %s is not in 0 to 255: name an encoding", ErrEncoding, label)
		}
		encoding[label] = uint8(n)
	}
	return encoding, nil
}

func (p *Params) labelConfig(encoding map[string]uint8, b *budget) LabelConfig {
	return LabelConfig{
		Duration: time.Duration(p.LabelDuration), Rate: p.LabelRate, Encoding: encoding,
		RoundTo: time.Duration(p.RoundTo), budget: b,
	}
}
