// Package legible makes text that came from somewhere else fit to be shown. A worker's error, a batcher's name and the
// answer of a service are chosen by another process, and a terminal obeys escape sequences wherever they come from.
// Every command and every error of this module shows such text by way of this package and no other.
package legible

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Hidden stands for a rune that is not shown.
const Hidden = '·'

// Text is s without what could move the cursor, change colours, or turn the direction of writing: runes that are not
// printable become Hidden. Line feeds and tabs stay, so that a stack can be read.
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || shown(r) {
			return r
		}
		return Hidden
	}, s)
}

// Line is Text in one line, whose words are separated by one space each. A name with a line feed in it cannot pass
// for a row of a table.
func Line(s string) string { return Text(strings.Join(strings.Fields(s), " ")) }

// Lines is Line of each.
func Lines(all []string) []string {
	lines := make([]string, len(all))
	for i, s := range all {
		lines[i] = Line(s)
	}
	return lines
}

// JSON writes what a terminal could obey in an encoded value as \u escapes. The value stays the same: outside of its
// strings JSON has no such rune but line feeds.
func JSON(data []byte) []byte {
	if !bytes.ContainsFunc(data, func(r rune) bool { return r != '\n' && !shown(r) }) {
		return data
	}
	out := make([]byte, 0, len(data)+16)
	for _, r := range string(data) {
		switch {
		case r == '\n' || shown(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// JSONWriter returns a writer that writes JSON of what it is given, which is whole values.
func JSONWriter(w io.Writer) io.Writer { return jsonWriter{w} }

type jsonWriter struct{ io.Writer }

func (w jsonWriter) Write(p []byte) (int, error) {
	if _, err := w.Writer.Write(JSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// shown reports whether a rune is printed as itself. The space is the only blank that is.
func shown(r rune) bool { return unicode.IsPrint(r) }

// Count is a number of things: 1 worker, 2 workers.
func Count(n int, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "ch"):
		what += "es"
	default:
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}
