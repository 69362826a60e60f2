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
	source := Dir(dir)
	var tried []error
	for _, table := range signals {
		rows, err := ReadSignals(ctx, source, table, "")
		if err != nil {
			tried = append(tried, err)
			continue
		}
		for _, name := range annotations {
			p, err := guessLabels(ctx, source, rows, Params{Dir: dir, Signals: table, Annotations: name})
			if err == nil {
				return p, nil
			}
			tried = append(tried, err)
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

// guessLabels completes p with the first column of its annotations that works.
func guessLabels(ctx context.Context, source Source, signals []Signal, p Params) (Params, error) {
	names, err := columns(ctx, source, p.Annotations)
	if err != nil {
		return p, err
	}
	p.LabelDuration = Duration(time.Second)
	var tried []error
	for _, column := range names {
		if slices.Contains([]string{columnRecording, columnID, columnSpan}, column) {
			continue
		}
		p.LabelColumn = column
		labeled, encoding, sorted, err := tryLabels(ctx, source, signals, p)
		if err != nil {
			tried = append(tried, fmt.Errorf("%s, column %q: %w", p.Annotations, column, err))
			continue
		}
		p.Encoding, p.SortAndTrim = encoding, sorted
		window := 10 * time.Second
		for _, l := range labeled {
			window = min(window, l.LabelSpan.Duration())
		}
		p.BatchDuration = Duration(window)
		return p, nil
	}
	return p, errors.Join(append(tried, fmt.Errorf("%s has no column of labels", p.Annotations))...)
}

// tryLabels labels the signals as the annotations are, or else sorted and
// trimmed.
func tryLabels(ctx context.Context, source Source, signals []Signal, p Params) ([]LabeledSignal, map[string]uint8, bool, error) {
	annotations, err := ReadAnnotations(ctx, source, p.Annotations, p.LabelColumn, "")
	if err != nil {
		return nil, nil, false, err
	}
	encoding, err := SortedEncoding(annotations)
	if err != nil {
		return nil, nil, false, err
	}
	cfg := LabelConfig{Duration: time.Duration(p.LabelDuration), Encoding: encoding}
	annotations = annotationsOf(annotations, signals)
	var labeled []LabeledSignal
	for _, sorted := range []bool{false, true} {
		if sorted {
			if annotations, err = SortAndTrimGroups(annotations, cfg.Duration); err != nil {
				break
			}
		}
		if labeled, err = LabelSignals(signals, annotations, cfg); err == nil && len(labeled) > 0 {
			return labeled, encoding, sorted, nil
		}
	}
	if err == nil {
		err = ErrNoSignals
	}
	return nil, nil, false, err
}
