package onda

import (
	"cmp"
	"slices"
	"time"
)

// breaks counts the gaps and overlaps between runs of annotations.
type breaks struct {
	gaps, overlaps int
}

// runs divides the annotations of one group, in any order, into stretches
// without a break, each sorted and contiguous. Time that annotations with
// different labels share is left out, since nobody can say which is right;
// time that equal ones share counts once. A gap or an overlap of less than
// half of tolerance is none.
func runs(annotations []Annotation, tolerance time.Duration) ([][]Annotation, breaks) {
	pieces, b := flatten(snap(annotations, tolerance))
	var out [][]Annotation
	from := 0
	for i := 1; i <= len(pieces); i++ {
		if i == len(pieces) || pieces[i-1].Span.Stop != pieces[i].Span.Start {
			out = append(out, pieces[from:i:i])
			from = i
		}
	}
	return out, b
}

// snap sorts annotations, leaves out those of no length and closes gaps and
// overlaps of less than half of tolerance between one and the next.
func snap(annotations []Annotation, tolerance time.Duration) []Annotation {
	out := slices.DeleteFunc(slices.Clone(annotations), func(a Annotation) bool { return a.Span.Duration() == 0 })
	slices.SortStableFunc(out, bySpan)
	for i := 1; i < len(out); i++ {
		off := out[i].Span.Start - out[i-1].Span.Stop
		if off.Abs() < (tolerance+1)/2 && out[i].Span.Start > out[i-1].Span.Start {
			out[i-1].Span.Stop = out[i].Span.Start
		}
	}
	return out
}

func bySpan(a, b Annotation) int {
	return cmp.Or(cmp.Compare(a.Span.Start, b.Span.Start), cmp.Compare(a.Span.Stop, b.Span.Stop))
}

// flatten walks the boundaries of sorted annotations and gives the stretches
// between them that carry one label.
func flatten(annotations []Annotation) ([]Annotation, breaks) {
	type edge struct {
		at time.Duration
		a  *Annotation
		in bool
	}
	edges := make([]edge, 0, 2*len(annotations))
	for i := range annotations {
		a := &annotations[i]
		edges = append(edges, edge{a.Span.Start, a, true}, edge{a.Span.Stop, a, false})
	}
	slices.SortStableFunc(edges, func(x, y edge) int { return cmp.Compare(x.at, y.at) })

	var out []Annotation
	var b breaks
	type carriers struct {
		n int // how many annotations carry the label now
		a *Annotation
	}
	active := map[string]carriers{}
	var open *Annotation // the stretch that is being made: its end is not known
	contested := false
	for i := 0; i < len(edges); {
		at, idle, begin := edges[i].at, len(active) == 0, i
		for ; i < len(edges) && edges[i].at == at; i++ {
			if e := edges[i]; !e.in {
				c := active[e.a.Label]
				if c.n--; c.n > 0 {
					active[e.a.Label] = c
				} else {
					delete(active, e.a.Label)
				}
			}
		}
		// The label goes on through this boundary if an annotation with it does.
		goesOn := open != nil && active[open.Label].n > 0
		for _, e := range edges[begin:i] {
			if e.in {
				active[e.a.Label] = carriers{active[e.a.Label].n + 1, e.a}
			}
		}
		if idle && begin > 0 {
			b.gaps++
		}
		was := contested
		if contested = len(active) > 1; contested && !was {
			b.overlaps++
		}
		if goesOn && !contested {
			continue
		}
		if open != nil {
			open.Span.Stop = at
			out = append(out, *open)
			open = nil
		}
		if len(active) == 1 {
			for _, c := range active {
				next := *c.a
				next.Span.Start, open = at, &next
			}
		}
	}
	return out, b
}

// clip cuts a run of labels to those that lie in span.
func (c *LabelConfig) clip(run labelRun, span Span) (labelRun, bool) {
	n := int64(run.labels.Len())
	from, to := c.inside(run.span, n, span)
	if from == 0 && to == n {
		return run, false
	}
	if from >= to {
		return labelRun{}, true
	}
	grid := c.grid()
	at := run.span.Start + grid.at(from)
	return labelRun{Span{at, at + grid.at(to-from)}, run.labels.slice(from, to)}, true
}

// inside finds those of n labels over labels that lie in span: from one to
// before the other.
func (c *LabelConfig) inside(labels Span, n int64, span Span) (from, to int64) {
	grid := c.grid()
	if before := span.Start - labels.Start; before > 0 {
		if from = grid.index(before); grid.at(from) < before {
			from++
		}
	}
	if labels.Stop <= span.Stop {
		return from, n
	}
	if inside := span.Stop - labels.Start; inside > 0 {
		to = min(grid.index(inside), n)
	}
	return from, to
}
