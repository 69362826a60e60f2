package importer

import (
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

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/internal/recordings"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/wfdb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// digest is that of one channel as int32, as an independent decoder gave it.
func digest(t testing.TB, dir string, s onda.Signal, channel int) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, s.Path))
	if err != nil {
		t.Fatal(err)
	}
	sum, width := sha256.New(), widths[s.SampleType]
	for at := channel * width; at < len(data); at += width * len(s.Channels) {
		v := int32(int8(data[at]))
		switch width {
		case 2:
			v = int32(int16(binary.LittleEndian.Uint16(data[at:])))
		case 4:
			v = int32(binary.LittleEndian.Uint32(data[at:]))
		}
		binary.Write(sum, binary.LittleEndian, v)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// WFDB records as they are: their samples are what an independent decoder reads, their annotations those of the
// database, and the whole opens as a data set.
func TestImportWFDB(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(recordings.Dir(t, "foreign"), "wfdb")
	out := filepath.Join(t.TempDir(), "out")
	files := []string{filepath.Join(dir, "100.hea"), filepath.Join(dir, "binformats.hea")}
	summary, err := Import(t.Context(), Config{Files: files, Out: out})
	if err != nil {
		t.Fatal(err)
	}
	r := summary.Recordings[0]
	if len(r.Signals) != 1 || r.Signals[0].SensorType != "ecg" || r.Signals[0].SampleRate != 360 ||
		!slices.Equal(r.Signals[0].Channels, []string{"mlii", "v5"}) || r.Signals[0].Unit != "mV" ||
		r.Signals[0].Resolution != 1.0/200 || r.Signals[0].Offset != -1024.0/200 {
		t.Errorf("%+v", r.Signals)
	}
	if len(r.Spans) != 1 || r.Spans[0].Label != "N" || r.Spans[0].Span.Start != 50*time.Millisecond ||
		r.Spans[0].Span.Stop != onda.TimeOf(360, 650000) || len(r.Events) != 2273 {
		t.Errorf("%+v, %d events", r.Spans, len(r.Events))
	}
	type signal struct {
		SHA256 string `json:"sha256_int32le"`
	}
	var want struct {
		R100 struct{ Signals []signal } `json:"wfdb/100"`
		Bin  []signal                   `json:"wfdb/binformats"`
	}
	recordings.Expected(t, &want)
	for i, s := range want.R100.Signals {
		if digest(t, out, r.Signals[0], i) != s.SHA256 {
			t.Errorf("channel %d of 100 differs", i)
		}
	}
	var got []string
	for _, s := range summary.Recordings[1].Signals {
		for c := range s.Channels {
			got = append(got, digest(t, out, s, c))
		}
	}
	for i, s := range want.Bin {
		if s.SHA256 != "" && !slices.Contains(got, s.SHA256) {
			t.Errorf("signal %d of binformats is not there", i)
		}
	}
	if _, err := Import(t.Context(), Config{Files: files[:1], Out: out + "3"}); err != nil {
		t.Fatal(err)
	}
	out += "3"
	p, err := onda.Guess(out)
	if err != nil {
		t.Fatal(err)
	}
	p.Dir = out
	if d, err := onda.New(t.Context(), p, onda.Config{}); err != nil || d.Report().Kept != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	// Its samples are in FLAC, which is said.
	mixed := filepath.Join(dir, "mixedsignals.hea")
	_, err = Import(t.Context(), Config{Files: append(files, mixed), Out: out + "2"})
	if !errors.Is(err, wfdb.ErrFormat) || !errors.Is(err, ErrImport) || !strings.Contains(err.Error(), "format 516") {
		t.Errorf("got %v", err)
	}
	summary, err = Import(t.Context(), Config{Files: append(files, mixed), Out: out + "2", OnBad: OnBadDrop})
	if err != nil || len(summary.Recordings) != 2 || len(summary.Bad) != 1 || summary.Bad[0].File != mixed {
		t.Errorf("%d, %v, %v", len(summary.Recordings), summary.Bad, err)
	}
}

// A record of several segments is one recording: with a signal for each stretch, of which each may have channels of its
// own, and annotations on the clock of the whole. A skewed signal begins later in its file.
func TestSegments(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "r.hea"), []byte("r/4 2 2 14\nr_layout 0\nr_1 4\n~ 6\nr_2 4\n"))
	write(t, filepath.Join(dir, "r_layout.hea"), []byte("r_layout 2 2 0\n"+
		"~ 0 10/uV 8 0 0 0 0 II\n~ 0 10/uV 8 0 0 0 0 ABP\n"))
	write(t, filepath.Join(dir, "r_1.hea"), []byte("r_1 1 2 4\nr_1.dat 80 10(2)/mV 8 0 1 10 0 II\n"))
	write(t, filepath.Join(dir, "r_1.dat"), []byte{129, 130, 131, 132})
	write(t, filepath.Join(dir, "r_2.hea"), []byte("r_2 2 2 4\n"+
		"r_2.dat 80 10/mV 8\nr_2.dat 80:1 10/mmHg 8 0 0 -506 0 ABP\n"))
	write(t, filepath.Join(dir, "r_2.dat"), []byte{133, 0, 134, 1, 135, 2, 136, 3})
	word := func(code, n int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(code<<10|n)) }
	write(t, filepath.Join(dir, "r.ann"), slices.Concat(word(28, 2), word(63, 2), []byte("(N"), word(5, 1), word(28, 8),
		word(63, 5), []byte("(AFIB\x00"), word(0, 0)))
	write(t, filepath.Join(dir, ".hidden", "x.hea"), nil)

	files, err := Find([]string{dir})
	if err != nil || !slices.Equal(files, []string{filepath.Join(dir, "r.hea")}) {
		t.Fatalf("%v, %v", files, err)
	}
	out := filepath.Join(dir, "out")
	summary, err := Import(t.Context(), Config{Files: files, Out: out, Annotator: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	r := summary.Recordings[0]
	var got []string
	for _, s := range r.Signals {
		data, err := os.ReadFile(filepath.Join(out, s.Path))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %v %v %s %v %v", s.SensorLabel, s.Channels, s.Span, s.SampleType, s.Offset,
			data))
	}
	want := []string{
		"ecg [ii] [0s, 2s) int8 -0.2 [1 2 3 4]",
		"unknown [channel] [5s, 7s) int8 0 [5 6 7 8]",
		"abp [abp] [5s, 6.5s) int8 0 [129 130 131]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if r.Missing != 1 {
		t.Errorf("%d missing", r.Missing)
	}
	if len(r.Spans) != 2 || r.Spans[0].Label != "N" || r.Spans[0].Span != (onda.Span{Start: 1e9, Stop: 5.5e9}) ||
		r.Spans[1].Label != "AFIB" || r.Spans[1].Span != (onda.Span{Start: 5.5e9, Stop: 7e9}) ||
		len(r.Events) != 1 || r.Events[0].Label != "V" || r.Events[0].Span.Start != 1.5e9 {
		t.Errorf("%+v, %+v", r.Spans, r.Events)
	}
	// A name that leads elsewhere is not followed.
	write(t, filepath.Join(dir, "x.hea"), []byte("x 1 2 4\n../r_1.dat 80"))
	if _, err := Import(t.Context(), Config{Files: []string{filepath.Join(dir, "x.hea")}, Out: out + "2"}); err == nil ||
		!strings.Contains(err.Error(), "leaves the folder") {
		t.Errorf("got %v", err)
	}
}

