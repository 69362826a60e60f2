package top

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jetbatch/jetbatch/internal/legible"
)

// style is how a piece of text looks.
type style string

// The styles: SGR parameters. Dim and bold do without colour; the rest are the terminal's own palette, so that they
// suit a light and a dark one.
const (
	plain style = ""
	dim   style = "2"
	bold  style = "1"
	good  style = "32"
	warn  style = "33"
	bad   style = "31"
	blue  style = "36"
)

// line is one line of the picture: pieces of text side by side, every rune of which is one cell wide.
type line struct {
	pieces []piece
	cells  int
}

type piece struct {
	style style
	text  string
}

func (l *line) add(s style, text string) *line {
	text = narrow(text)
	l.pieces = append(l.pieces, piece{s, text})
	l.cells += utf8.RuneCountInString(text)
	return l
}

// left adds text cut or filled to a width.
func (l *line) left(s style, text string, width int) *line {
	text = cut(narrow(text), width)
	return l.add(s, text+strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text))))
}

// right is left, filled in front.
func (l *line) right(s style, text string, width int) *line {
	text = cut(narrow(text), width)
	return l.add(s, strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))+text)
}

// to fills up to a column.
func (l *line) to(column int) *line {
	return l.add(plain, strings.Repeat(" ", max(0, column-l.cells)))
}

// render returns the line, cut to a width, with its styles as escape sequences or without.
func (l *line) render(width int, color bool) string {
	var b strings.Builder
	left := width
	for _, p := range l.pieces {
		text := p.text
		if n := utf8.RuneCountInString(text); n > left {
			text = cut(text, left)
		}
		left -= utf8.RuneCountInString(text)
		if color && p.style != plain && strings.TrimSpace(text) != "" {
			text = "\x1b[" + string(p.style) + "m" + text + "\x1b[0m"
		}
		b.WriteString(text)
	}
	return strings.TrimRight(b.String(), " ")
}

// cut is the beginning of s, with a mark where something is missing.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	return string([]rune(s)[:width-1]) + "…"
}

// narrow replaces, besides what is not legible, what may take another width than one cell: nothing here counts widths.
func narrow(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < utf8.RuneSelf && unicode.IsPrint(r),
			r < 0x1100 && unicode.IsPrint(r) && !unicode.Is(unicode.Mn, r) && r != 0xad,
			0x2010 <= r && r <= 0x2027, 0x2190 <= r && r <= 0x21ff, 0x2500 <= r && r <= 0x25ff:
			return r
		}
		return legible.Hidden
	}, legible.Text(s))
}

// bar is a bar of a share, from 0 to 1, of a width, in eighths of a cell.
func bar(share float64, width int) string {
	eighths := int(min(max(share, 0), 1)*float64(width*8) + 0.5)
	text := strings.Repeat("█", eighths/8)
	if r := eighths % 8; r > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[r-1])
	}
	return text + strings.Repeat(" ", width-utf8.RuneCountInString(text))
}

// gauge is a bar that shows its whole width.
func gauge(share float64, width int) (full, rest string) {
	n := int(min(max(share, 0), 1)*float64(width) + 0.5)
	return strings.Repeat("▰", n), strings.Repeat("▱", width-n)
}

// sparkline draws values of 0 and more, each as one cell, and those below 0, which are not known, as nothing.
func sparkline(values []float64) string {
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	levels := []rune("▁▂▃▄▅▆▇█")
	out := make([]rune, len(values))
	for i, v := range values {
		switch {
		case v < 0:
			out[i] = ' '
		case most == 0:
			out[i] = levels[0]
		default:
			out[i] = levels[min(int(v/most*float64(len(levels)-1)+0.5), len(levels)-1)]
		}
	}
	return string(out)
}
