package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// String is the report as a table for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Case, r.What)
	cells := [][]string{{"", "against", "unit", "figure", "floor", "ratio", "CPU µs/batch", "ratio", "CPU ms/MB", "ratio", "allocs/batch", "ratio"}}
	for i := range r.Rows {
		cells = append(cells, r.Rows[i].cells())
	}
	grid(&b, cells, 3)
	b.WriteString(r.peaks())
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "  %s\n", note)
	}
	return b.String()
}

// peaks is a table of sides and roles.
func (r *Report) peaks() string {
	roles := make(map[string]bool)
	for _, side := range r.Peaks {
		for role := range side {
			roles[role] = true
		}
	}
	columns := slices.Sorted(maps.Keys(roles))
	cells := [][]string{append([]string{"peak memory, MB"}, columns...)}
	for _, side := range slices.Sorted(maps.Keys(r.Peaks)) {
		line := []string{side}
		for _, role := range columns {
			if mb, ok := r.Peaks[side][role]; ok {
				line = append(line, number(mb))
			} else {
				line = append(line, "")
			}
		}
		cells = append(cells, line)
	}
	var b strings.Builder
	grid(&b, cells, 1)
	return b.String()
}

func (r *Row) cells() []string {
	cells := []string{r.Name, r.Against, r.Unit, number(r.Ours), number(r.Floor), r.ratio(byFigure)}
	for _, c := range []struct {
		Pair
		measure string
	}{{r.CPUPerBatch, byCPU}, {r.CPUPerMB, byCPUPerMB}, {r.Allocs, byAllocs}} {
		if c.Pair == (Pair{}) {
			cells = append(cells, "", "")
			continue
		}
		if c.Floor == 0 {
			cells = append(cells, number(c.Ours), "")
			continue
		}
		cells = append(cells, number(c.Ours)+" / "+number(c.Floor), r.ratio(c.measure))
	}
	return cells
}

// ratio is a measure's ratio and, where it has a target, whether that is met.
func (r *Row) ratio(measure string) string {
	text := fmt.Sprintf("%.2f", r.of(measure).Ratio)
	for _, v := range r.Limits {
		if v.Measure == measure {
			text = v.mark() + " " + text
		}
	}
	return text
}

// mark says whether the target is met, and which it is.
func (v Verdict) mark() string {
	sign, bound := "✗", "≥"
	if v.Met {
		sign = "✓"
	}
	if v.AtMost {
		bound = "≤"
	}
	return fmt.Sprintf("%s %s%.2f:", sign, bound, v.Target)
}

// grid writes columns as wide as they must be, the first ones aligned to the left.
func grid(b *strings.Builder, rows [][]string, left int) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < left {
				line.WriteString("  " + cell + pad)
			} else {
				line.WriteString("  " + pad + cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// number has three digits that mean something.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v == 0:
		return "0"
	}
	return fmt.Sprintf("%.2f", v)
}

// sentence says that a gate was not passed.
func (v Verdict) sentence(kase, row string) string {
	bound := "at least"
	if v.AtMost {
		bound = "at most"
	}
	return fmt.Sprintf("%s: %s: %s is at best %.2f of the floor's, and must be %s %.2f", kase, row, v.Measure, v.Best, bound, v.Gate)
}
