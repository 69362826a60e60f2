package onda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/float16"
	"github.com/google/uuid"
)

// uuidExtension is arrow.uuid.
type uuidExtension struct{ arrow.ExtensionBase }

func (*uuidExtension) ExtensionName() string { return canonicalUUID }
func (*uuidExtension) Serialize() string     { return "" }
func (*uuidExtension) ArrayType() reflect.Type {
	return reflect.TypeFor[uuidArray]()
}
func (u *uuidExtension) ExtensionEquals(other arrow.ExtensionType) bool {
	return u.ExtensionName() == other.ExtensionName()
}
func (u *uuidExtension) Deserialize(arrow.DataType, string) (arrow.ExtensionType, error) {
	return u, nil
}

type uuidArray struct{ array.ExtensionArrayBase }

// UUIDs in the canonical order, as the column's extension type says, whether or
// not the library knows that type; as text; and behind a dictionary.
func TestUUIDLayouts(t *testing.T) {
	t.Parallel()
	want := uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	raw := func(b array.Builder) { b.(*array.FixedSizeBinaryBuilder).Append(want[:]) }
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	for name, c := range map[string]struct {
		field arrow.Field
		add   func(array.Builder)
	}{
		"metadata": {arrow.Field{Type: uuidType, Metadata: extension(canonicalUUID)}, raw},
		"Julia": {arrow.Field{Type: uuidType, Metadata: extension("JuliaLang.UUID")}, func(b array.Builder) {
			appendUUID(b, want)
		}},
		"text": {arrow.Field{Type: arrow.BinaryTypes.String},
			func(b array.Builder) { b.(*array.StringBuilder).Append(want.String()) }},
		"dictionary": {arrow.Field{Type: dict},
			func(b array.Builder) { b.(*array.BinaryDictionaryBuilder).AppendString(want.String()) }},
	} {
		c.field.Name = "recording"
		data := build(t, []arrow.Field{c.field}, func(b *array.RecordBuilder) { c.add(b.Field(0)) })
		n := 0
		check := func(tab *table) error {
			return errors.Join(
				read(tab, "recording", (*column).uuid, func(_ int, got uuid.UUID) {
					if n++; got != want {
						t.Errorf("%s: got %v", name, got)
					}
				}),
				read(tab, "recording", (*column).text, func(_ int, got string) {
					if got != want.String() {
						t.Errorf("%s: as text %v", name, got)
					}
				}))
		}
		if err := withTable(t.Context(), files{"t": data}, nil, "t", check); err != nil || n != 1 {
			t.Errorf("%s: %d rows, %v", name, n, err)
		}
		if name != "metadata" {
			continue
		}
		// As a library gives it that knows the type.
		err := withTable(t.Context(), files{"t": data}, nil, "t", func(tab *table) error {
			known := &uuidExtension{arrow.ExtensionBase{Storage: uuidType}}
			a := array.NewExtensionArrayWithStorage(known, tab.records[0].Column(0))
			defer a.Release()
			tab.schema = arrow.NewSchema([]arrow.Field{{Name: "recording", Type: known}}, nil)
			rec := array.NewRecordBatch(tab.schema, []arrow.Array{a}, 1)
			defer rec.Release()
			return check(&table{file: "t", schema: tab.schema, records: []arrow.RecordBatch{rec}})
		})
		if err != nil || n != 2 {
			t.Errorf("extension: %d rows, %v", n, err)
		}
	}
}

