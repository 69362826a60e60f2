package onda

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// signalsWith is a table of one signal whose column has another type.
func signalsWith(t *testing.T, name string, typ arrow.DataType, fill func(array.Builder)) []byte {
	t.Helper()
	s := testSignal(1)
	s.Path = "0.lpcm"
	fields := []arrow.Field{
		{Name: "recording", Type: uuidType}, {Name: "span", Type: spanType},
		{Name: "channels", Type: arrow.ListOf(arrow.BinaryTypes.String)},
	}
	texts := map[string]string{
		"sensor_type": s.SensorType, "sensor_label": s.SensorLabel, "sample_unit": s.Unit,
		"sample_type": s.SampleType, "file_path": s.Path, "file_format": s.Format,
	}
	for text := range texts {
		fields = append(fields, arrow.Field{Name: text, Type: arrow.BinaryTypes.String})
	}
	numbers := map[string]float64{
		"sample_resolution_in_unit": s.Resolution, "sample_offset_in_unit": s.Offset, "sample_rate": s.SampleRate,
	}
	for number := range numbers {
		fields = append(fields, arrow.Field{Name: number, Type: arrow.PrimitiveTypes.Float64})
	}
	for i := range fields {
		if fields[i].Name == name {
			fields[i].Type = typ
		}
	}
	return build(t, fields, func(b *array.RecordBuilder) {
		for i, f := range fields {
			switch at := b.Field(i); {
			case f.Name == name:
				fill(at)
			case f.Name == "recording":
				appendUUID(at, s.Recording)
			case f.Name == "span":
				appendSpan(at, s.Span)
			case f.Name == "channels":
				at.(*array.ListBuilder).Append(true)
				at.(*array.ListBuilder).ValueBuilder().(*array.StringBuilder).AppendValues(s.Channels, nil)
			case texts[f.Name] != "":
				at.(*array.StringBuilder).Append(texts[f.Name])
			default:
				at.(*array.Float64Builder).Append(numbers[f.Name])
			}
		}
	})
}

