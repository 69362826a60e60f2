package onda

import (
	"cmp"
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
// second, and an encoding of the labels in the order of their names. Of several sensors it is the commonest. Windows
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
	for _, p := range guesses {
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

// guesses are tried in this order: tables as they are, then without what cannot be used, then with labels brought to
// the nearest second.
var guesses = []Params{
	{}, {SortAndTrim: true}, {SortAndTrim: true, RoundTo: Duration(time.Second)},
	{OnBad: OnBadDrop, RoundTo: Duration(time.Second)}, {OnBad: OnBadDrop},
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

// guessLabels completes p with the first sensor and column of its annotations that work.
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
	p.LabelDuration = Duration(time.Second)
	var tried []error
	for _, sensor := range sensors(t.signals) {
		p.SensorType, p.SensorLabel = sensor[0], sensor[1]
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
	}
	return p, errors.Join(append(tried[:min(len(tried), 1)], fmt.Errorf("%s has no column of labels", p.Annotations))...)
}

// maxSensors bounds the sensors of a table that are tried.
const maxSensors = 8

// sensors are the types of sensor, and after each its labels, to try: the commonest first, unknown ones last. One type
// or one label needs no name.
func sensors(signals []Signal) [][2]Names {
	types, labels := map[string]int{}, map[[2]string]int{}
	var order []string
	var each [][2]string
	for i := range signals {
		s := &signals[i]
		if types[s.SensorType]++; types[s.SensorType] == 1 {
			order = append(order, s.SensorType)
		}
		key := [2]string{s.SensorType, s.SensorLabel}
		if labels[key]++; labels[key] == 1 {
			each = append(each, key)
		}
	}
	known := func(a, b string) int { return cmp.Compare(btoi(a == unknownSensor), btoi(b == unknownSensor)) }
	slices.SortStableFunc(order, func(a, b string) int {
		return cmp.Or(known(a, b), cmp.Compare(types[b], types[a]))
	})
	slices.SortStableFunc(each, func(a, b [2]string) int {
		return cmp.Or(known(a[0], b[0]), cmp.Compare(types[b[0]], types[a[0]]), cmp.Compare(a[0], b[0]),
			cmp.Compare(labels[b], labels[a]))
	})
	var out [][2]Names
	for _, t := range order {
		var first Names
		if len(order) > 1 {
			first = Names{t}
		}
		out = append(out, [2]Names{first, nil})
		for _, key := range each {
			if key[0] == t && labels[key] < types[t] {
				out = append(out, [2]Names{first, {key[1]}})
			}
		}
	}
	return out[:min(len(out), maxSensors)]
}

// unknownSensor is the type of sensors that an import knows nothing of.
const unknownSensor = "unknown"

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
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