// Numbers as labels keep their value; spans and rates come in several types;
// columns that nobody asks for may be anything.
func TestNumberLayouts(t *testing.T) {
	t.Parallel()
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.PrimitiveTypes.Float64}
	span := arrow.StructOf(
		arrow.Field{Name: "start", Type: arrow.PrimitiveTypes.Uint64},
		arrow.Field{Name: "stop", Type: arrow.FixedWidthTypes.Duration_ms})
	data := build(t, []arrow.Field{
		{Name: "recording", Type: uuidType}, {Name: "id", Type: uuidType}, {Name: "span", Type: span},
		{Name: "stage", Type: arrow.PrimitiveTypes.Int8}, {Name: "float", Type: arrow.PrimitiveTypes.Float64},
		{Name: "half", Type: arrow.FixedWidthTypes.Float16}, {Name: "single", Type: arrow.PrimitiveTypes.Float32},
		{Name: "coded", Type: dict},
		{Name: "either", Type: arrow.SparseUnionOf([]arrow.Field{
			{Name: "a", Type: arrow.PrimitiveTypes.Int8}, {Name: "b", Type: arrow.BinaryTypes.String}},
			[]arrow.UnionTypeCode{0, 1})},
	}, func(b *array.RecordBuilder) {
		for i, stage := range []int8{10, 9, 2} {
			appendUUID(b.Field(0), id(1))
			appendUUID(b.Field(1), id(byte(i)))
			s := b.Field(2).(*array.StructBuilder)
			s.Append(true)
			s.FieldBuilder(0).(*array.Uint64Builder).Append(uint64(i) * 20e9)
			s.FieldBuilder(1).(*array.DurationBuilder).Append(arrow.Duration(i+1) * 20e3)
			b.Field(3).(*array.Int8Builder).Append(stage)
			b.Field(4).(*array.Float64Builder).Append(float64(stage))
			b.Field(5).(*array.Float16Builder).Append(float16.New(float32(stage)))
			b.Field(6).(*array.Float32Builder).Append(99.9)
			if err := b.Field(7).(*array.Float64DictionaryBuilder).Append(0.25); err != nil {
				t.Fatal(err)
			}
			u := b.Field(8).(*array.SparseUnionBuilder)
			u.Append(0)
			u.Child(0).(*array.Int8Builder).Append(1)
			u.Child(1).AppendNull()
		}
	})
	m := newMade(t).add(1, nil)
	src := m.source().(files)
	src["onda.annotations.arrow"] = data
	for _, column := range []string{"stage", "float", "half"} {
		d, err := New(t.Context(), Params{LabelColumn: column}, Config{Source: src})
		if err != nil {
			t.Fatal(err)
		}
		labels := d.Signals()[0].Labels.All()
		if len(labels) != 60 || labels[0] != 10 || labels[20] != 9 || labels[40] != 2 {
			t.Errorf("%s: %v", column, labels)
		}
	}
	if _, err := New(t.Context(), Params{LabelColumn: "coded"}, Config{Source: src}); !errors.Is(err, ErrTable) ||
		!strings.Contains(err.Error(), "0.25 is not a whole number") {
		t.Errorf("got %v", err)
	}
	if _, err := New(t.Context(), Params{LabelColumn: "either"}, Config{Source: src}); !errors.Is(err, ErrTable) ||
		!strings.Contains(err.Error(), "union") {
		t.Errorf("got %v", err)
	}
	for name, want := range map[string]float64{"single": 99.9, "coded": 0.25, "half": 10} {
		err := withTable(t.Context(), src, nil, "onda.annotations.arrow", func(tab *table) error {
			return read(tab, name, (*column).float, func(row int, v float64) {
				if row == 0 && v != want {
					t.Errorf("%s is %v", name, v)
				}
			})
		})
		if err != nil {
			t.Error(err)
		}
	}
	_, err := numberEncoding([]string{"3", "256"})
	mention(t, err, ErrEncoding, "256")
	_, err = numberEncoding([]string{"-1"})
	mention(t, err, ErrEncoding, "-1")
}

