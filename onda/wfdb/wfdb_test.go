package wfdb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/jetbatch/jetbatch/internal/recordings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openRecord(t testing.TB, dir, name string) *Record {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name+".hea"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHeader(text)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRecord(h, func(name string) (int64, error) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// digests reads a record and gives the digest of every signal, which the checksums of its header agree with.
func digests(t testing.TB, dir string, r *Record) []string {
	t.Helper()
	sums := make([]string, len(r.Signals))
	all := make([]bytes.Buffer, len(r.Signals))
	for block, err := range r.Blocks(t.Context(), func(name string) (io.ReadCloser, error) {
		return os.Open(filepath.Join(dir, name))
	}) {
		if err != nil {
			t.Fatal(err)
		}
		for i, samples := range block {
			binary.Write(&all[i], binary.LittleEndian, samples)
		}
	}
	for i := range all {
		if want := 4 * r.Frames * int64(r.Signals[i].PerFrame); int64(all[i].Len()) != want {
			t.Errorf("signal %d: %d bytes, want %d", i, all[i].Len(), want)
		}
		sum := sha256.Sum256(all[i].Bytes())
		sums[i] = hex.EncodeToString(sum[:])
	}
	return sums
}

// Every sample equals that of an independent decoder, and every checksum that of the header, in formats 8 to 311.
func TestForeign(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(recordings.Dir(t, "foreign"), "wfdb")
	type signal struct {
		Label  string `json:"label"`
		File   string `json:"file"`
		Format int    `json:"format"`
		SHA256 string `json:"sha256_int32le"`
	}
	var want struct {
		R100 struct{ Signals []signal } `json:"wfdb/100"`
		Bin  []signal                   `json:"wfdb/binformats"`
	}
	recordings.Expected(t, &want)
	compared := 0
	for name, signals := range map[string][]signal{"100": want.R100.Signals, "binformats": want.Bin} {
		r := openRecord(t, dir, name)
		if len(signals) != len(r.Signals) || len(signals) == 0 {
			t.Fatalf("%s: %d signals", name, len(r.Signals))
		}
		for i, sum := range digests(t, dir, r) {
			if w := signals[i]; w.File != "" && (r.Signals[i].File != w.File || r.Signals[i].Format != w.Format) {
				t.Errorf("%s: signal %d is in %s, format %d", name, i, r.Signals[i].File, r.Signals[i].Format)
			}
			if signals[i].SHA256 == "" {
				continue // the header's checksum was compared
			}
			if compared++; sum != signals[i].SHA256 {
				t.Errorf("%s: signal %d (format %d) differs", name, i, r.Signals[i].Format)
			}
			if l := signals[i].Label; l != "" && l != r.Signals[i].Description {
				t.Errorf("%s: signal %d is %q", name, i, r.Signals[i].Description)
			}
		}
	}
	if compared != 9 {
		t.Errorf("%d signals were compared", compared)
	}
}

func TestForeignAnnotations(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join(recordings.Dir(t, "foreign"), "wfdb", "100.atr"))
	if err != nil {
		t.Fatal(err)
	}
	notes, rate, err := ParseAnnotations(data)
	if err != nil || rate != 0 {
		t.Fatal(rate, err)
	}
	count := map[string]int{}
	for _, n := range notes {
		count[n.Symbol]++
	}
	// As the directory of the MIT-BIH Arrhythmia Database counts them.
	if count["N"] != 2239 || count["A"] != 33 || count["V"] != 1 || count["+"] != 1 || len(notes) != 2274 {
		t.Errorf("%v", count)
	}
	if first := notes[0]; first != (Annotation{18, "+", "(N"}) || notes[len(notes)-1].Sample != 649991 {
		t.Errorf("%+v, %+v", first, notes[len(notes)-1])
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	h, err := ParseHeader([]byte("# comment\n\nr 3 62.4725/999.56(0) 14400 12:00:00 1/1/2000\r\n" +
		"a.dat 212x4:3+24 200(-5)/uV 14 8192 1 24460 0 Lead II of\tleft\na.dat 212 0\n~ 0 1/NU\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Signal{
		File: "a.dat", Format: 212, PerFrame: 4, Skew: 3, Offset: 24, Gain: 200, Baseline: -5, Unit: "uV", Zero: 8192,
		Initial: 1, Checksum: 24460, HasChecksum: true, Description: "Lead II of left",
	}
	if h.Rate != 62.4725 || h.Frames != 14400 || h.Signals[0] != want || h.Signals[1].Gain != 200 ||
		!h.Signals[2].Missing() {
		t.Errorf("%+v", h)
	}
	if h, err := ParseHeader([]byte("r/3 2 360 90\nr_layout 0\n~ 30\nr_1 60")); err != nil || len(h.Segments) != 3 ||
		h.Segments[1] != (Segment{"~", 30}) {
		t.Errorf("%+v, %v", h, err)
	}
	if h, err := ParseHeader([]byte("r 1\nr.dat 16")); err != nil || h.Rate != 250 || h.Signals[0].Unit != "mV" {
		t.Errorf("%+v, %v", h, err)
	}
	for _, text := range []string{
		"", "# r 1", "r", "r x", "r -1", "r 1", "r 1 0\na 16", "r 1 1 -1\na 16", "r/0 1", "r/1 1\na/2 1", "r/1 1\na -1",
		"r/1 1\na", "r 1\na", "r 1\na x", "r 1\na 16x0", "r 1\na 16y1", "r 1\na 16x", "r 1\na 16 x", "r 1\na 16 1(x",
		"r 1\na 16 nan", "r 1\na 16 1 1 x", "r 1\na 16\nb 16", "r 1\na 16 1 1 99999999999",
	} {
		if _, err := ParseHeader([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestRecordRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"r 1 1 2\na 516":        "format 516",
		"r 1 1 3\na 16":         "3 frames, and a holds 2",
		"r 2\na 16\na 212":      "differ in format",
		"r 3\na 16\nb 16\na 16": "one after the other",
		"r 2 1 2\na 16\nb 16x2": "b holds 1",
		"r 1 1 1\na 16+3":       "a holds 0", "r 1\na 16+5": "from byte 5 on",
		"r 1 1 4\na 212":          "a holds 2",
		"r 2 1 2\na 16 1\na 80 1": "differ in format",
	} {
		h, err := ParseHeader([]byte(text))
		if err != nil {
			t.Fatal(text, err)
		}
		_, err = NewRecord(h, func(string) (int64, error) { return 4, nil })
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// A file that ends before its frames do, and one that is not what its checksum says.
func TestDamaged(t *testing.T) {
	t.Parallel()
	h, err := ParseHeader([]byte("r 1 1 3\na 16 1 16 0 1 6"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRecord(h, func(string) (int64, error) { return 6, nil })
	if err != nil {
		t.Fatal(err)
	}
	read := func(data []byte) (last error) {
		for _, err := range r.Blocks(t.Context(), func(string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}) {
			last = err
		}
		return last
	}
	if err := read([]byte{1, 0, 2, 0, 3, 0}); err != nil {
		t.Error(err)
	}
	if err := read([]byte{1, 0, 2, 0, 4, 0}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v", err)
	}
	if err := read([]byte{1, 0, 2}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func TestAnnotationFiles(t *testing.T) {
	t.Parallel()
	word := func(code, n int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(code<<10|n)) }
	aux := func(text string) []byte {
		b := append(word(codeAux, len(text)), text...)
		if len(text)%2 == 1 {
			b = append(b, 0)
		}
		return b
	}
	data := slices.Concat(
		word(codeNote, 0), aux("## time resolution: 1000"), word(codeNote, 0), aux("## annotation type definitions"),
		word(codeNote, 0), aux("42 apnea an apnea"), word(codeNote, 0), aux("## end of definitions"),
		word(28, 5), word(codeSub, 1), aux("(AFIB\x00"), word(codeSkip, 0), []byte{1, 0, 2, 0}, word(42, 7),
		word(codeNum, 2), word(1, 1), word(0, 0), []byte("what follows is nothing"))
	notes, rate, err := ParseAnnotations(data)
	want := []Annotation{{5, "+", "(AFIB"}, {5 + 65538 + 7, "apnea", ""}, {5 + 65538 + 8, "N", ""}}
	if err != nil || rate != 1000 || !slices.Equal(notes, want) {
		t.Errorf("%v, %v, %v", notes, rate, err)
	}
	for i := range len(data) - len("what follows is nothing") {
		if _, _, err := ParseAnnotations(data[:i]); !errors.Is(err, ErrFormat) {
			t.Fatalf("%d bytes: got %v", i, err)
		}
	}
}

// Whatever the bytes are: a typed error, or a record whose samples are read to the end or refused.
func FuzzRecord(f *testing.F) {
	f.Add("r 2 360 2\na 212 200 11 0 1 3\na 212 200", []byte{1, 2, 3, 4, 5, 6})
	f.Add("r 3\na 310x2\na 310\nb 8 1 1 0 5", []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add("r 1\na 311+1", []byte{1, 2, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, header string, data []byte) {
		h, err := ParseHeader([]byte(header))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		r, err := NewRecord(h, func(string) (int64, error) { return int64(len(data)), nil })
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		frames := int64(0)
		for block, err := range r.Blocks(t.Context(), func(string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)), nil
		}) {
			if errors.Is(err, ErrFormat) {
				return // a checksum
			}
			if err != nil || len(r.files) == 0 {
				t.Fatal(err)
			}
			s := r.files[0].signals[0]
			frames += int64(len(block[s]) / h.Signals[s].PerFrame)
		}
		if frames != r.Frames && len(r.files) > 0 {
			t.Fatalf("%d of %d frames", frames, r.Frames)
		}
	})
}

// A file may have 4 million annotations, and no more.
func TestAnnotationsAreBounded(t *testing.T) {
	t.Parallel()
	data := append(bytes.Repeat([]byte{1, 1 << 2}, maxAnnotations+1), 0, 0)
	if _, _, err := ParseAnnotations(data); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

// Whatever the bytes are: a typed error, or annotations.
func FuzzAnnotations(f *testing.F) {
	f.Add([]byte{18, 112, 3, 252, '(', 'N', 0, 0, 5, 4, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		notes, _, err := ParseAnnotations(data)
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		if len(notes) > len(data)/2 {
			t.Fatalf("%d annotations in %d bytes", len(notes), len(data))
		}
	})
}

// Gaps need no file, so a header alone could make a place that no number holds.
func TestSegmentsTogetherAreBounded(t *testing.T) {
	t.Parallel()
	if _, err := ParseHeader([]byte("r/2 1 2\n~ 281474976710656\n~ 1\n")); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}
