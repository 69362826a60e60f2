package onda

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"
	"unsafe"
)

// LabeledSignal is a signal with dense labels: one label for every
// LabelDuration of LabelSpan, or LabelRate of them in a second. The labels are
// held here, or stored as a signal of their own and read by range.
type LabeledSignal struct {
	Signal
	// LabelSpan is what the labels cover, from the start of the recording. It
	// lies inside the signal's span.
	LabelSpan Span
	// LabelDuration is the length of one label.
	LabelDuration time.Duration
	// LabelRate, in place of LabelDuration, is labels per second, for labels
	// whose length is no whole number of nanoseconds.
	LabelRate float64
	// Labels are the encoded labels, LabelCount of them, if Stored is nil.
	Labels Labels
	// Stored is the signal that holds the labels, if they are not held here:
	// one channel of uint8, whose span contains LabelSpan.
	Stored *Signal
}

// grid is where labels begin, from the start of the first.
func (l *LabeledSignal) grid() rate { return labelGrid(l.LabelDuration, l.LabelRate) }

func labelGrid(duration time.Duration, hz float64) rate {
	if hz > 0 {
		return rateOf(hz)
	}
	return rateEvery(duration)
}

// LabelCount is the number of labels.
func (l *LabeledSignal) LabelCount() int { return int(l.grid().nearest(l.LabelSpan.Duration())) }

// SubSpan is l with only the labels of span, which has to lie inside the
// labels and on their boundaries; span counts from the start of the recording.
// Labels in memory are shared with l, not copied.
func (l LabeledSignal) SubSpan(span Span) (LabeledSignal, error) {
	if !l.LabelSpan.Contains(span) {
		return LabeledSignal{}, fmt.Errorf("%w: recording %s: %v is not inside the labels, %v",
			ErrOutsideSignal, l.Recording, span, l.LabelSpan)
	}
	grid := l.grid()
	first, begins := grid.whole(span.Start - l.LabelSpan.Start)
	n, ends := grid.whole(span.Duration())
	if !begins || !ends || n == 0 {
		return LabeledSignal{}, fmt.Errorf("%w: recording %s: %v is not a whole number of labels of %v",
			ErrLabels, l.Recording, span, grid)
	}
	l.LabelSpan = span
	if l.Stored == nil {
		l.Labels = l.Labels.slice(first, min(first+n, int64(l.Labels.Len())))
	}
	return l, nil
}

// Validate checks what LabelSignals and the label tables promise, for labelled
// signals that come from elsewhere.
func (l *LabeledSignal) Validate() error {
	if err := l.Signal.Validate(); err != nil {
		return err
	}
	if err := validateGrid(l.LabelDuration, l.LabelRate); err != nil {
		return fmt.Errorf("%w: recording %s: %w", ErrLabels, l.Recording, err)
	}
	grid := l.grid()
	n, whole := grid.whole(l.LabelSpan.Duration())
	if !whole || n <= 0 {
		return fmt.Errorf("%w: recording %s: %v is not a whole number of labels of %v",
			ErrLabels, l.Recording, l.LabelSpan, grid)
	}
	if !l.Span.Contains(l.LabelSpan) {
		return fmt.Errorf("%w: recording %s: labels %v, signal %v", ErrOutsideSignal, l.Recording, l.LabelSpan, l.Span)
	}
	if l.Stored == nil {
		if int64(l.Labels.Len()) != n {
			return fmt.Errorf("%w: recording %s: %d labels for %v", ErrLabels, l.Recording, l.Labels.Len(),
				l.LabelSpan)
		}
		return nil
	}
	if !l.Stored.Span.Contains(l.LabelSpan) {
		return fmt.Errorf("%w: recording %s: labels %v, stored %v", ErrOutsideSignal, l.Recording, l.LabelSpan,
			l.Stored.Span)
	}
	if _, whole := grid.whole(l.LabelSpan.Start - l.Stored.Span.Start); !whole {
		return fmt.Errorf("%w: recording %s: labels %v, stored %v", ErrLabels, l.Recording, l.LabelSpan, l.Stored.Span)
	}
	return nil
}

const (
	// maxLabels bounds the labels of one group, so that their places fit 32 bits.
	maxLabels = 1 << 30
	// The shortest label: no sensor of the formats that end up here is faster.
	minLabelDuration = time.Microsecond
	maxLabelRate     = 1e6
)

// validateGrid checks the length of labels, one of the two.
func validateGrid(duration time.Duration, hz float64) error {
	switch {
	case duration != 0 && hz != 0:
		return errors.New("both a label duration and a label rate")
	case hz != 0 && !(hz >= minRate && hz <= maxLabelRate):
		return fmt.Errorf("label rate %v is not in [1e-9, 1e6]: labels are 1us to 31 years long", hz)
	case hz == 0 && !(duration >= minLabelDuration && duration <= maxTime):
		return fmt.Errorf("label duration %v is not in [%v, %v]: the shortest is that of a sample at 1 MHz, "+
			"the longest that of a span", duration, minLabelDuration, maxTime)
	}
	return nil
}

// LabelConfig says how annotations become labels.
type LabelConfig struct {
	// Duration of one label, at least 1us. Required, unless Rate is given.
	Duration time.Duration
	// Rate, in place of Duration, is labels per second, up to 1e6, for labels
	// whose length is no whole number of nanoseconds.
	Rate float64
	// Encoding gives the number of each label. Required.
	Encoding map[string]uint8
	// RoundTo allows spans that are a few milliseconds off: the duration of
	// each, rounded to a multiple of RoundTo, half up, has to be a whole number
	// of labels, and each begins and ends at the label's boundary that is
	// nearest to where it does. Defaults to no rounding.
	RoundTo time.Duration
	// Logger hears of the signals that are dropped. Defaults to none.
	Logger *slog.Logger

	budget *budget
}