// Labels that are missing cost their recording, and are counted also where the
// recording has no signal.
func TestMissingLabels(t *testing.T) {
	t.Parallel()
	m := newMade(t).add(1, nil).add(2, nil)
	src := m.source().(files)
	src["onda.annotations.arrow"] = build(t, []arrow.Field{
		{Name: "recording", Type: uuidType}, {Name: "id", Type: uuidType}, {Name: "span", Type: spanType},
		{Name: "label", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "number", Type: arrow.PrimitiveTypes.Float64},
	}, func(b *array.RecordBuilder) {
		for i, n := range []byte{1, 2, 2, 3} {
			appendUUID(b.Field(0), id(n))
			appendUUID(b.Field(1), id(byte(i)))
			appendSpan(b.Field(2), seconds(float64(i*20), float64(i*20+20)))
			if i >= 2 {
				b.Field(3).AppendNull()
				b.Field(4).(*array.Float64Builder).Append(math.NaN())
				continue
			}
			b.Field(3).(*array.StringBuilder).Append("x")
			b.Field(4).(*array.Float64Builder).Append(1)
		}
	})
	for _, column := range []string{"label", "number"} {
		p := Params{LabelColumn: column}
		about, err := Describe(t.Context(), p, Config{Source: src})
		if err != nil || about.MissingLabels != 2 || len(about.Labels) != 1 || about.Labels[0].Annotations != 2 ||
			about.Labels[0].Recordings != 2 || about.Unlabeled != 0 {
			t.Errorf("%+v, %v", about, err)
		}
		_, err = New(t.Context(), p, Config{Source: src})
		mention(t, err, ErrLabels, "1 with a label that is missing", id(2).String(),
			"1 with labels and without a signal", id(3).String())
		p.OnBad = OnBadDrop
		d, err := New(t.Context(), p, Config{Source: src})
		if err != nil || d.Report().String() !=
			"kept 1 of 2 recordings: 1 with a label that is missing; 1 with labels and without a signal" {
			t.Errorf("%v, %v", d.Report(), err)
		}
	}
}

// A folder of signals alone is described, too.
func TestDescribeWithoutLabels(t *testing.T) {
	t.Parallel()
	src := newMade(t).add(1, nil).source().(files)
	delete(src, "onda.annotations.arrow")
	if about, err := Describe(t.Context(), Params{}, Config{Source: src}); err != nil || about.Recordings != 1 ||
		about.Unlabeled != 1 {
		t.Errorf("%+v, %v", about, err)
	}
	_, err := Describe(t.Context(), Params{Annotations: "onda.annotations.arrow"}, Config{Source: src})
	mention(t, err, fs.ErrNotExist)
}

