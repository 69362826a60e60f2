package cli

import (
	"errors"
	"io"
	"strings"
	"testing"
	"unicode"

	"github.com/jetbatch/jetbatch/internal/legible"
)

// FuzzFlags reads drawn command lines, whose arguments are separated by zeros as the system keeps them, and runs none.
// Each is read, or refused with one line that says how to go on.
func FuzzFlags(f *testing.F) {
	for _, args := range [][]string{
		{"worker", "--name", "w1", "--slots=4", "--server", "nats://h:4222,tls://[::1]:4222"},
		{"take", "--name", "train", "--dataset", "onda", "--params", `{"dir":"d"}`, "--window", "-1", "--no-json"},
		{"coordinator", "--stall", "5s", "--log-level=debug", "--log-format", "json"},
		{"show", "-o", "a.svg", "-o=b.png", "--data", "~/d"}, {"audit", "--share", "1e400"},
		{"keys", "--", "-dir"}, {"onda", "repack", ".", "--out", ""}, {"version", "--config", "cli.go"},
		{"up", "--server", "nats://user:password@h"}, {"--help"}, {"top", "--help", "--looks"}, {"nosuch"}, {"-"}, {},
	} {
		f.Add(strings.Join(args, "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		if len(line) > 4<<10 || strings.Contains(line, "config") && strings.Contains(line, "/") {
			t.Skip("long, or a file out of this folder that would be read: it may never end")
		}
		a := &app{out: io.Discard, err: newConsole(io.Discard)}
		_, err := a.parse(new(grammar), strings.Split(line, "\x00"))
		if err == nil {
			return
		}
		text := legible.Text(err.Error())
		illegible := func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }
		if !errors.Is(err, errUsage) || strings.ContainsFunc(text, illegible) || len(text) > 10*len(line)+1<<10 {
			t.Errorf("%q: %q", line, text)
		}
	})
}
