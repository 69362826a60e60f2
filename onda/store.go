package onda

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
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
		if err := l.validate(); err != nil {
			return nil, err
		}
		base := path.Base(filepath.ToSlash(l.Path))
		base = strings.TrimSuffix(strings.TrimSuffix(base, ".zst"), ".lpcm")
		name := "labels_" + base + ".lpcm"
		if other, ok := taken[name]; ok {
			return nil, fmt.Errorf("%w: recordings %s and %s both store labels as %s", ErrPath, other, l.Recording, name)
		}
		taken[name] = l.Recording
		if err := os.WriteFile(filepath.Join(dir, name), l.Labels, 0o644); err != nil {
			return nil, fmt.Errorf("onda: store labels: %w", err)
		}
		out[i].Labels = nil
		out[i].Stored = &Signal{
			Recording: l.Recording, SensorType: labelSensor, SensorLabel: l.SensorLabel,
			Channels: []string{labelSensor}, Unit: labelSensor, Resolution: 1, SampleType: "uint8",
			SampleRate: float64(time.Second) / float64(l.LabelDuration),
			Path:       name, Format: formatLPCM, Span: l.LabelSpan, Group: l.Group,
		}
	}
	return out, nil
}

// AttachLabels gives every signal the stored labels of its recording: the row
// of labels with the same sensor label, or the recording's only one. A rate
// that is not one label per labelDuration is ErrLabels, labels outside the
// signal are ErrOutsideSignal. Signals without labels are dropped with a
// warning, for which logger may be nil.
func AttachLabels(signals, labels []Signal, labelDuration time.Duration, logger *slog.Logger) ([]LabeledSignal, error) {
	if labelDuration <= 0 {
		return nil, fmt.Errorf("%w: label duration %v", ErrParams, labelDuration)
	}
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	byRecording := map[uuid.UUID][]*Signal{}
	for i := range labels {
		l := &labels[i]
		rate := float64(time.Second) / float64(labelDuration)
		if l.SampleType != "uint8" || len(l.Channels) != 1 || math.Abs(l.SampleRate-rate) > rate*1e-9 {
			return nil, fmt.Errorf("%w: recording %s: stored labels have %d channels of %s at %v Hz, want one of uint8 at %v Hz",
				ErrLabels, l.Recording, len(l.Channels), l.SampleType, l.SampleRate, rate)
		}
		byRecording[l.Recording] = append(byRecording[l.Recording], l)
	}
	var out []LabeledSignal
	for _, s := range signals {
		of := labelsOf(&s, byRecording[s.Recording])
		if of == nil {
			logger.Warn("signal dropped: it has no labels", "recording", s.Recording.String(), "path", s.Path)
			continue
		}
		l := LabeledSignal{Signal: s, LabelSpan: of.Span, LabelDuration: labelDuration, Stored: of}
		if err := l.validate(); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func labelsOf(s *Signal, candidates []*Signal) *Signal {
	for _, c := range candidates {
		if c.SensorLabel == s.SensorLabel {
			return c
		}
	}
	if len(candidates) == 1 {
		return candidates[0]
	}
	return nil
}
