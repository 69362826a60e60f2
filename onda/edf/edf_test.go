package edf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
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

func parse(t testing.TB, data []byte) *File {
	t.Helper()
	f, err := Read(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Every sample of every signal equals that of an independent decoder.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	n := 0
	for name, want := range recordings.EDFs(t) {
		data, err := os.ReadFile(filepath.Join(recordings.Dir(t, "foreign"), name))
		if err != nil {
			t.Fatal(err)
		}
		f := parse(t, data)
		if f.Records != want.Records || f.RecordSeconds != want.Seconds || len(f.Signals) != len(want.Signals) {
			t.Fatalf("%s: %d records of %v s, %d signals", name, f.Records, f.RecordSeconds, len(f.Signals))
		}
		for i, w := range want.Signals {
			s := f.Signals[i]
			if s.Label != w.Label || s.Annotations != w.Annotations {
				t.Errorf("%s: signal %d is %q", name, i, s.Label)
			}
			if w.Annotations {
				continue
			}
			n++
			if s.Unit != w.Unit || f.Rate(i) != w.Rate || s.PerRecord*f.Records != w.Samples ||
				[2]float64{s.PhysicalMin, s.PhysicalMax} != w.Physical ||
				[2]int{s.DigitalMin, s.DigitalMax} != w.Digital {
				t.Errorf("%s: %+v, want %+v", name, s, w)
			}
			sum := sha256.New()
			var record []byte
			for r := range f.Records {
				if record, err = f.ReadRecord(r, record); err != nil {
					t.Fatal(err)
				}
				for raw := f.Raw(record, i); len(raw) > 0; raw = raw[f.Width:] {
					if err := binary.Write(sum, binary.LittleEndian, f.Sample(raw)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := hex.EncodeToString(sum.Sum(nil)); got != w.SHA256 {
				t.Errorf("%s: samples of %q differ", name, s.Label)
			}
		}
	}
	if n < 150 {
		t.Errorf("%d signals were compared", n)
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

func TestBadFiles(t *testing.T) {
	t.Parallel()
	good := made("EDF+C", "+0\x14\x14\x00", "+1\x14\x14\x00")
	if f := parse(t, good); f.Records != 2 || f.Discontinuous {
		t.Errorf("%+v", f)
	}
	set := func(at int, text string) []byte {
		data := bytes.Clone(good)
		copy(data[at:], text)
		return data
	}
	for name, data := range map[string][]byte{
		"empty": nil, "short": good[:200], "no signals' header": good[:300], "version": set(0, "1"),
		"header bytes": set(184, "512 "),
		"records":      set(236, "3 "), "records, negative": set(236, "-2"), "duration": set(244, "0 "),
		"duration, text": set(244, "x"),
		"duration, NaN":  set(244, "NaN"), "signals": set(252, "0"), "one record short": good[:len(good)-1],
		"digital range": set(256+2*(16+80+8+8+8), "1000    -1      1000    "),
	} {
		_, err := Read(bytes.NewReader(data), int64(len(data)))
		if !errors.Is(err, ErrFormat) || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A writer that died did not say how many records there are.
	if f := parse(t, set(236, "-1      ")); f.Records != 2 {
		t.Errorf("%d records", f.Records)
	}
	for _, list := range []string{"0\x14x\x14", "+x\x14x\x14", "+1", "+1\x15-1\x14x\x14", "+1e300\x14x\x14"} {
		if _, _, err := parse(t, made("EDF+C", list)).Annotations(); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: got %v", list, err)
		}
	}
}

// What is held of annotations has a bound.
func TestAnnotationsAreBounded(t *testing.T) {
	const texts = 37
	list := "+0" + strings.Repeat("\x14a", texts) + "\x14"
	full := made("EDF+C", slices.Repeat([]string{list}, maxAnnotations/texts+1)...)
	if _, _, err := parse(t, full).Annotations(); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}

// Whatever the bytes are: a typed error, or a file whose records lie inside of it and whose annotations are read or
// refused.
func FuzzRead(f *testing.F) {
	f.Add(made("EDF+C", "+0\x14\x14\x00", "+1\x14x\x14\x00"))
	f.Add(made("EDF+D", "+0.5\x14\x14\x00+0.5\x151.5\x14N1\x14"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Read(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if !errors.Is(err, ErrFormat) || errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return
		}
		var record []byte
		for r := range file.Records {
			if record, err = file.ReadRecord(r, record); err != nil {
				t.Fatal(err)
			}
			for i := range file.Signals {
				for raw := file.Raw(record, i); len(raw) > 0; raw = raw[file.Width:] {
					file.Sample(raw)
				}
			}
		}
		notes, onsets, err := file.Annotations()
		if err != nil && !errors.Is(err, ErrFormat) || errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if err == nil && len(onsets) != file.Records {
			t.Fatalf("%d onsets", len(onsets))
		}
		for _, n := range notes {
			if n.Duration < 0 {
				t.Fatalf("%+v", n)
			}
		}
	})
}
