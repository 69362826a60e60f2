package onda

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const labelSensor = "label"

// StoreLabels writes the labels of each signal that holds them to a file of
// its own in the folder dir, "labels_" and the base name of the signal's file
// with the ending .lpcm, and returns the signals with Stored in their place.
// The stored paths are relative to dir. Two signals whose labels would have
// the same file are ErrPath.
//
// Write the Stored signals with [WriteSignals] to read them again later
// ([Params].LabelSignals).
func StoreLabels(dir string, signals []LabeledSignal) ([]LabeledSignal, error) {
	out := make([]LabeledSignal, len(signals))
	taken := map[string]uuid.UUID{}
	for i, l := range signals {
		out[i] = l
		if l.Stored != nil {
			continue
		}
		if err := l.Validate(); err != nil {
			return nil, err
		}
		base := path.Base(filepath.ToSlash(l.Path))
		base = strings.TrimSuffix(strings.TrimSuffix(base, ".zst"), ".lpcm")
		name := "labels_" + base + ".lpcm"
		if other, ok := taken[name]; ok {
			return nil, fmt.Errorf("%w: recordings %s and %s both store labels as %s", ErrPath, other, l.Recording,
				name)
		}
		taken[name] = l.Recording
		if err := os.WriteFile(filepath.Join(dir, name), l.Labels.All(), 0o644); err != nil {
			return nil, fmt.Errorf("onda: store labels: %w", err)
		}
		out[i].Labels = Labels{}
		out[i].Stored = &Signal{
			Recording: l.Recording, SensorType: labelSensor, SensorLabel: l.SensorLabel,
			Channels: []string{labelSensor}, Unit: labelSensor, Resolution: 1, SampleType: "uint8",
			SampleRate: l.labelRate(),
			Path:       name, Format: formatLPCM, Span: l.LabelSpan, Group: l.Group,
		}
	}
	return out, nil
}

// labelRate is labels per second.
func (l *LabeledSignal) labelRate() float64 {
	if l.LabelRate > 0 {
		return l.LabelRate
	}
	return float64(time.Second) / float64(l.LabelDuration)
}

// AttachLabels gives every signal the stored labels of its recording that lie
// in its span: the rows of labels with the same sensor label, or, if there are
// none, those of the recording's only other. Rows that overlap are
// ErrDuplicate, a rate that is not that of the labels in cfg, or a resolution
// and offset other than 1 and 0, is ErrLabels, labels that lie in no signal are
// ErrOutsideSignal. A signal with several rows is given back once for each, one
// without labels is dropped with a warning. cfg needs the length of labels only.
func AttachLabels(signals, labels []Signal, cfg LabelConfig) ([]LabeledSignal, error) {
	if err := validateGrid(cfg.Duration, cfg.Rate); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrParams, err)
	}
	if err := cfg.checkStored(labels); err != nil {
		return nil, err
	}
	logger := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	of := map[uuid.UUID][]*Signal{}
	for i := range labels {
		of[labels[i].Recording] = append(of[labels[i].Recording], &labels[i])
	}
	var out []LabeledSignal
	for _, s := range signals {
		found, err := cfg.attach(&s, of[s.Recording], false)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			logger.Warn("signal dropped: it has no labels", "recording", s.Recording.String(), "path", s.Path)
		}
		for _, l := range found {
			if err := l.Validate(); err != nil {
				return nil, err
			}
			out = append(out, l)
		}
	}
	return out, nil
}

// checkStored checks that rows are labels, of the length that cfg says. Their
// bytes are the labels: a row that decodes them to other numbers is refused.
func (c *LabelConfig) checkStored(labels []Signal) error {
	want := LabeledSignal{LabelDuration: c.Duration, LabelRate: c.Rate}
	hz := want.labelRate()
	for i := range labels {
		l := &labels[i]
		if l.SampleType != "uint8" || len(l.Channels) != 1 || math.Abs(l.SampleRate-hz) > hz*1e-9 {
			return fmt.Errorf("%w: recording %s: stored labels have %d channels of %s at %v Hz, "+
				"want one of uint8 at %v Hz",
				ErrLabels, l.Recording, len(l.Channels), l.SampleType, l.SampleRate, hz)
		}
		if l.Resolution != 1 || l.Offset != 0 {
			return fmt.Errorf("%w: recording %s: stored labels have resolution %v and offset %v, want 1 and 0",
				ErrLabels, l.Recording, l.Resolution, l.Offset)
		}
	}
	return nil
}

// attach finds the rows of labels that lie in s; if cut is set, also those that
// reach beyond it, cut to it.
func (c *LabelConfig) attach(s *Signal, candidates []*Signal, cut bool) ([]LabeledSignal, error) {
	var rows []*Signal
	for _, l := range candidates {
		if l.SensorLabel == s.SensorLabel {
			rows = append(rows, l)
		}
	}
	if len(rows) == 0 {
		rows = slices.Clone(candidates)
		for _, l := range rows {
			if l.SensorLabel != rows[0].SensorLabel {
				return nil, nil
			}
		}
	}
	if len(rows) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(rows, func(a, b *Signal) int { return cmp.Compare(a.Span.Start, b.Span.Start) })
	grid := c.grid()
	var out []LabeledSignal
	var before *Signal
	for _, l := range rows {
		span := l.Span
		if cut {
			from, to := c.inside(span, grid.nearest(span.Duration()), s.Span)
			at := span.Start + grid.at(from)
			span = Span{at, at + grid.at(max(0, to-from))}
		}
		if !s.Span.Contains(span) || span.Duration() == 0 {
			continue
		}
		if before != nil && before.Span.Stop > l.Span.Start {
			return nil, fmt.Errorf("%w: recording %s has stored labels %v and %v, which overlap",
				ErrDuplicate, s.Recording, before.Span, l.Span)
		}
		before = l
		out = append(out, LabeledSignal{
			Signal: *s, LabelSpan: span, LabelDuration: c.Duration, LabelRate: c.Rate, Stored: l,
		})
	}
	if len(out) == 0 {
		return nil,
			fmt.Errorf("%w: recording %s: of %d rows of stored labels, the first %v, none lies in the signal, %v",
				ErrOutsideSignal, s.Recording, len(rows), rows[0].Span, s.Span)
	}
	return out, nil
}
