package importer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jetbatch/jetbatch/internal/recordings"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/edf"
	"github.com/jetbatch/jetbatch/schema"
)

// What is imported opens as a data set, whose samples are those of the files.
func TestImportForeign(t *testing.T) {
	t.Parallel()
	var files []string
	for name := range recordings.EDFs(t) {
		if !strings.Contains(name, "Hypnogram") {
			files = append(files, filepath.Join(recordings.Dir(t, "foreign"), name))
		}
	}
	out := filepath.Join(t.TempDir(), "sub", "out")
	var last, total int64
	// Two have one name but for its ending.
	summary, err := Import(t.Context(), Config{
		Files: files, Out: out, Progress: func(d, of int64) { last, total = d, of },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.Recordings) != len(files) || last != total || total == 0 {
		t.Errorf("%d recordings, %d of %d bytes", len(summary.Recordings), last, total)
	}
	signals, err := onda.ReadSignals(t.Context(), onda.Dir(out), signalTable, "")
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, r := range summary.Recordings {
		want := recordings.EDFs(t)["edf/"+filepath.Base(r.File)]
		var sums []string
		for _, s := range want.Signals {
			if !s.Annotations {
				sums = append(sums, s.SHA256)
			}
		}
		for _, s := range signals {
			if s.Recording != r.ID {
				continue
			}
			data, err := os.ReadFile(filepath.Join(out, s.Path))
			if err != nil {
				t.Fatal(err)
			}
			width := map[string]int{"int16": 2, "int32": 4}[s.SampleType]
			for c := range s.Channels {
				sum := sha256.New()
				for at := c * width; at < len(data); at += width * len(s.Channels) {
					v := int32(int16(binary.LittleEndian.Uint16(data[at:])))
					if width == 4 {
						v = int32(binary.LittleEndian.Uint32(data[at:]))
					}
					binary.Write(sum, binary.LittleEndian, v)
				}
				got := hex.EncodeToString(sum.Sum(nil))
				i := slices.Index(sums, got)
				if i < 0 {
					t.Fatalf("%s: channel %s is none of the file's", r.File, s.Channels[c])
				}
				sums = slices.Delete(sums, i, i+1)
				compared++
			}
		}
		if len(sums) > 0 {
			t.Errorf("%s: %d signals were not written", r.File, len(sums))
		}
	}
	t.Logf("%d channels compared", compared)
	// Nothing else is beside it.
	if entries, err := os.ReadDir(filepath.Dir(out)); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := Import(t.Context(), Config{Files: files, Out: out}); !errors.Is(err, ErrImport) {
		t.Errorf("over what is there: %v", err)
	}
}

// A recording of Sleep-EDF with its hypnogram, from files to a batch.
func TestImportSleep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for from, to := range map[string]string{
		"edfio_short_psg.edf": "SC4001E0-PSG.edf", "edfio_SC4001EC-Hypnogram.edf": "SC4001EC-Hypnogram.edf",
	} {
		data, err := os.ReadFile(filepath.Join(recordings.Dir(t, "foreign"), "edf", from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{filepath.Join(dir, "SC4001EC-Hypnogram.edf"), filepath.Join(dir, "SC4001E0-PSG.edf")}
	out := filepath.Join(dir, "out")
	dry, err := Import(t.Context(), Config{Files: files, Out: out, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run wrote: %v", err)
	}
	summary, err := Import(t.Context(), Config{Files: files, Out: out})
	if err != nil || len(summary.Recordings) != 1 || summary.Recordings[0].Labels != files[0] {
		t.Fatalf("%+v, %v", summary, err)
	}
	if dry.Recordings[0].ID != summary.Recordings[0].ID || len(summary.Recordings[0].Spans) < 100 {
		t.Errorf("%v, %d spans", dry.Recordings[0].ID, len(summary.Recordings[0].Spans))
	}
	p := onda.Params{
		Dir: out, SensorType: onda.Names{"eeg"}, SensorLabel: onda.Names{"eeg"},
		LabelDuration: onda.Duration(30 * time.Second),
		BatchDuration: onda.Duration(30 * time.Second), OnBad: onda.OnBadDrop, Mode: onda.ModeEpochs, Epochs: 1,
	}
	d, err := onda.New(t.Context(), p, onda.Config{})
	if err != nil {
		t.Fatal(err)
	}
	start, _ := d.Start()
	job, _, err := d.Next(start)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := d.Materialize(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := batch.Get("x")
	y, _ := batch.Get("y")
	labels, err := schema.View[uint8](y)
	if err != nil || x.Shape[0] != 10 || x.Shape[2] != 3000 || len(labels) != 10 ||
		labels[0] != d.Encoding()["Sleep stage W"] {
		t.Errorf("x %v, y %v of %v, %v", x.Shape, labels, d.Encoding(), err)
	}
	// Without its recording a hypnogram belongs nowhere.
	if _, err := Import(t.Context(), Config{Files: files[:1], Out: out + "2"}); !errors.Is(err, ErrImport) {
		t.Errorf("got %v", err)
	}
}

// made is an EDF+D file of one signal and annotations, in records of 1 s.
func made(reserved string, lists ...string) []byte {
	var b bytes.Buffer
	pad := func(n int, values ...any) {
		for _, v := range values {
			fmt.Fprintf(&b, "%-*.*s", n, n, fmt.Sprint(v))
		}
	}
	pad(8, "0")
	pad(80, "patient", "recording")
	pad(8, "01.01.20", "00.00.00", 768)
	pad(44, reserved)
	pad(8, len(lists), 1)
	pad(4, 2)
	pad(16, "EEG C3", "EDF Annotations")
	pad(80, "", "")
	pad(8, "uV", "", -100, -1, 100, 1, -1000, -32768, 1000, 32767)
	pad(80, "", "")
	pad(8, 4, 40)
	pad(32, "", "")
	for r, list := range lists {
		for i := range 4 {
			binary.Write(&b, binary.LittleEndian, int16(10*r+i))
		}
		b.WriteString(list + strings.Repeat("\x00", 80-len(list)))
	}
	return b.Bytes()
}

// A discontinuous file becomes one signal for each stretch, on the clock of the first record.
func TestDiscontinuous(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "a.edf")
	data := made("EDF+D", "+0.5\x14\x14\x00+0.5\x151.5\x14N1\x14\x00", "+1.5\x14\x14\x00+2\x14beep\x14",
		"+10.25\x14\x14\x00")
	write(t, file, data)
	out := filepath.Join(dir, "out")
	summary, err := Import(t.Context(), Config{Files: []string{file}, Out: out})
	if err != nil {
		t.Fatal(err)
	}
	r := summary.Recordings[0]
	if len(r.Signals) != 2 || r.Signals[0].Span != (onda.Span{Stop: 2e9}) ||
		r.Signals[1].Span != (onda.Span{Start: 9.75e9, Stop: 10.75e9}) {
		t.Errorf("%+v", r.Signals)
	}
	if len(r.Spans) != 1 || r.Spans[0].Span != (onda.Span{Stop: 1.5e9}) || r.Spans[0].Label != "N1" ||
		len(r.Events) != 1 || r.Events[0].Span.Start != 1.5e9 || r.Events[0].Label != "beep" {
		t.Errorf("%+v, %+v", r.Spans, r.Events)
	}
	for i, want := range [][]int16{{0, 1, 2, 3, 10, 11, 12, 13}, {20, 21, 22, 23}} {
		raw, err := os.ReadFile(filepath.Join(out, r.Signals[i].Path))
		got := make([]int16, len(want))
		if err == nil {
			_, err = binary.Decode(raw, binary.LittleEndian, got)
		}
		if err != nil || len(raw) != 2*len(want) || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if s := r.Signals[0]; math.Abs(s.Resolution-0.1) > 1e-15 || math.Abs(s.Offset) > 1e-12 || s.Channels[0] != "c3" {
		t.Errorf("%+v", s)
	}
	// Times are written in as many digits as the writer likes: what is less than half a sample is no gap.
	for stretches, lists := range [][]string{
		1: {"+0\x14\x14\x00", "+1.001\x14\x14\x00", "+1.999\x14\x14\x00", "+3.1\x14\x14\x00"},
		2: {"+0\x14\x14\x00", "+1.001\x14\x14\x00", "+2.126\x14\x14\x00", "+3.126\x14\x14\x00"},
	} {
		if lists == nil {
			continue
		}
		write(t, file, made("EDF+D", lists...))
		summary, err := Import(t.Context(), Config{Files: []string{file}, DryRun: true})
		if err != nil || len(summary.Recordings[0].Signals) != stretches {
			t.Errorf("%d stretches: %+v, %v", stretches, summary, err)
		}
	}
	// Records that overlap are no recording.
	back := made("EDF+D", "+0\x14\x14\x00", "+0.5\x14\x14\x00")
	write(t, file, back)
	if _, err := Import(t.Context(), Config{Files: []string{file}, Out: out + "2"}); !errors.Is(err, edf.ErrFormat) {
		t.Errorf("got %v", err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	good := made("EDF+C", "+0\x14\x14\x00", "+1\x14\x14\x00")
	dir := t.TempDir()
	file := filepath.Join(dir, "a.edf")
	write(t, file, good)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Import(ctx, Config{Files: []string{file}, Out: filepath.Join(dir, "out")}); !errors.Is(err,
		context.Canceled) {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	for _, cfg := range []Config{{}, {Files: []string{filepath.Join(dir, "none")}, Out: "x"},
		{Files: []string{dir}, Out: "x"}, {Files: []string{file}}} {
		if _, err := Import(t.Context(), cfg); !errors.Is(err, ErrImport) {
			t.Errorf("%+v: got %v", cfg, err)
		}
	}
}

// A file of which a row could not be read is bad: in the tables it would take the other recordings' rows with it.
func TestRowsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	good := made("EDF+C", "+0\x14\x14\x00+0\x152\x14ok\x14\x00", "+1\x14\x14\x00")
	many := []byte("r 5000 100 2\n")
	for i := range 5000 {
		many = fmt.Appendf(many, "good.edf 80 10 8 0 0 0 0 c%d\n", i)
	}
	for name, bad := range map[string][]byte{
		"label.edf":   made("EDF+C", "+0\x14\x14\x00+2e9\x152\x14far\x14\x00"),
		"event.edf":   made("EDF+C", "+0\x14\x14\x00+2e9\x14far\x14\x00"),
		"stretch.edf": made("EDF+D", "+0\x14\x14\x00", "+2e9\x14\x14\x00"),
		"channel.hea": []byte("r 1 100 2\ngood.edf 80 10 8 0 0 0 0 " + strings.Repeat("x", 5000)),
		"many.hea":    many,
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out")
		files := []string{write(t, filepath.Join(dir, name), bad), write(t, filepath.Join(dir, "good.edf"), good)}
		if strings.HasSuffix(name, ".hea") {
			write(t, files[1], append(good, make([]byte, 10_000-len(good))...))
		}
		summary, err := Import(t.Context(), Config{Files: files, Out: out, OnBad: OnBadDrop})
		if err != nil || len(summary.Recordings) != 1 || len(summary.Bad) != 1 || summary.Bad[0].File != files[0] ||
			!errors.Is(summary.Bad[0].Err, ErrImport) {
			t.Errorf("%s: %+v, %v", name, summary.Bad, err)
			continue
		}
		p := onda.Params{Dir: out, BatchDuration: onda.Duration(time.Second)}
		if _, err := onda.New(t.Context(), p, onda.Config{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := write(t, filepath.Join(t.TempDir(), "a.edf"), made("EDF+C", "+0\x14\x14\x00"))
	_, err := Import(t.Context(), Config{Files: []string{file}, DryRun: true, Label: strings.Repeat("x", 5000)})
	if !errors.Is(err, ErrImport) {
		t.Errorf("a long label: %v", err)
	}
	// What is bad in a file of annotations leaves its recording as it was.
	r := &recording{Recording: Recording{File: "night.edf"}, material: &material{}}
	labels := &recording{Recording: Recording{File: "night-stages.edf"}, material: &material{
		notes: []note{{0, time.Second, "ok"}, {40 * 365 * 24 * time.Hour, time.Second, "far"}},
	}}
	if err := attach(labels, []*recording{r}); !errors.Is(err, ErrImport) || len(r.Spans) != 0 || r.Labels != "" {
		t.Errorf("%v, %+v", err, r.Recording)
	}
}

// Files say µV, and names of people's languages, in Latin-1 as often as in UTF-8. Tables have UTF-8, or other readers
// refuse them, and names that differ stay apart.
func TestTextsAreUTF8(t *testing.T) {
	t.Parallel()
	for name, text := range map[string][2]string{"latin": {"\xb5V", "S\xe4ge"}, "utf8": {"µV", "Säge"}} {
		data := made("EDF+C", "+0\x14\x14\x00+0\x151\x14"+text[1]+"\x14\x00")
		copy(data[256:], text[1]+"        ")
		copy(data[256+2*(16+80):], text[0]+"    ")
		dir := t.TempDir()
		file := write(t, filepath.Join(dir, text[1]+".edf"), data)
		out := filepath.Join(dir, "out")
		if _, err := Import(t.Context(), Config{Files: []string{file}, Out: out}); err != nil {
			t.Fatal(err)
		}
		signals, err := onda.ReadSignals(t.Context(), onda.Dir(out), signalTable, "")
		if err != nil || signals[0].Unit != "µV" || signals[0].Channels[0] != "säge" ||
			signals[0].Path != "samples/Säge.unknown.lpcm" {
			t.Errorf("%s: %+v, %v", name, signals, err)
		}
		labels, err := onda.ReadAnnotations(t.Context(), onda.Dir(out), spanTable, "label", "")
		if err != nil || labels[0].Label != "Säge" {
			t.Errorf("%s: %+v, %v", name, labels, err)
		}
	}
	wfdb := write(t, filepath.Join(t.TempDir(), "r.hea"), []byte("r 1 100 2\nr.dat 80 10/\xb5V 8 0 0 0 0 S\xe4ge\n"))
	write(t, filepath.Join(filepath.Dir(wfdb), "r.dat"), []byte{128, 128})
	summary, err := Import(t.Context(), Config{Files: []string{wfdb}, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := summary.Recordings[0].Signals[0]; s.Unit != "µV" || s.Channels[0] != "säge" {
		t.Errorf("%+v", s)
	}
}

// A recording that ended before it began is no file of annotations: it takes no other recording's labels away.
func TestWithoutRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := write(t, filepath.Join(dir, "a.edf"), made("EDF+C"))
	good := write(t, filepath.Join(dir, "b.edf"), made("EDF+C", "+0\x14\x14\x00"))
	summary, err := Import(t.Context(), Config{Files: []string{empty, good}, DryRun: true, OnBad: OnBadDrop})
	if err != nil || len(summary.Recordings) != 1 || summary.Recordings[0].Labels != "" || len(summary.Bad) != 1 ||
		!strings.Contains(summary.Bad[0].Err.Error(), "no samples") {
		t.Errorf("%+v, %v", summary, err)
	}
}