// What other writers make of the columns of a signal is read, or refused with the column named.
func TestSignalLayouts(t *testing.T) {
	t.Parallel()
	text := arrow.BinaryTypes.String
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Uint16, ValueType: text}
	moment := &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "Europe/Berlin"}
	moments := arrow.StructOf(arrow.Field{Name: "start", Type: moment}, arrow.Field{Name: "stop", Type: moment})
	for name, c := range map[string]struct {
		column string
		typ    arrow.DataType
		json   string
		says   string // empty for a table that opens
	}{
		"large list":             {"channels", arrow.LargeListOf(text), `[["a", "b"]]`, ""},
		"list of fixed size":     {"channels", arrow.FixedSizeListOf(2, text), `[["a", "b"]]`, ""},
		"list view":              {"channels", arrow.ListViewOf(text), `[["a", "b"]]`, ""},
		"large list view":        {"channels", arrow.LargeListViewOf(text), `[["a", "b"]]`, ""},
		"list of large text":     {"channels", arrow.ListOf(arrow.BinaryTypes.LargeString), `[["a", "b"]]`, ""},
		"list of coded text":     {"channels", arrow.ListOf(dict), `[["a", "b"]]`, ""},
		"list of numbers":        {"channels", arrow.ListOf(arrow.PrimitiveTypes.Int8), `[[1, 2]]`, "channels"},
		"empty list":             {"channels", arrow.ListOf(text), `[[]]`, "no channels"},
		"one channel twice":      {"channels", arrow.ListOf(text), `[["a", "a"]]`, "channel"},
		"no list":                {"channels", arrow.ListOf(text), `[null]`, "channels"},
		"a missing name":         {"channels", arrow.ListOf(text), `[["a", null]]`, "channels"},
		"coded path":             {"file_path", dict, `["0.lpcm"]`, ""},
		"path from here":         {"file_path", text, `["./0.lpcm"]`, ""},
		"bytes for a path":       {"file_path", arrow.BinaryTypes.Binary, `["MC5scGNt"]`, "file_path"},
		"rate of 32 bits":        {"sample_rate", arrow.PrimitiveTypes.Int32, `[10]`, ""},
		"rate as text":           {"sample_rate", text, `["10"]`, "sample_rate"},
		"rate as decimal":        {"sample_rate", &arrow.Decimal128Type{Precision: 9, Scale: 2}, `["10.00"]`, "sample_rate"},
		"no rate":                {"sample_rate", arrow.PrimitiveTypes.Float64, `[null]`, "sample_rate"},
		"uuid as text":           {"recording", text, `["` + id(1).String() + `"]`, ""},
		"uuid of another length": {"recording", &arrow.FixedSizeBinaryType{ByteWidth: 8}, `["AAAAAAAAAAA="]`, "recording"},
		"moments with a zone": {"span", moments,
			`[{"start": "1970-01-01 00:00:00Z", "stop": "1970-01-01 00:01:40Z"}]`, "timestamp"},
		"a span as text":          {"span", text, `["0 to 100 s"]`, "span"},
		"bytes in a file's place": {"file_format", text, `["lpcm.gz"]`, "lpcm.gz"},
	} {
		m := newMade(t).add(1, nil).labelled()
		src := m.source().(files)
		src["./0.lpcm"] = src["0.lpcm"]
		src["onda.signals.arrow"] = signalsWith(t, c.column, c.typ, func(b array.Builder) {
			if err := b.UnmarshalJSON([]byte(c.json)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		})
		_, err := New(t.Context(), Params{}, Config{Source: src})
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "":
			if !errors.Is(err, ErrTable) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
}

// Tables without rows, or without columns, are said to be so.
func TestEmptyTables(t *testing.T) {
	t.Parallel()
	_, err := newMade(t).open(Params{})
	mention(t, err, ErrNoSignals, "0 rows")
	_, err = newMade(t).add(1, nil).open(Params{})
	mention(t, err, ErrLabels, "1 without labels")
	_, err = newMade(t).add(1, nil).open(Params{OnBad: OnBadDrop})
	mention(t, err, ErrNoSignals, "kept 0 of 1 recordings: 1 without labels", "recording "+id(1).String())
	// Where nothing is left, the first reasons are all that there is to go by.
	_, err = newMade(t).add(1, nil).labelled().open(Params{OnBad: OnBadDrop, Encoding: map[string]uint8{"other": 0}})
	mention(t, err, ErrNoSignals, "1 with labels that the encoding lacks", "recording "+id(1).String(), `"x" at`)
	src := newMade(t).add(1, nil).labelled().source().(files)
	src["onda.annotations.arrow"] = build(t, nil, func(*array.RecordBuilder) {})
	_, err = New(t.Context(), Params{}, Config{Source: src})
	mention(t, err, ErrTable, "label", "0 columns of this name")
}

// Units of one quantity are one, as people write them, and others are not.
func TestUnitSpellings(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{
		"uV", "µV", "μV", "microvolt", "Microvolts", "micro_volt", " uV ", "mV", "nV", "V", "volt", "millivolts", "kV",
	} {
		m := newMade(t).add(1, nil).add(2, func(s *Signal) { s.Unit = unit }).labelled()
		if _, err := m.open(Params{}); err != nil {
			t.Errorf("%q: %v", unit, err)
		}
	}
	for _, unit := range []string{"", "uA", "mmHg", "%", "unknown", "UV", "mv"} {
		m := newMade(t).add(1, nil).add(2, func(s *Signal) { s.Unit = unit }).labelled()
		_, err := m.open(Params{})
		mention(t, err, ErrUnlike, id(1).String(), id(2).String())
	}
}

// Rates that differ are refused both ways, and those that a writer rounded are not.
func TestRatesThatDiffer(t *testing.T) {
	t.Parallel()
	for hz, alike := range map[float64]bool{100: true, 100.00001: true, 99.9: false, 100.04: false, 100.001: false} {
		m := newMade(t)
		for i, rate := range []float64{100, hz} {
			m.add(byte(i+1), func(s *Signal) { s.SampleRate = rate })
		}
		for range 2 {
			_, err := m.labelled().open(Params{OnBad: OnBadRefuse})
			if alike && err != nil {
				t.Errorf("%v: %v", hz, err)
			}
			if !alike {
				mention(t, err, ErrUnlike, fmt.Sprint(hz), id(1).String(), id(2).String())
			}
			m.signals[0], m.signals[1], m.notes = m.signals[1], m.signals[0], nil
		}
	}
}

// Float samples that are no numbers come as they are; what is computed of them says so.
func TestNoNumbers(t *testing.T) {
	t.Parallel()
	m := newMade(t)
	raw := make([]byte, 4000)
	nan := math.Float32bits(float32(math.NaN()))
	for i := range 1000 {
		copy(raw[4*i:], []byte{byte(nan), byte(nan >> 8), byte(nan >> 16), byte(nan >> 24)})
	}
	m.files["0.lpcm"] = raw
	m.add(1, func(s *Signal) { s.SampleType, s.Channels = "float32", []string{"a"} }).labelled()
	d := m.must(Params{})
	_, batch, _ := take(t, d, d.start)
	for _, v := range view[float32](t, batch, "x", 16, 1, 100) {
		if !math.IsNaN(float64(v)) {
			t.Fatalf("%v", v)
		}
	}
	if n, err := Normalize(t.Context(), Params{}, Config{Source: m.source()}, nil); err == nil {
		t.Errorf("%+v", n)
	}
}

// A path may be relative, absolute, or a URL with escapes; it never leaves the folder.
func TestPathSpellings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := "with a blank #1 %41.lpcm"
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", name), bytes.Repeat([]byte{1, 0}, 2000), 0o644)); err != nil {
		t.Fatal(err)
	}
	const escaped = "/sub/with%20a%20blank%20%231%20%2541.lpcm"
	for path, ok := range map[string]bool{
		"sub/" + name: true, "./sub/" + name: true, "sub/../sub/" + name: true, filepath.Join(dir, "sub", name): true,
		"file://" + dir + escaped: true, "FILE://localhost" + dir + escaped: true,
		escaped[1:]: false, "../" + filepath.Base(dir) + "/sub/" + name: false, "/etc/hostname": false,
		"file://elsewhere" + dir + "/sub/" + name: false, "sub": false, "": false,
	} {
		m := newMade(t).add(1, func(s *Signal) { s.Path = path }).labelled()
		m.source()
		for _, table := range []string{"onda.signals.arrow", "onda.annotations.arrow"} {
			if err := os.WriteFile(filepath.Join(dir, table), m.files[table], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		d, err := New(t.Context(), Params{Dir: dir}, Config{})
		if ok != (err == nil) {
			t.Errorf("%q: %v", path, err)
			continue
		}
		if ok {
			take(t, d, d.start)
		}
	}
}

// Spans begin at any nanosecond, and recordings may be 30 years from where their spans count.
func TestOddSpans(t *testing.T) {
	t.Parallel()
	for _, start := range []time.Duration{1, 999_999_999, 1<<53 + 1, 1<<59 + 7} {
		for _, hz := range []float64{10, 7, 3.3, 99.9 / 9} {
			m := newMade(t).add(1, func(s *Signal) {
				s.Channels, s.SampleRate = []string{"a"}, hz
				s.Span = Span{start, start + 100*time.Second}
			}).labelled()
			raw := make([]byte, len(m.files["0.lpcm"]))
			for i := range len(raw) / 2 {
				raw[2*i], raw[2*i+1] = byte(i), byte(i>>8)
			}
			m.files["0.lpcm"] = raw
			m.signals[0].Resolution, m.signals[0].Offset = 1, 0
			d := m.must(Params{BatchSize: 1, Mode: ModeEpochs, Epochs: 1})
			for state := d.start; ; {
				job, next, err := d.Next(state)
				if err != nil {
					break
				}
				batch, err := d.Materialize(t.Context(), job)
				if err != nil {
					t.Fatal(err)
				}
				x, _ := batch.Get("x")
				at := float64(job.Items[0].Start-int64(start)) / 1e9 * hz
				first := view[float32](t, batch, "x", x.Shape...)[0]
				if off := at - float64(first); off < -1e-6 || off >= 1 {
					t.Errorf("from %d at %v Hz: the window at %v begins with sample %v, want that at or before %v", start, hz,
						job.Items[0].Start, first, at)
				}
				state = next
			}
		}
	}
}
