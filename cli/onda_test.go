package cli

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/internal/recordings"
	"github.com/jetbatch/jetbatch/onda"
)

// A recording of Sleep-EDF and its hypnogram, by the command line, to a folder that the demo would take.
func TestOndaImport(t *testing.T) {
	t.Parallel()
	from := filepath.Join(recordings.Dir(t, "foreign"), "edf")
	dir := t.TempDir()
	for name, as := range map[string]string{
		"edfio_short_psg.edf": "SC4001E0-PSG.edf", "edfio_SC4001EC-Hypnogram.edf": "SC4001EC-Hypnogram.edf",
	} {
		data, err := os.ReadFile(filepath.Join(from, name))
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
	// What wants an Onda data set says how to make one.
	for _, args := range [][]string{{"onda", "describe", dir}, {"take", "--name", "x", "--data", dir}} {
		var stderr bytes.Buffer
		code := run(t.Context(), args, io.Discard, &stderr, []dataset.Definition{onda.Definition()})
		if code != exitUsage || !strings.Contains(stderr.String(), "jetbatch onda import "+dir) {
			t.Errorf("%v: %d: %s", args, code, &stderr)
		}
	}
	// Without the hypnogram it has no labels, and what can be done about that is said.
	var stdout, stderr bytes.Buffer
	bare := filepath.Join(dir, "bare")
	file := filepath.Join(dir, "SC4001E0-PSG.edf")
	if code := run(t.Context(), []string{"onda", "import", file, "--out", bare}, &stdout, &stderr, nil); code != exitOK {
		t.Errorf("%d: %s", code, &stderr)
	}
	if code := run(t.Context(), []string{"onda", "describe", bare}, &stdout, &stderr, nil); code != exitOK ||
		!strings.Contains(stdout.String(), "1 recordings have no label\nan import with --label NAME gives") {
		t.Errorf("%d: %s%s", code, &stdout, &stderr)
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

// A folder of WFDB records goes into the demo, and is shown, by way of a temporary place of which nothing is left.
func TestDemoOfRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	samples := make([]byte, 100*60)
	for i := range samples {
		samples[i] = byte(128 + i%50)
	}
	for _, name := range []string{"r1", "r2"} {
		write(name+".hea", []byte(name+" 1 100 6000\n"+name+".dat 80 10/mV"))
		write(name+".dat", samples)
		// A rhythm from 0.3 s on, and another from 30 s on.
		write(name+".atr", []byte("\x1e\x70\x02\xfc(N\x00\xec\x00\x00\x9a\x0b\x00\x70\x05\xfc(AFIB\x00\x00\x00"))
	}
	write("broken.hea", []byte("broken 1 100 9\nbroken.dat 16"))
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"demo", "--data", dir, "-n", "8", "--workers", "2", "--resume-workers", "1"},
		&stdout, &stderr, []dataset.Definition{onda.Definition()})
	for _, want := range []string{"2 recordings of 3 files", "without " + filepath.Join(dir, "broken.hea"), "kept 2 of 2",
		"identical all 8 batches"} {
		if code != exitOK || !strings.Contains(stdout.String(), want) {
			t.Fatalf("%d: no %q in %s%s", code, want, &stdout, &stderr)
		}
	}
	stdout.Reset()
	picture := filepath.Join(t.TempDir(), "x.svg")
	code = run(t.Context(), []string{"show", "--data", dir, "-o", picture}, &stdout, &stderr,
		[]dataset.Definition{onda.Definition()})
	data, err := os.ReadFile(picture)
	if code != exitOK || err != nil || !strings.Contains(string(data), "AFIB") && !strings.Contains(string(data), ">N<") {
		t.Errorf("%d, %v: %s%s", code, err, &stdout, &stderr)
	}
}

// Folders of real recordings in other formats go into the demo as they are; where they have no labels they get one.
func TestDemoOfForeign(t *testing.T) {
	t.Parallel()
	dir := recordings.Dir(t, "foreign")
	for name, wants := range map[string][]string{
		"edf":  {"import    7 recordings of 8 files", "Hypnogram.edf: ", `labelled "unlabeled"`, "kept 2 of 2"},
		"wfdb": {"import    2 recordings of 3 files", "mixedsignals.hea: ", "kept 1 of 1"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"demo", "--data", filepath.Join(dir, name), "-n", "8", "--workers", "2",
			"--resume-workers", "1"}, &stdout, &stderr, []dataset.Definition{onda.Definition()})
		for _, want := range append(wants, "identical all 8 batches") {
			if code != exitOK || !strings.Contains(stdout.String(), want) {
				t.Errorf("%s: %d: no %q in %s%s", name, code, want, &stdout, &stderr)
			}
		}
	}
}

// So do WAVE files, which seldom have labels.
func TestDemoOfSounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		var b bytes.Buffer
		b.WriteString("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00")
		b.WriteString("\xe8\x03\x00\x00\xd0\x07\x00\x00\x02\x00\x10\x00")
		b.WriteString("data\x20\x4e\x00\x00") // 10 s at 1 kHz
		for i := range 10_000 {
			b.Write([]byte{byte(i), name[0]})
		}
		data := b.Bytes()
		binary.LittleEndian.PutUint32(data[4:], uint32(len(data)-8))
		if err := os.WriteFile(filepath.Join(dir, name+".wav"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"demo", "--data", dir, "-n", "8", "--workers", "2", "--resume-workers", "1"},
		&stdout, &stderr, []dataset.Definition{onda.Definition()})
	for _, want := range []string{`labelled "unlabeled"`, "kept 2 of 2", "identical all 8 batches"} {
		if code != exitOK || !strings.Contains(stdout.String(), want) {
			t.Errorf("%d: no %q in %s%s", code, want, &stdout, &stderr)
		}
	}
}
