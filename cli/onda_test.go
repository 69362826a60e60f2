package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A recording of Sleep-EDF and its hypnogram, by the command line, to a folder that the demo would take.
func TestOndaImport(t *testing.T) {
	t.Parallel()
	from := filepath.Join("..", "..", "shared", "data")
	if d := os.Getenv("JETBATCH_TESTDATA"); d != "" {
		if from = d; filepath.Base(d) == "mitbih12" {
			from = filepath.Dir(d)
		}
	}
	if _, err := os.Stat(filepath.Join(from, "foreign", "edf")); err != nil {
		t.Skipf("no foreign data: neither ../../shared/data/foreign nor JETBATCH_TESTDATA is there")
	}
	dir := t.TempDir()
	for name, as := range map[string]string{
		"edfio_short_psg.edf": "SC4001E0-PSG.edf", "edfio_SC4001EC-Hypnogram.edf": "SC4001EC-Hypnogram.edf",
	} {
		data, err := os.ReadFile(filepath.Join(from, "foreign", "edf", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, as), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out")
	command := func(args ...string) (string, int) {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"onda", "import", dir}, args...), &stdout, &stderr, nil)
		return stdout.String() + stderr.String(), code
	}
	text, code := command("--dry-run")
	if code != exitOK || !strings.Contains(text,
		"SC4001E0-PSG.edf  5m0s, 154 spans, 0 events: eeg, 1 channels at 100 Hz in uV") {
		t.Errorf("%d: %s", code, text)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a dry run wrote")
	}
	text, code = command("--out", out, "--json")
	var report importReport
	if err := json.Unmarshal([]byte(text), &report); err != nil || code != exitOK || report.Out != out ||
		len(report.Recordings) != 1 || len(report.Recordings[0].Signals) != 7 || report.Recordings[0].Seconds != 300 {
		t.Errorf("%d: %s, %v", code, text, err)
	}
	if _, err := os.Stat(filepath.Join(out, "onda.signals.arrow")); err != nil {
		t.Error(err)
	}
	if text, code = command("--out", out); code != exitUsage || !strings.Contains(text, "exists") {
		t.Errorf("%d: %s", code, text)
	}
}