// wave is a WAVE file with the samples as they are, and one mark.
func wave(tag, channels, bits int, samples []byte) []byte {
	chunk := func(name string, body []byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte(name), uint32(len(body))), body...)
	}
	le16 := func(values ...int) (b []byte) {
		for _, v := range values {
			b = binary.LittleEndian.AppendUint16(b, uint16(v))
		}
		return b
	}
	format := slices.Concat(le16(tag, channels, 8000, 0, 0, 0, channels*bits/8, bits))
	cue := le16(1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)
	list := slices.Concat([]byte("adtl"), chunk("ltxt", append(le16(7, 0, 2, 0, 0, 0, 0, 0, 0, 0), "bird"...)))
	return chunk("RIFF", slices.Concat([]byte("WAVE"), chunk("fmt ", format), chunk("data", samples), chunk("cue ", cue),
		chunk("LIST", list)))
}

func TestImportWAV(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real := binary.LittleEndian.AppendUint64(nil, math.Float64bits(0.5))
	for i, c := range []struct {
		tag, channels, bits int
		samples, want       []byte
		typ                 string
		resolution, offset  float64
	}{
		{1, 2, 8, []byte{0, 128, 255, 1, 2, 3}, []byte{0, 128, 255, 1, 2, 3}, "uint8", 1.0 / 128, -1},
		{1, 1, 16, []byte{1, 2, 3, 4, 5, 6}, []byte{1, 2, 3, 4, 5, 6}, "int16", 1.0 / 32768, 0},
		{1, 1, 24, []byte{255, 255, 255, 1, 0, 128, 1, 2, 3, 9, 9, 9}, // -1, -8388607, …
			[]byte{255, 255, 255, 255, 1, 0, 128, 255, 1, 2, 3, 0, 9, 9, 9, 0}, "int32", 1.0 / (1 << 23), 0},
		{3, 1, 64, slices.Concat(real, real, real), slices.Concat(real, real, real), "float64", 1, 0},
	} {
		name := write(t, filepath.Join(dir, fmt.Sprint(i, ".wav")), wave(c.tag, c.channels, c.bits, c.samples))
		out := filepath.Join(dir, fmt.Sprint("out", i))
		summary, err := Import(t.Context(), Config{Files: []string{name}, Out: out})
		if err != nil {
			t.Fatal(err)
		}
		r := summary.Recordings[0]
		s := r.Signals[0]
		data, err := os.ReadFile(filepath.Join(out, s.Path))
		if err != nil || !slices.Equal(data, c.want) || s.SampleType != c.typ || s.Resolution != c.resolution ||
			s.Offset != c.offset || s.SensorType != "sound" || len(s.Channels) != c.channels || s.SampleRate != 8000 {
			t.Errorf("%d bits: %v, %+v, %v", c.bits, data, s, err)
		}
		if len(r.Spans) != 1 || r.Spans[0].Label != "bird" || r.Spans[0].Span != (onda.Span{Start: 125e3, Stop: 375e3}) {
			t.Errorf("%+v", r.Spans)
		}
	}
}

