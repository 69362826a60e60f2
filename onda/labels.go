package onda

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"
)

// LabeledSignal is a signal with dense labels: one label for every
// LabelDuration of LabelSpan. The labels are held here, or stored as a signal
// of their own and read by range.
type LabeledSignal struct {
	Signal
	// LabelSpan is what the labels cover, from the start of the recording. It
	// lies inside the signal's span.
	LabelSpan Span
	// LabelDuration is the length of one label.
	LabelDuration time.Duration
	// Labels are the encoded labels, LabelCount of them, if Stored is nil.
	Labels []uint8
	// Stored is the signal that holds the labels, if they are not held here:
	// one channel of uint8, whose span contains LabelSpan.
	Stored *Signal
}

// LabelCount is the number of labels.
func (l *LabeledSignal) LabelCount() int { return int(l.LabelSpan.Duration() / l.LabelDuration) }

// SubSpan is l with only the labels of span, which has to lie inside the
// labels and on their boundaries; span counts from the start of the recording.
// Labels in memory are shared with l, not copied.
func (l LabeledSignal) SubSpan(span Span) (LabeledSignal, error) {
	if !l.LabelSpan.Contains(span) {
		return LabeledSignal{}, fmt.Errorf("%w: recording %s: %v is not inside the labels, %v",
			ErrOutsideSignal, l.Recording, span, l.LabelSpan)
	}
	from := span.Start - l.LabelSpan.Start
	if from%l.LabelDuration != 0 || span.Duration()%l.LabelDuration != 0 || span.Duration() == 0 {
		return LabeledSignal{}, fmt.Errorf("%w: recording %s: %v is not a whole number of labels of %v",
			ErrLabels, l.Recording, span, l.LabelDuration)
	}
	l.LabelSpan = span
	if l.Stored == nil {
		first, n := int(from/l.LabelDuration), l.LabelCount()
		l.Labels = l.Labels[first : first+n : first+n]
	}
	return l, nil
}

// validate checks what LabelSignals and the label tables promise, for labelled
// signals that come from elsewhere.
func (l *LabeledSignal) validate() error {
	if err := l.Signal.validate(); err != nil {
		return err
	}
	switch {
	case l.LabelDuration <= 0:
		return fmt.Errorf("%w: recording %s: label duration %v", ErrLabels, l.Recording, l.LabelDuration)
	case l.LabelSpan.Duration() <= 0 || l.LabelSpan.Duration()%l.LabelDuration != 0:
		return fmt.Errorf("%w: recording %s: %v is not a whole number of labels of %v",
			ErrLabels, l.Recording, l.LabelSpan, l.LabelDuration)
	case !l.Span.Contains(l.LabelSpan):
		return fmt.Errorf("%w: recording %s: labels %v, signal %v", ErrOutsideSignal, l.Recording, l.LabelSpan, l.Span)
	case l.Stored == nil && len(l.Labels) != l.LabelCount():
		return fmt.Errorf("%w: recording %s: %d labels for %v", ErrLabels, l.Recording, len(l.Labels), l.LabelSpan)
	case l.Stored != nil && !l.Stored.Span.Contains(l.LabelSpan):
		return fmt.Errorf("%w: recording %s: labels %v, stored %v", ErrOutsideSignal, l.Recording, l.LabelSpan, l.Stored.Span)
	case l.Stored != nil && (l.LabelSpan.Start-l.Stored.Span.Start)%l.LabelDuration != 0:
		return fmt.Errorf("%w: recording %s: labels %v, stored %v", ErrLabels, l.Recording, l.LabelSpan, l.Stored.Span)
	}
	return nil
}

// maxLabels bounds the labels of one group: what a damaged table states is not
// allocated unseen.
const maxLabels = 1 << 30

// LabelConfig says how annotations become labels.
type LabelConfig struct {
	// Duration of one label. Required.
	Duration time.Duration
	// Encoding gives the number of each label. Required.
	Encoding map[string]uint8
	// RoundTo rounds the duration of each span to a multiple of itself, half
	// up, before it is divided into labels: for spans that are a few
	// milliseconds off. Defaults to no rounding.
	RoundTo time.Duration
	// Logger hears of the signals that are dropped. Defaults to none.
	Logger *slog.Logger
}

func (c *LabelConfig) validate() error {
	if c.Duration <= 0 || c.RoundTo < 0 {
		return fmt.Errorf("%w: label duration %v, rounded to %v", ErrParams, c.Duration, c.RoundTo)
	}
	if len(c.Encoding) == 0 {
		return fmt.Errorf("%w: no encoding", ErrParams)
	}
	return nil
}

