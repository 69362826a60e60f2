package onda

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Guess looks into a folder and returns Params that open it: the signal table,
// the first annotation table and column whose spans make dense labels of one
// second, and an encoding of the labels in the order of their names. Windows
// are 10 s, or the shortest labelled recording if that is less. Nothing that
// fits is ErrParams, with what was wrong with each candidate.
func Guess(dir string) (Params, error) {
	return GuessContext(context.Background(), dir)
}

// GuessContext is [Guess] that stops when ctx ends.
func GuessContext(ctx context.Context, dir string) (Params, error) {
	signals, err := tablesOf(dir, ".signals.arrow")
	if err != nil {
		return Params{}, err
	}
	annotations, err := tablesOf(dir, ".annotations.arrow")
	if err != nil {
		return Params{}, err
	}
	if len(signals) == 0 || len(annotations) == 0 {
		return Params{}, fmt.Errorf("%w: %s has %d tables *.signals.arrow and %d *.annotations.arrow",
			ErrParams, dir, len(signals), len(annotations))
	}
	var tried []error
	// First as they are, then without what cannot be used.
	for _, p := range []Params{{}, {SortAndTrim: true}, {OnBad: OnBadDrop}} {
		p.Dir = dir
		for _, p.Signals = range signals {
			for _, p.Annotations = range annotations {
				found, err := guessLabels(ctx, Dir(dir), p)
				if err == nil {
					return found, nil
				}
				if p.OnBad == "" && !p.SortAndTrim {
					tried = append(tried, err)
				}
			}
		}
	}
	return Params{}, fmt.Errorf("%w: no labels found in %s: %w", ErrParams, dir, errors.Join(tried...))
}

// tablesOf lists the files of a folder that end so, in order of their names.
func tablesOf(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("onda: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && !e.IsDir() {
			names = append(names, filepath.Base(e.Name()))
		}
	}
	return names, nil
}

// guessLabels completes p with the first column of its annotations that works,
// and the commonest type of sensor if there are several.
func guessLabels(ctx context.Context, source Source, p Params) (Params, error) {
	b := &budget{limit: defaultOpenBytes}
	names, err := columns(ctx, source, b, p.Annotations)
	if err != nil {
		return p, err
	}
	t, err := readSignals(ctx, source, b, p.Signals, "", "")
	if err != nil {
		return p, err
	}
	p.SensorType = commonestSensor(t.signals)
	p.LabelDuration = Duration(time.Second)
	var tried []error
	for _, column := range names {
		if slices.Contains([]string{columnRecording, columnID, columnSpan}, column) {
			continue
		}
		p.LabelColumn = column
		found, err := guessWindow(ctx, source, p)
		if err == nil {
			return found, nil
		}
		tried = append(tried, fmt.Errorf("%s, column %q: %w", p.Annotations, column, err))
	}
	return p, errors.Join(append(tried, fmt.Errorf("%s has no column of labels", p.Annotations))...)
}

// commonestSensor is the type of most signals, or nil if all have one.
func commonestSensor(signals []Signal) Names {
	count := map[string]int{}
	best := ""
	for _, s := range signals {
		if count[s.SensorType]++; count[s.SensorType] > count[best] {
			best = s.SensorType
		}
	}
	if len(count) < 2 {
		return nil
	}
	return Names{best}
}

// guessWindow tries p, and completes it with an encoding and a window: of 10 s,
// or of the shortest labels, or of the longest where those shorter are dropped.
func guessWindow(ctx context.Context, source Source, p Params) (Params, error) {
	try := p
	try.BatchDuration = p.LabelDuration
	try = try.resolved()
	o, err := try.open(ctx, source, &budget{limit: defaultOpenBytes}, false, nil)
	if err != nil {
		return p, err
	}
	const usual = 10 * time.Second
	shortest, longest := usual, time.Duration(0)
	for i := range o.signals {
		d := o.signals[i].LabelSpan.Duration()
		shortest, longest = min(shortest, d), max(longest, d)
	}
	window := shortest
	if p.OnBad == OnBadDrop {
		window = min(usual, longest)
	}
	p.BatchDuration, p.Encoding = Duration(window), o.encoding
	return p, nil
}
