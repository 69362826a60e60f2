package cli

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/onda"
)

func TestOndaRepack(t *testing.T) {
	t.Parallel()
	from, out := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "out")
	if err := onda.Synthesize(from, onda.SynthConfig{Recordings: 4}); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	args := []string{"onda", "repack", from, "--out", out}
	if code := run(t.Context(), append(args, "--json"), &stdout, &stderr, nil); code != exitOK {
		t.Fatalf("%d: %s", code, stderr.String())
	}
	var report repackReport
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil || report.Packed != 2 || report.Files != 4 {
		t.Errorf("%+v, %v", report, err)
	}
	if p, err := onda.Guess(out); err != nil {
		t.Errorf("%+v, %v", p, err)
	}
	stdout.Reset()
	if code := run(t.Context(), args, &stdout, &stderr, nil); code != exitUsage ||
		!strings.Contains(stderr.String(), "exists") {
		t.Errorf("%d: %s", code, stderr.String())
	}
}