// LabelSignals gives every signal the labels of its group. The annotations of
// a group have to be sorted, contiguous and, after rounding, whole numbers of
// labels long (ErrLabels; see [SortAndTrim]), each label has to be in the
// encoding (ErrEncoding), and the labels have to lie inside the signal
// (ErrOutsideSignal). Signals without labels are dropped with a warning. The
// signals keep their order.
func LabelSignals(signals []Signal, annotations []Annotation, cfg LabelConfig) ([]LabeledSignal, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	logger := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	keys, groups := groupAnnotations(annotations)
	type labels struct {
		span   Span
		values []uint8
	}
	byGroup := make(map[string]labels, len(groups))
	for _, key := range keys {
		span, values, err := cfg.encode(groups[key])
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", key, err)
		}
		byGroup[key] = labels{span, values}
	}
	var out []LabeledSignal
	for _, s := range signals {
		of, ok := byGroup[s.Group]
		if !ok || len(of.values) == 0 {
			logger.Warn("signal dropped: it has no labels", "recording", s.Recording.String(), "path", s.Path)
			continue
		}
		l := LabeledSignal{Signal: s, LabelSpan: of.span, LabelDuration: cfg.Duration, Labels: of.values}
		if err := l.validate(); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// encode expands the annotations of one group to labels and the span that
// these cover, which begins with the first annotation.
func (c *LabelConfig) encode(annotations []Annotation) (Span, []uint8, error) {
	if err := contiguous(annotations); err != nil {
		return Span{}, nil, err
	}
	start := annotations[0].Span.Start
	total := annotations[len(annotations)-1].Span.Stop - start
	if total/c.Duration > maxLabels {
		return Span{}, nil, fmt.Errorf("%w: %v holds more than %d labels of %v", ErrLabels, total, maxLabels, c.Duration)
	}
	var values []uint8
	for _, a := range annotations {
		d := a.Span.Duration()
		if c.RoundTo > 0 {
			d = d.Round(c.RoundTo)
		}
		if d%c.Duration != 0 {
			return Span{}, nil, fmt.Errorf("%w: %v is not a whole number of labels of %v", ErrLabels, a.Span, c.Duration)
		}
		code, ok := c.Encoding[a.Label]
		if !ok {
			return Span{}, nil, fmt.Errorf("%w: %q at %v", ErrEncoding, a.Label, a.Span)
		}
		values = append(values, slices.Repeat([]uint8{code}, int(d/c.Duration))...)
	}
	// Spans that were rounded up must not give labels for time that nobody
	// annotated: what does not fit is cut at the end.
	n := min(len(values), int(total/c.Duration))
	return Span{start, start + time.Duration(n)*c.Duration}, values[:n:n], nil
}

// contiguous checks that each span begins where the one before it ends.
func contiguous(annotations []Annotation) error {
	for i := 1; i < len(annotations); i++ {
		before, after := annotations[i-1].Span, annotations[i].Span
		switch {
		case after.Start < before.Start:
			return fmt.Errorf("%w: not sorted: %v after %v", ErrLabels, after, before)
		case before.Stop != after.Start:
			return fmt.Errorf("%w: not contiguous: %v after %v", ErrLabels, after, before)
		}
	}
	return nil
}

// groupAnnotations splits annotations by group, keeping the order both of
// groups and within them.
func groupAnnotations(annotations []Annotation) ([]string, map[string][]Annotation) {
	var keys []string
	groups := map[string][]Annotation{}
	for _, a := range annotations {
		if _, ok := groups[a.Group]; !ok {
			keys = append(keys, a.Group)
		}
		groups[a.Group] = append(groups[a.Group], a)
	}
	return keys, groups
}

// SortAndTrim sorts the annotations of one group by start and cuts the last
// so that it is a whole number of labels long, dropping it if nothing is left.
// Spans that are not contiguous after sorting are ErrLabels. The input is not
// changed.
func SortAndTrim(annotations []Annotation, labelDuration time.Duration) ([]Annotation, error) {
	if labelDuration <= 0 {
		return nil, fmt.Errorf("%w: label duration %v", ErrParams, labelDuration)
	}
	out := slices.Clone(annotations)
	slices.SortStableFunc(out, func(a, b Annotation) int {
		return cmp.Or(cmp.Compare(a.Span.Start, b.Span.Start), cmp.Compare(a.Span.Stop, b.Span.Stop))
	})
	if err := contiguous(out); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return out, nil
	}
	last := &out[len(out)-1]
	last.Span.Stop -= last.Span.Duration() % labelDuration
	if last.Span.Duration() == 0 {
		out = out[:len(out)-1]
	}
	return out, nil
}

// SortAndTrimGroups is [SortAndTrim] for each group by itself.
func SortAndTrimGroups(annotations []Annotation, labelDuration time.Duration) ([]Annotation, error) {
	keys, groups := groupAnnotations(annotations)
	var out []Annotation
	for _, key := range keys {
		sorted, err := SortAndTrim(groups[key], labelDuration)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", key, err)
		}
		out = append(out, sorted...)
	}
	return out, nil
}

// SortedEncoding numbers the distinct labels from 0 in the order of their
// names. More than 256 labels are ErrEncoding.
func SortedEncoding(annotations []Annotation) (map[string]uint8, error) {
	seen := map[string]bool{}
	var names []string
	for _, a := range annotations {
		if !seen[a.Label] {
			seen[a.Label] = true
			names = append(names, a.Label)
		}
	}
	if len(names) > math.MaxUint8+1 {
		return nil, fmt.Errorf("%w: %d distinct labels, 256 at most", ErrEncoding, len(names))
	}
	slices.Sort(names)
	encoding := make(map[string]uint8, len(names))
	for i, name := range names {
		encoding[name] = uint8(i)
	}
	return encoding, nil
}
