package onda

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Description says what is in a data set's tables, whether or not it can be opened.
type Description struct {
	Recordings int     `json:"recordings"`
	Hours      float64 `json:"hours"` // of all recordings, from the first sample to the last
	// Sensors by type and label.
	Sensors []SensorDescription `json:"sensors"`
	// Labels by name, of Params.LabelColumn.
	Labels []LabelDescription `json:"labels"`
	// MissingLabels are annotations whose label is missing.
	MissingLabels int `json:"missing_labels"`
	// Unlabeled are recordings without a label.
	Unlabeled int `json:"unlabeled"`
}

// SensorDescription is what the signals of one sensor have.
type SensorDescription struct {
	Type       string           `json:"type"`
	Label      string           `json:"label"`
	Recordings int              `json:"recordings"`
	Signals    int              `json:"signals"`
	Hours      float64          `json:"hours"`
	Rates      []Count[float64] `json:"rates"`
	Units      []Count[string]  `json:"units"`
	Channels   []Count[string]  `json:"channels"`
}

// Count says how many signals have a value.
type Count[T any] struct {
	Value   T   `json:"value"`
	Signals int `json:"signals"`
}

// LabelDescription is how often a label occurs, and for how long.
type LabelDescription struct {
	Label       string  `json:"label"`
	Annotations int     `json:"annotations"`
	Hours       float64 `json:"hours"`
	Recordings  int     `json:"recordings"`
}

// Describe reads the tables that p names, and no sample. Sensors, splits and channels of p are not looked at. A folder
// without a table of annotations, where p names none, has no labels.
func Describe(ctx context.Context, params Params, cfg Config) (Description, error) {
	p := params.resolved()
	source := cfg.Source
	if source == nil {
		var err error
		if source, err = p.source(ctx, cfg.Remote); err != nil {
			return Description{}, err
		}
	}
	signals, err := ReadSignals(ctx, source, p.Signals, p.GroupColumn)
	if err != nil {
		return Description{}, err
	}
	d := describeSignals(signals)
	if p.LabelSignals != "" {
		return d, nil
	}
	labels, err := readLabels(ctx, source, &budget{limit: maxTableMemory}, p.Annotations, p.LabelColumn, p.GroupColumn)
	if err != nil && (params.Annotations != "" || !errors.Is(err, fs.ErrNotExist)) {
		return d, err
	}
	d.labels(signals, &labels)
	return d, nil
}

func describeSignals(signals []Signal) Description {
	d := Description{Sensors: []SensorDescription{}, Labels: []LabelDescription{}}
	spans := map[uuid.UUID]Span{}
	type key struct{ kind, label string }
	sensors := map[key][]*Signal{}
	for i := range signals {
		s := &signals[i]
		span, ok := spans[s.Recording]
		if !ok {
			span = s.Span
		}
		spans[s.Recording] = Span{min(span.Start, s.Span.Start), max(span.Stop, s.Span.Stop)}
		k := key{s.SensorType, s.SensorLabel}
		sensors[k] = append(sensors[k], s)
	}
	d.Recordings = len(spans)
	for _, span := range spans {
		d.Hours += span.Duration().Hours()
	}
	for k, of := range sensors {
		d.Sensors = append(d.Sensors, describeSensor(k.kind, k.label, of))
	}
	slices.SortFunc(d.Sensors, func(a, b SensorDescription) int {
		return cmp.Or(cmp.Compare(b.Recordings, a.Recordings), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Label, b.Label))
	})
	return d
}

func describeSensor(kind, label string, signals []*Signal) SensorDescription {
	out := SensorDescription{Type: kind, Label: label, Signals: len(signals)}
	recordings := map[uuid.UUID]bool{}
	rates, units, channels := map[float64]int{}, map[string]int{}, map[string]int{}
	for _, s := range signals {
		recordings[s.Recording] = true
		out.Hours += s.Span.Duration().Hours()
		rates[s.SampleRate]++
		units[s.Unit]++
		for _, c := range s.Channels {
			channels[c]++
		}
	}
	out.Recordings = len(recordings)
	out.Rates, out.Units, out.Channels = counts(rates), counts(units), counts(channels)
	return out
}

// counts lists the most frequent first.
func counts[T cmp.Ordered](of map[T]int) []Count[T] {
	out := make([]Count[T], 0, len(of))
	for _, v := range slices.Sorted(maps.Keys(of)) {
		out = append(out, Count[T]{v, of[v]})
	}
	slices.SortStableFunc(out, func(a, b Count[T]) int { return cmp.Compare(b.Signals, a.Signals) })
	return out
}

func (d *Description) labels(signals []Signal, t *labelTable) {
	type of struct {
		n      int
		time   time.Duration
		groups map[uint32]bool
	}
	labels := map[string]*of{}
	for _, row := range t.rows {
		name := t.labels[row.label]
		l := labels[name]
		if l == nil {
			l = &of{groups: map[uint32]bool{}}
			labels[name] = l
		}
		l.n++
		l.time += row.span.Duration()
		l.groups[row.group] = true
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		l := labels[name]
		d.Labels = append(d.Labels, LabelDescription{name, l.n, l.time.Hours(), len(l.groups)})
	}
	for _, g := range t.groups {
		d.MissingLabels += g.unlabeled
	}
	without := map[uuid.UUID]bool{}
	for i := range signals {
		if g := t.groups[signals[i].Group]; g == nil || g.from == g.to {
			without[signals[i].Recording] = true
		}
	}
	d.Unlabeled = len(without)
}
