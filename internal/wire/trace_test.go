package wire

import (
	"regexp"
	"strings"
	"testing"
)

const goodTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestTraceparent(t *testing.T) {
	t.Parallel()
	if got := Traceparent(goodTrace); got != goodTrace {
		t.Errorf("%q became %q", goodTrace, got)
	}
	for _, bad := range []string{
		"", goodTrace + "\r\nevil: yes", goodTrace[:54] + "\n", strings.ToUpper(goodTrace), "01" + goodTrace[2:],
		"00-" + strings.Repeat("0", 32) + goodTrace[35:], goodTrace[:36] + strings.Repeat("0", 16) + "-01", strings.ReplaceAll(goodTrace, "-", "_"),
	} {
		if got := Traceparent(bad); got != "" {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// FuzzTraceparent: what is returned is what was given or nothing, and has no character that could end a header.
func FuzzTraceparent(f *testing.F) {
	f.Add(goodTrace)
	f.Add(goodTrace + "-more")
	form := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := Traceparent(s); got != "" && (got != s || !form.MatchString(got)) {
			t.Errorf("%q became %q", s, got)
		}
	})
}