// Merged samples are parts of full scale, below zero, too.
func TestMergeWAV(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for bits, samples := range map[int][]byte{
		8:  {0, 128, 192, 128},
		16: {0, 0x80, 0, 0, 0, 0x40, 0, 0},
		24: {0, 0, 0x80, 0, 0, 0, 0, 0, 0x40, 0, 0, 0},
		32: {0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0},
	} {
		name := write(t, filepath.Join(dir, fmt.Sprint(bits, ".wav")), wave(1, 1, bits, samples))
		out := filepath.Join(dir, fmt.Sprint("out", bits))
		summary, err := Import(t.Context(), Config{Files: []string{name}, Out: out, Merge: true})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 4)
		_, err = binary.Decode(read(t, filepath.Join(out, summary.Recordings[0].Signals[0].Path)), binary.LittleEndian, got)
		if err != nil || !slices.Equal(got, []float32{-1, 0, 0.5, 0}) {
			t.Errorf("%d bits: %v, %v", bits, got, err)
		}
	}
}

// An import that was cut short goes on with what is not written, and comes to the bytes of one that was not.
func TestResume(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var files []string
	for i := range 4 {
		data := made("EDF+C", "+0\x14\x14\x00", fmt.Sprintf("+1\x14\x14\x00+0\x152\x14N%d\x14\x00", i))
		files = append(files, write(t, filepath.Join(dir, fmt.Sprintf("r%d.edf", i)), data))
	}
	whole, out := filepath.Join(dir, "whole"), filepath.Join(dir, "out")
	if _, err := Import(t.Context(), Config{Files: files, Out: whole}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := int64(0)
	_, err := Import(ctx, Config{Files: files, Out: out, Progress: func(done, total int64) {
		if last = done; done >= total/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "2 of 4 recordings") {
		t.Fatalf("got %v after %d bytes", err, last)
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half of it is there: %v", err)
	}
	// One of those written is damaged, one file has changed, one has gone.
	samples := filepath.Join(partial(out), "samples")
	if err := os.Truncate(filepath.Join(samples, "r0.eeg.lpcm"), 1); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(samples, "gone.eeg.lpcm"), nil)
	write(t, filepath.Join(samples, ".part-123"), nil)
	summary, err := Import(t.Context(), Config{Files: files, Out: out})
	if err != nil || summary.Resumed != 1 || len(summary.Recordings) != 4 {
		t.Fatalf("%+v, %v", summary, err)
	}
	same(t, whole, out)
	if _, err := os.Stat(partial(out)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

// same compares two folders.
func same(t *testing.T, a, b string) {
	t.Helper()
	tree := func(dir string) map[string]string {
		out := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			name, _ := filepath.Rel(dir, path)
			out[name] = string(data)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	one, other := tree(a), tree(b)
	for name := range other {
		if one[name] != other[name] {
			t.Errorf("%s differs", name)
		}
	}
	if len(one) != len(other) || len(one) == 0 {
		t.Errorf("%d and %d files", len(one), len(other))
	}
}

// A file that is bad only in its samples costs itself, or ends the import with nothing left.
func TestBadSamples(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "good.hea"), []byte("good 1 2 2\ngood.dat 16 1 16 0 1 3"))
	write(t, filepath.Join(dir, "good.dat"), []byte{1, 0, 2, 0})
	write(t, filepath.Join(dir, "bad.hea"), []byte("bad 1 2 2\nbad.dat 16 1 16 0 1 4"))
	write(t, filepath.Join(dir, "bad.dat"), []byte{1, 0, 2, 0})
	files, err := Find([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	_, err = Import(t.Context(), Config{Files: files, Out: out})
	if !errors.Is(err, wfdb.ErrFormat) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("%v, %v", entries, err)
	}
	summary, err := Import(t.Context(), Config{Files: files, Out: out, OnBad: OnBadDrop})
	if err != nil || len(summary.Recordings) != 1 || len(summary.Bad) != 1 {
		t.Fatalf("%+v, %v", summary, err)
	}
	if entries, err := os.ReadDir(filepath.Join(out, "samples")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// Records that come from file systems without case: the names in headers and those of files differ in it. No label gets
// lost by it, and segments are no recordings.
func TestCaseOfNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "M.HEA"), []byte("m/2 1 100 4\na 2\nb 2\n"))
	write(t, filepath.Join(dir, "M.ATR"), []byte("\x00\x70\x02\xfc(N\x00\x00"))
	for _, name := range []string{"a", "b"} {
		write(t, filepath.Join(dir, strings.ToUpper(name)+".HEA"), []byte(name+" 1 100 2\n"+name+".dat 80 10/mV\n"))
		write(t, filepath.Join(dir, strings.ToUpper(name)+".DAT"), []byte{129, 130})
	}
	files, err := Find([]string{dir})
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	summary, err := Import(t.Context(), Config{Files: files, Out: filepath.Join(dir, "out")})
	if err != nil || len(summary.Recordings[0].Signals) != 2 || len(summary.Recordings[0].Spans) != 1 {
		t.Errorf("%+v, %v", summary, err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	builtIn, err := DefaultNames()
	if err != nil {
		t.Fatal(err)
	}
	more, err := ReadNames(strings.NewReader(`{
		"eeg": {"channels": {"c3-m2": ["EEG C3-A2", "C3:A2"], "left": ["T3"]}},
		"sat": {"labels": ["SaO2"]}, "resp": {"channels": {"flow": ["nasal pressure", "PFlow"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		names             Names
		label, kind, name string
	}{
		{builtIn, "EEG Fpz-Cz", "eeg", "fpz-cz"},
		{builtIn, "eeg  C3:A2 ", "eeg", "c3-a2"},
		{builtIn, "C3-A2", "eeg", "c3-a2"},
		{builtIn, "EEG T3-Ref", "eeg", "t7-ref"},
		{builtIn, "Fp1", "eeg", "fp1"},
		{builtIn, "A1", "unknown", "a1"},
		{builtIn, "C3-foo", "unknown", "c3-foo"},
		{builtIn, "EEG C3-C4-C5", "eeg", "c3-c4-c5"},
		{builtIn, "EKG", "ecg", "ekg"},
		{builtIn, "ECG II", "ecg", "ii"},
		{builtIn, "MLII", "ecg", "mlii"},
		{builtIn, "Pleth", "ppg", "pleth"},
		{builtIn, "Resp oro-nasal", "resp", "oro-nasal"},
		{builtIn, "SaO2 finger", "sao2", "finger"},
		{builtIn, "", "unknown", "channel"},
		{builtIn, "Thorax (1)/2", "unknown", "thorax_(1)/2"},
		{builtIn.With(more), "EEG C3-A2", "eeg", "c3-m2"},
		{builtIn.With(more), "c3:a2", "eeg", "c3-m2"},
		{builtIn.With(more), "T3", "eeg", "left"},
		{builtIn.With(more), "SaO2", "sat", "sao2"},
		{builtIn.With(more), "PFLOW", "resp", "flow"},
		{builtIn.With(more), "Nasal  Pressure", "resp", "flow"},
	} {
		l, err := c.names.lookup()
		if err != nil {
			t.Fatal(err)
		}
		if kind, name := l.of(c.label); kind != c.kind || name != c.name {
			t.Errorf("%q is %s %s, want %s %s", c.label, kind, name, c.kind, c.name)
		}
	}
	for _, text := range []string{"", "[]", `{"eeg": {"chanels": {}}}`, "{} {}"} {
		if _, err := ReadNames(strings.NewReader(text)); !errors.Is(err, ErrImport) {
			t.Errorf("%s: got %v", text, err)
		}
	}
	for _, n := range []Names{
		{"EEG": {}}, {"a": {Labels: []string{"X"}}, "b": {Labels: []string{"x"}}},
		{"a": {Channels: map[string][]string{"x": {"z"}, "y": {"Z"}}}},
	} {
		if _, err := Import(t.Context(), Config{Files: []string{"x"}, Names: n}); !errors.Is(err, ErrImport) ||
			!strings.Contains(err.Error(), "table of names") {
			t.Errorf("%v: got %v", n, err)
		}
	}
}

// Merged channels of two scales are one signal of float32, of which a missing sample is NaN.
func TestMerge(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "m.hea"),
		[]byte("m 3 100 2\nm.dat 80 10(2)/mV 8 0 2 -126 0 I\nm.dat 80 4/mV 8 0 4 0 0 II\nm.dat 80 4/mmHg 8 0 0 0 0 ABP\n"))
	write(t, filepath.Join(dir, "m.dat"), []byte{130, 132, 128, 0, 124, 128})
	out := filepath.Join(dir, "out")
	summary, err := Import(t.Context(), Config{Files: []string{filepath.Join(dir, "m.hea")}, Out: out, Merge: true})
	if err != nil {
		t.Fatal(err)
	}
	r := summary.Recordings[0]
	if len(r.Signals) != 2 || len(r.Signals[0].Channels) != 2 || r.Signals[0].SampleType != "float32" ||
		r.Signals[0].Resolution != 1 || r.Signals[0].Offset != 0 || r.Missing != 1 {
		t.Fatalf("%+v", r)
	}
	values := make([]float32, 4)
	if _, err := binary.Decode(read(t, filepath.Join(out, r.Signals[0].Path)), binary.LittleEndian, values); err != nil ||
		values[0] != 0 || values[1] != 1 || !math.IsNaN(float64(values[2])) || values[3] != -1 {
		t.Errorf("%v, %v", values, err)
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
