package cli

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// unicodeLocale reports whether a terminal of this locale shows more than ASCII. A locale that is not set says nothing
// of the terminal: containers have none.
func unicodeLocale() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(os.Getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return true
}

// inASCII are the marks of pictures and texts, each as one character of ASCII.
var inASCII = func() map[rune]rune {
	m := make(map[rune]rune)
	for from, to := range map[string]string{
		"▁▂▃▄▅▆▇█": "_.:-=+*#", "▏▎▍▌▋▊▉": "   ####", "▰▱": "#.", "▸▾": ">v", "━╸─": "=>-", "–…×→↑↓←": "-~x>^v<", "µ": "u",
	} {
		ascii := []byte(to)
		for i, r := range []rune(from) {
			m[r] = rune(ascii[i])
		}
	}
	return m
}()

// toASCII is s with one character of ASCII in the place of each other.
func toASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			return r
		}
		if ascii, ok := inASCII[r]; ok {
			return ascii
		}
		return '?'
	}, s)
}

// asciiWriter writes text for people in ASCII.
type asciiWriter struct {
	io.Writer
	split []byte // the beginning of a character whose rest comes with the next Write
}

// Write holds back a character that is not whole yet.
func (w *asciiWriter) Write(p []byte) (int, error) {
	text := append(w.split, p...)
	whole := len(text)
	for i := max(0, whole-utf8.UTFMax); i < len(text); i++ {
		if utf8.RuneStart(text[i]) && !utf8.FullRune(text[i:]) {
			whole = i
			break
		}
	}
	w.split = append([]byte(nil), text[whole:]...)
	if _, err := io.WriteString(w.Writer, toASCII(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// forPeople returns w for text that people read in this locale.
func forPeople(w io.Writer) io.Writer {
	if unicodeLocale() {
		return w
	}
	return &asciiWriter{Writer: w}
}

// forMachines is the writer behind forPeople.
func forMachines(w io.Writer) io.Writer {
	if a, ok := w.(*asciiWriter); ok {
		return a.Writer
	}
	return w
}