// One opening stays within its bytes, whatever tables and parameters ask for.
func TestOpeningBudget(t *testing.T) {
	t.Parallel()
	// A dictionary's value of 4,000 bytes for each of 100,000 rows, compressed to
	// a few kilobytes.
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	var bomb bytes.Buffer
	const rows = 100_000
	fields := []arrow.Field{
		{Name: "recording", Type: uuidType}, {Name: "id", Type: uuidType}, {Name: "span", Type: spanType},
		{Name: "label", Type: dict},
	}
	if err := writeTable(&bomb, TableFormat{}, "test", fields, func(b *array.RecordBuilder) {
		for range rows {
			appendUUID(b.Field(0), id(1))
			appendUUID(b.Field(1), id(1))
			appendSpan(b.Field(2), seconds(0, 100))
			if err := b.Field(3).(*array.BinaryDictionaryBuilder).AppendString(strings.Repeat("x", 4000)); err != nil {
				t.Fatal(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	if bomb.Len() > 200_000 {
		t.Fatalf("the table has %d bytes", bomb.Len())
	}
	b := &budget{limit: 64 << 20}
	got, err := readLabels(t.Context(), files{"t": bomb.Bytes()}, b, "t", "label", "")
	if err != nil || len(got.rows) != rows || b.taken.Load() > 3<<20 {
		t.Errorf("%d rows, %d bytes held, %v", len(got.rows), b.taken.Load(), err)
	}

	m := newMade(t).add(1, nil).labelled()
	src := m.source().(files)
	for name, c := range map[string]struct {
		src    Source
		p      Params
		budget int64
	}{
		"a table's rows": {files{"onda.signals.arrow": src["onda.signals.arrow"],
			"onda.annotations.arrow": bomb.Bytes()}, Params{}, 2 << 20},
		"a table's file": {src, Params{}, 100},
		"signals":        {src, Params{}, 1000},
	} {
		_, err := New(t.Context(), c.p, Config{Source: c.src, OpenBytes: c.budget})
		var over *BudgetError
		if !errors.Is(err, ErrTooLarge) || !errors.Is(err, ErrParams) || !errors.As(err, &over) ||
			over.Limit != c.budget {
			t.Errorf("%s: got %v", name, err)
		}
	}
	notes := []Annotation{note(1, 0, 10, "x"), note(1, 10, 20, "y"), note(1, 20, 100, "x")}
	cfg := LabelConfig{Duration: time.Second, Encoding: map[string]uint8{"x": 0, "y": 1}}
	cfg.budget = &budget{limit: 3*runBytes - 1}
	_, err = cfg.encode(notes, false)
	mention(t, err, ErrTooLarge, "the labels takes 15 bytes")
	cfg.budget = nil
	labelled, err := LabelSignals([]Signal{testSignal(1)}, notes, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := Params{ClassWeights: map[string]float64{"x": 2}}.resolved()
	_, err = p.iterator(&opened{signals: labelled, encoding: cfg.Encoding}, &budget{limit: 3*8 - 1}, false)
	mention(t, err, ErrTooLarge, "the weights of labels takes 24 bytes")
	if openBytes(math.MaxInt64) != 512<<20 || openBytes(300<<20) != 150<<20 {
		t.Error("the default is neither half of GOMEMLIMIT nor 512 MiB")
	}
	if cacheBytes(math.MaxInt64) != 256<<20 || cacheBytes(300<<20) != 75<<20 {
		t.Error("the default is neither a quarter of GOMEMLIMIT nor 256 MiB")
	}
	// Text is bounded, too.
	text := build(t, []arrow.Field{{Name: "x", Type: arrow.BinaryTypes.String}}, func(b *array.RecordBuilder) {
		b.Field(0).(*array.StringBuilder).Append(strings.Repeat("x", maxText+1))
	})
	err = withTable(t.Context(), files{"t": text}, nil, "t", func(tab *table) error {
		return read(tab, "x", (*column).text, func(int, string) {})
	})
	mention(t, err, ErrTable, "4097 bytes")
}

// bigFile is an endless file that counts what is read of it.
type bigFile struct {
	head []byte
	read int64
}

func (f *bigFile) Open(context.Context, string) (Object, error) { return f, nil }
func (f *bigFile) Size() int64                                  { return 1 << 29 }
func (f *bigFile) Close() error                                 { return nil }
func (f *bigFile) ReadAt(p []byte, off int64) (int, error) {
	f.read += int64(len(p))
	clear(p)
	if off < int64(len(f.head)) {
		copy(p, f.head[off:])
	}
	return len(p), nil
}

// A file that is no table is refused by its first bytes.
func TestAnyFileIsNoTable(t *testing.T) {
	t.Parallel()
	var stream bytes.Buffer
	if err := WriteSignals(&stream, TableFormat{Stream: true}, []Signal{testSignal(1)}); err != nil {
		t.Fatal(err)
	}
	recordFirst := slices.Clone(stream.Bytes())
	schema := 8 + int(recordFirst[4]) + int(recordFirst[5])<<8
	for name, head := range map[string][]byte{
		"zeros": nil, "text": []byte("root:x:0:0:root:/root:/bin/bash\n"), "mark": []byte("\xff\xff\xff\xff"),
		"mark and length": []byte("\xff\xff\xff\xff\x00\x10\x00\x00"), "length": []byte("\x00\x10\x00\x00"),
		"no schema": recordFirst[schema:],
	} {
		f := &bigFile{head: head}
		_, err := ReadSignals(t.Context(), f, "t", "")
		mention(t, err, ErrTable, "not an Arrow table")
		if f.read > sniffBytes || errors.Is(err, io.EOF) {
			t.Errorf("%s: %d bytes were read, %v", name, f.read, err)
		}
	}
	// A schema that is longer than what is looked at.
	var fields []arrow.Field
	for i := range 2000 {
		fields = append(fields, arrow.Field{Name: fmt.Sprint("column", i), Type: arrow.PrimitiveTypes.Int8})
	}
	wide := build(t, fields, func(b *array.RecordBuilder) {
		for _, f := range b.Fields() {
			f.(*array.Int8Builder).Append(1)
		}
	})
	err := withTable(t.Context(), files{"t": wide}, nil, "t", func(tab *table) error {
		if n := tab.schema.NumFields(); n != 2000 {
			t.Errorf("%d columns", n)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
