// Package golden compares what tests get with files in their testdata: what is on a disk or in a stream today must be
// readable, and equal, tomorrow. Nothing but tests imports it; they have its flag, -update, which rewrites the files.
package golden

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// Check compares got with testdata/<name>.golden.
func Check(t testing.TB, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s: the format changed\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// Hex is 32 bytes a line, for golden files that a person can compare.
func Hex(b []byte) string {
	var s strings.Builder
	for ; len(b) > 32; b = b[32:] {
		s.WriteString(hex.EncodeToString(b[:32]) + "\n")
	}
	s.WriteString(hex.EncodeToString(b) + "\n")
	return s.String()
}
