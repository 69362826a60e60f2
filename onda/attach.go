package onda

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/google/uuid"

	"github.com/jetbatch/jetbatch/dataset"
)

// groupLabels are the labels of one group of annotations, or their fault.
type groupLabels struct {
	runs   []labelRun
	breaks breaks
	what   string
	err    error
}

// group makes the labels of one group: of one stretch, or, if drop is set, of
// all that are left between gaps and overlaps.
func (c *LabelConfig) group(notes []Annotation, unlabeled int, drop, sorted bool) (groupLabels, error) {
	var g groupLabels
	stretches := [][]Annotation{notes}
	switch {
	case unlabeled > 0:
		return groupLabels{what: whatNull, err: fmt.Errorf("%w: %d annotations without a label", ErrLabels,
			unlabeled)}, nil
	case len(notes) == 0:
		return groupLabels{what: whatUnlabeled, err: fmt.Errorf("%w: no labels", ErrLabels)}, nil
	case drop:
		stretches, g.breaks = runs(notes, c.RoundTo)
	case sorted:
		slices.SortStableFunc(notes, bySpan)
	}
	for _, notes := range stretches {
		run, err := c.encode(notes, drop || sorted)
		switch {
		case errors.Is(err, ErrTooLarge):
			return g, err
		case errors.Is(err, ErrEncoding):
			return groupLabels{what: whatEncoding, err: err}, nil
		case err != nil:
			return groupLabels{what: whatSpans, err: err}, nil
		}
		if run.labels.Len() > 0 {
			g.runs = append(g.runs, run)
		}
	}
	if len(g.runs) == 0 {
		return groupLabels{what: whatUnlabeled,
			err: fmt.Errorf("%w: no annotation is as long as a label", ErrLabels)}, nil
	}
	return g, nil
}

// labelWith labels a signal with the labels of its group.
func (o *opening) labelWith(s *Signal, cfg *LabelConfig, g groupLabels) error {
	if g.err != nil {
		o.tally.bad(g.what, s.Recording, fmt.Errorf("recording %s: %w", s.Recording, g.err))
		return nil
	}
	if g.breaks.gaps > 0 {
		o.tally.mended(whatGaps, s.Recording)
	}
	if g.breaks.overlaps > 0 {
		o.tally.mended(whatOverlaps, s.Recording)
	}
	var found []LabeledSignal
	for _, run := range g.runs {
		if o.p.OnBad == OnBadDrop {
			var cut bool
			if run, cut = cfg.clip(run, s.Span); cut {
				o.tally.mended(whatClipped, s.Recording)
			}
			if run.labels.Len() == 0 {
				continue
			}
		}
		found = append(found, cfg.labeled(*s, run))
	}
	return o.keep(s, found)
}

// keep adds the labelled stretches of a signal to the result, if they are
// inside of it and as long as a window.
func (o *opening) keep(s *Signal, found []LabeledSignal) error {
	window := time.Duration(o.p.BatchDuration)
	if len(found) == 0 {
		o.tally.bad(whatBeyond, s.Recording, fmt.Errorf("%w: recording %s: no labels in %v", ErrOutsideSignal,
			s.Recording, s.Span))
		return nil
	}
	n := 0
	for _, l := range found {
		if err := l.Validate(); err != nil {
			what := whatSpans
			if errors.Is(err, ErrOutsideSignal) {
				what = whatBeyond
			}
			o.tally.bad(what, s.Recording, err)
			continue
		}
		if int64(l.LabelCount()) < l.grid().nearest(window) {
			if o.p.OnBad != OnBadDrop {
				o.tooShort(s, l.LabelSpan)
			}
			continue
		}
		n++
		if err := o.budget.take("the labelled signals", int64(unsafe.Sizeof(l))); err != nil {
			return err
		}
		o.result.signals = append(o.result.signals, l)
		o.kept[s.Recording] = true
	}
	if o.p.OnBad == OnBadDrop && n < len(found) {
		if n == 0 {
			o.tooShort(s, found[0].LabelSpan)
		} else {
			o.tally.mended(whatShort, s.Recording)
		}
	}
	return nil
}

func (o *opening) tooShort(s *Signal, span Span) {
	window := time.Duration(o.p.BatchDuration)
	o.tally.bad(whatShorter(window), s.Recording, fmt.Errorf("%w: batch_duration %v, recording %s has labels for %v",
		ErrWindow, window, s.Recording, span))
}

// labelStored labels every signal with the rows of stored labels that lie in
// it.
func (o *opening) labelStored(ctx context.Context) error {
	t, err := readSignals(ctx, o.source, o.budget, o.p.LabelSignals, "", "")
	if err != nil {
		return err
	}
	o.result.tables = append(o.result.tables, dataset.Part{Name: "label_signals", Value: t.digest})
	cfg := o.p.labelConfig(nil, o.budget)
	if err := cfg.checkStored(t.signals); err != nil {
		return err
	}
	of := map[uuid.UUID][]*Signal{}
	for i := range t.signals {
		of[t.signals[i].Recording] = append(of[t.signals[i].Recording], &t.signals[i])
	}
	signals := map[uuid.UUID]bool{}
	for i := range o.table.signals {
		signals[o.table.signals[i].Recording] = true
	}
	for i := range t.signals {
		if id := t.signals[i].Recording; !signals[id] {
			o.noSignal(id, id.String())
		}
	}
	for _, s := range o.part {
		found, err := cfg.attach(s, of[s.Recording], o.p.OnBad == OnBadDrop)
		if err != nil {
			what := whatBeyond
			if errors.Is(err, ErrDuplicate) {
				what = whatDuplicate
			}
			o.tally.bad(what, s.Recording, err)
			continue
		}
		if len(found) == 0 {
			o.tally.bad(whatUnlabeled, s.Recording,
				fmt.Errorf("%w: recording %s: no stored labels", ErrLabels, s.Recording))
			continue
		}
		if err := o.keep(s, found); err != nil {
			return err
		}
	}
	if o.p.Files == filesTrust {
		return nil
	}
	return o.checkStoredFiles(ctx)
}

// checkStoredFiles leaves out the signals whose file of labels has another length
// than its row says.
func (o *opening) checkStoredFiles(ctx context.Context) error {
	stored := make([]*Signal, len(o.result.signals))
	for i := range stored {
		stored[i] = o.result.signals[i].Stored
	}
	errs, err := checkFiles(ctx, o.source, stored)
	if err != nil {
		return err
	}
	clear(o.kept)
	kept := o.result.signals[:0]
	for i, l := range o.result.signals {
		if errs[i] != nil {
			o.tally.bad(whatFile, l.Recording, errs[i])
			continue
		}
		o.kept[l.Recording] = true
		kept = append(kept, l)
	}
	o.result.signals = kept
	return nil
}
