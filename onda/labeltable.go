package onda

import (
	"cmp"
	"context"
	"slices"
	"unsafe"

	"github.com/google/uuid"
)

// labelTable is a table of annotations as an opening needs it, in a third of
// the memory of [Annotation].
type labelTable struct {
	rows   []labelRow // those of one group follow one another, in the table's order
	labels []string   // by number
	groups map[string]*labelGroup
	// numbers says that the labels are numbers, and not text.
	numbers bool
	digest  string
}

// labelRow is a row that has a label. Label and group are numbers.
type labelRow struct {
	span         Span
	label, group uint32
}

// labelGroup is what labels one group of signals.
type labelGroup struct {
	recording uuid.UUID // of its first row
	number    uint32
	from, to  int // of the table's rows
	unlabeled int // rows without a label
}

func readLabels(
	ctx context.Context, src Source, b *budget, name, labelColumn, groupColumn string,
) (labelTable, error) {
	var out labelTable
	err := withTable(ctx, src, b, name, func(t *table) (err error) {
		out, err = t.labelRows(labelColumn, groupColumn)
		return err
	})
	return out, err
}

// missingLabel is the number of a label that is missing.
const missingLabel = 1<<32 - 1

func (t *table) labelRows(labelColumn, groupColumn string) (labelTable, error) {
	out := labelTable{groups: map[string]*labelGroup{}, numbers: t.numbers(labelColumn), digest: t.digest}
	rows, err := makeRows[labelRow](t)
	if err != nil {
		return out, err
	}
	if len(rows) >= missingLabel {
		return out, t.fail("", -1, "more than %d rows", missingLabel-1)
	}
	labels, err := t.column(labelColumn)
	if err != nil {
		return out, err
	}
	labels.onNull = func(row int) { rows[row].label = missingLabel }
	numbers := map[string]uint32{}
	var groups []*labelGroup
	const group = int64(unsafe.Sizeof(labelGroup{}) + 64) // with its place in the map, about
	var full error
	for _, read := range []func() error{
		func() error {
			return t.groups(groupColumn, func(row int, v string) {
				g := out.groups[v]
				if g == nil {
					full = cmp.Or(full, t.budget.take("the groups of "+t.file, group))
					g = &labelGroup{number: uint32(len(groups)), from: row}
					out.groups[v], groups = g, append(groups, g)
				}
				rows[row].group = g.number
			})
		},
		func() error {
			return read(t, columnRecording, (*column).uuid, func(row int, v uuid.UUID) {
				if g := groups[rows[row].group]; g.from == row {
					g.recording = v
				}
			})
		},
		func() error {
			return read(t, columnSpan, (*column).span, func(row int, v Span) { rows[row].span = v })
		},
		func() error {
			return convert(labels, (*column).text, func(row int, v string) {
				n, ok := numbers[v]
				if !ok {
					n = uint32(len(out.labels))
					numbers[v], out.labels = n, append(out.labels, v)
				}
				rows[row].label = n
			})
		},
	} {
		if err := cmp.Or(read(), full); err != nil {
			return out, err
		}
	}
	out.rows = slices.DeleteFunc(rows, func(r labelRow) bool {
		if r.label != missingLabel {
			return false
		}
		groups[r.group].unlabeled++
		return true
	})
	slices.SortStableFunc(out.rows, func(a, b labelRow) int { return cmp.Compare(a.group, b.group) })
	at := 0
	for _, g := range groups {
		g.from = at
		for at < len(out.rows) && out.rows[at].group == g.number {
			at++
		}
		g.to = at
	}
	return out, nil
}

// notes are the rows of a group, in the table's order, and how many more have
// no label.
func (t *labelTable) notes(group string) (notes []Annotation, unlabeled int) {
	g, ok := t.groups[group]
	if !ok {
		return nil, 0
	}
	notes = make([]Annotation, 0, g.to-g.from)
	for _, r := range t.rows[g.from:g.to] {
		notes = append(notes, Annotation{Recording: g.recording, Span: r.span, Label: t.labels[r.label], Group: group})
	}
	return notes, g.unlabeled
}