func (c *LabelConfig) validate() error {
	if err := validateGrid(c.Duration, c.Rate); err != nil {
		return fmt.Errorf("%w: %w", ErrParams, err)
	}
	if c.RoundTo < 0 {
		return fmt.Errorf("%w: labels rounded to %v", ErrParams, c.RoundTo)
	}
	if len(c.Encoding) == 0 {
		return fmt.Errorf("%w: no encoding", ErrParams)
	}
	return nil
}

func (c *LabelConfig) grid() rate { return labelGrid(c.Duration, c.Rate) }

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
	keys, groups, err := groupAnnotations(annotations, cfg.budget)
	if err != nil {
		return nil, err
	}
	encoded := map[string]labelRun{}
	for _, key := range keys {
		run, err := cfg.encode(groups[key], false)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", key, err)
		}
		if run.labels.Len() > 0 {
			encoded[key] = run
		}
	}
	var out []LabeledSignal
	for _, s := range signals {
		run, ok := encoded[s.Group]
		if !ok {
			logger.Warn("signal dropped: it has no labels", "recording", s.Recording.String(), "path", s.Path)
			continue
		}
		l := cfg.labeled(s, run)
		if err := l.Validate(); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// labelRun is a stretch of labels without a break.
type labelRun struct {
	span   Span
	labels Labels
}

func (c *LabelConfig) labeled(s Signal, run labelRun) LabeledSignal {
	return LabeledSignal{
		Signal: s, LabelSpan: run.span, LabelDuration: c.Duration, LabelRate: c.Rate, Labels: run.labels,
	}
}

// encode expands contiguous annotations to labels and the span that these
// cover, which begins with the first annotation. Each annotation's labels lie
// where it lies, whatever was rounded before it. If trim is set, a last
// annotation that is no whole number of labels long is cut to one.
func (c *LabelConfig) encode(annotations []Annotation, trim bool) (labelRun, error) {
	if err := contiguous(annotations); err != nil {
		return labelRun{}, err
	}
	grid := c.grid()
	start := annotations[0].Span.Start
	total := annotations[len(annotations)-1].Span.Stop - start
	// Spans that were rounded up must not give labels for time that nobody
	// annotated: what does not fit is cut at the end.
	end := grid.index(total)
	if n, whole := grid.whole(total); whole {
		end = n
	}
	if end > maxLabels {
		return labelRun{}, fmt.Errorf("%w: %v holds more than %d labels of %v", ErrLabels, total, maxLabels, grid)
	}
	var labels Labels
	for i, a := range annotations {
		d := a.Span.Duration()
		if c.RoundTo > 0 {
			d = d.Round(c.RoundTo)
		}
		_, whole := grid.whole(d)
		if last := trim && i == len(annotations)-1; !whole && !last {
			return labelRun{}, fmt.Errorf("%w: %v is not a whole number of labels of %v", ErrLabels, a.Span, grid)
		}
		code, ok := c.Encoding[a.Label]
		if !ok {
			return labelRun{}, fmt.Errorf("%w: %q at %v", ErrEncoding, a.Label, a.Span)
		}
		labels.extend(min(grid.nearest(a.Span.Stop-start), end), code)
	}
	labels.ends, labels.values = slices.Clip(labels.ends), slices.Clip(labels.values)
	if err := c.budget.take("the labels", runBytes*int64(len(labels.ends))); err != nil {
		return labelRun{}, err
	}
	return labelRun{Span{start, start + grid.at(int64(labels.Len()))}, labels}, nil
}

// contiguous checks that each span begins where the one before it ends.
func contiguous(annotations []Annotation) error {
	for i := 1; i < len(annotations); i++ {
		before, after := annotations[i-1].Span, annotations[i].Span
		switch {
		case after.Start < before.Start:
			return fmt.Errorf("%w: not sorted: %v after %v", ErrLabels, after, before)
		case before.Stop < after.Start:
			return fmt.Errorf("%w: not contiguous: a gap between %v and %v", ErrLabels, before, after)
		case before.Stop > after.Start:
			return fmt.Errorf("%w: not contiguous: %v overlaps %v", ErrLabels, after, before)
		}
	}
	return nil
}

// groupAnnotations splits annotations by group, keeping the order both of
// groups and within them. Groups whose rows follow one another share memory
// with annotations; others are copied, within the budget.
func groupAnnotations(annotations []Annotation, b *budget) ([]string, map[string][]Annotation, error) {
	const row = 2 * int64(unsafe.Sizeof(Annotation{})) // append leaves room
	var keys []string
	groups := map[string][]Annotation{}
	for from := 0; from < len(annotations); {
		group, to := annotations[from].Group, from+1
		for to < len(annotations) && annotations[to].Group == group {
			to++
		}
		rows := annotations[from:to:to]
		before, ok := groups[group]
		if !ok {
			keys = append(keys, group)
		} else if err := b.take("the annotations by group", row*int64(len(rows))); err != nil {
			return nil, nil, err
		}
		if ok {
			rows = append(before, rows...)
		}
		groups[group] = rows
		from = to
	}
	return keys, groups, nil
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
	keys, groups, err := groupAnnotations(annotations, nil)
	if err != nil {
		return nil, err
	}
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
	return sortedEncoding(names)
}

// sortedEncoding is SortedEncoding of distinct labels, which it sorts.
func sortedEncoding(names []string) (map[string]uint8, error) {
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
