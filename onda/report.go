package onda

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The values of Params.OnBad.
const (
	// OnBadRefuse ends the opening with a [RefusedError] that lists everything.
	OnBadRefuse = "refuse"
	// OnBadDrop leaves out recordings that cannot be used: [Dataset.Report].
	OnBadDrop = "drop"
)

// Report counts the recordings of a data set, or of the part of a split, when it
// was opened.
type Report struct {
	// Recordings of the part, and how many of them are Kept.
	Recordings, Kept int
	// Reasons for which recordings were left out, most frequent first, and then
	// repairs of recordings that are kept.
	Reasons []Reason
}

// Reason is one thing that is wrong with some recordings.
type Reason struct {
	// What, such as "without labels".
	What string
	// Dropped says that nothing is left of these recordings. Else something of
	// them was put right or left out.
	Dropped bool
	// Recordings that it is true of.
	Recordings int
	// First are details of up to three of them.
	First []string
}

// String is one line: "kept 93 of 100 recordings: 4 without labels, 3 shorter
// than 10s; 2 with gaps between labels".
func (r Report) String() string {
	var dropped, mended []string
	for _, reason := range r.Reasons {
		text := fmt.Sprintf("%d %s", reason.Recordings, reason.What)
		if reason.Dropped {
			dropped = append(dropped, text)
		} else {
			mended = append(mended, text)
		}
	}
	out := fmt.Sprintf("kept %d of %d recordings", r.Kept, r.Recordings)
	if len(dropped) > 0 {
		out += ": " + strings.Join(dropped, ", ")
	}
	if len(mended) > 0 {
		out += "; " + strings.Join(mended, ", ")
	}
	return out
}

// RefusedError lists everything because of which a data set was not opened. It
// unwraps to one error of each kind.
type RefusedError struct {
	Report Report
	errs   []error
}

func (e *RefusedError) Error() string {
	var out strings.Builder
	fmt.Fprintf(&out, "onda: %d recordings, of which some cannot be used as they are; ", e.Report.Recordings)
	fmt.Fprintf(&out, "on_bad %q would leave out what cannot be mended%s", OnBadDrop, e.Report.details())
	return out.String()
}

// details are a line for each reason, and for the first recordings that it is true of.
func (r Report) details() string {
	var out strings.Builder
	for _, r := range r.Reasons {
		fmt.Fprintf(&out, "\n%d %s", r.Recordings, r.What)
		for _, first := range r.First {
			fmt.Fprintf(&out, "\n  %s", first)
		}
		if more := r.Recordings - len(r.First); more > 0 {
			fmt.Fprintf(&out, "\n  and %d more", more)
		}
	}
	return out.String()
}

// Unwrap gives the first error of each kind.
func (e *RefusedError) Unwrap() []error { return e.errs }

// tally collects the findings of an opening.
type tally struct {
	found map[string]*finding
	order []*finding
}

type finding struct {
	Reason
	seen map[uuid.UUID]bool
	err  error
}

// maxDetails of one reason are kept, each of maxDetail bytes at most.
const (
	maxDetails = 3
	maxDetail  = 500
)

func (t *tally) add(what string, dropped bool, id uuid.UUID, err error) {
	if t.found == nil {
		t.found = map[string]*finding{}
	}
	f := t.found[what]
	if f == nil {
		f = &finding{Reason: Reason{What: what, Dropped: dropped}, seen: map[uuid.UUID]bool{}, err: err}
		t.found[what] = f
		t.order = append(t.order, f)
	}
	if f.seen[id] {
		return
	}
	f.seen[id] = true
	f.Recordings++
	if err != nil && len(f.First) < maxDetails {
		text := err.Error()
		f.First = append(f.First, strings.ToValidUTF8(text[:min(len(text), maxDetail)], ""))
	}
}

// bad says that a signal of recording id cannot be used as it is.
func (t *tally) bad(what string, id uuid.UUID, err error) { t.add(what, true, id, err) }

// mended says that something of recording id was put right or left out.
func (t *tally) mended(what string, id uuid.UUID) { t.add(what, false, id, nil) }

// report tells recordings that are lost from those of which another signal is
// kept.
func (t *tally) report(recordings int, kept map[uuid.UUID]bool) Report {
	r := Report{Recordings: recordings, Kept: len(kept)}
	for _, f := range t.order {
		partly := 0
		for id := range f.seen {
			if f.Dropped && kept[id] {
				partly++
			}
		}
		reason := f.Reason
		if reason.Recordings -= partly; reason.Recordings > 0 {
			r.Reasons = append(r.Reasons, reason)
		}
		if partly > 0 {
			reason.What, reason.Dropped, reason.Recordings = "without one of the signals ("+f.What+")", false, partly
			r.Reasons = append(r.Reasons, reason)
		}
	}
	slices.SortStableFunc(r.Reasons, func(a, b Reason) int {
		if a.Dropped != b.Dropped {
			if a.Dropped {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Recordings, a.Recordings)
	})
	return r
}

// refused is the error of everything bad, or nil.
func (t *tally) refused(recordings int) error {
	e := &RefusedError{Report: t.report(recordings, nil)}
	for _, f := range t.order {
		if f.err != nil {
			e.errs = append(e.errs, f.err)
		}
	}
	if len(e.errs) == 0 {
		return nil
	}
	return e
}

// What is wrong with recordings, as reports word it.
const (
	whatUnlike    = "unlike the others"
	whatChannels  = "without the channels"
	whatDuplicate = "with duplicate rows"
	whatFile      = "with a file that is not what its row says"
	whatUnlabeled = "without labels"
	whatNull      = "with a label that is missing"
	whatSpans     = "with label spans that are unsorted, have gaps or overlap, or are no whole numbers of labels"
	whatEncoding  = "with labels that the encoding lacks"
	whatBeyond    = "with labels beyond the signal"
	whatAbsent    = "with labels and without a signal"

	whatOrdered  = "with the channels in another order"
	whatUnit     = "in another unit"
	whatGaps     = "with gaps between labels"
	whatOverlaps = "with labels that overlap"
	whatClipped  = "with labels cut to the signal"
	whatShort    = "with stretches of labels shorter than a window"
)

func whatShorter(window time.Duration) string { return fmt.Sprintf("shorter than %v", window) }
