package onda

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

func tableFormats() []TableFormat {
	var out []TableFormat
	for _, stream := range []bool{false, true} {
		for _, c := range []Compression{Uncompressed, LZ4, Zstd} {
			out = append(out, TableFormat{Stream: stream, Compression: c})
		}
	}
	return out
}

func TestTablesRoundTrip(t *testing.T) {
	t.Parallel()
	signals := []Signal{testSignal(1), testSignal(2)}
	signals[1].Channels = []string{"only"}
	signals[1].Format = "lpcm.zst"
	annotations := []Annotation{note(1, 0, 1, "x"), note(1, 1, 30, "y"), note(2, 0.25, 0.75, "")}
	for _, f := range tableFormats() {
		t.Run(fmt.Sprintf("stream=%v,%s", f.Stream, f.Compression), func(t *testing.T) {
			t.Parallel()
			var s, s2, a bytes.Buffer
			for _, w := range []io.Writer{&s, &s2} {
				if err := WriteSignals(w, f, signals); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(s.Bytes(), s2.Bytes()) {
				t.Error("equal signals gave different bytes")
			}
			if err := WriteAnnotations(&a, f, "stage", annotations); err != nil {
				t.Fatal(err)
			}
			src := files{"s": s.Bytes(), "a": a.Bytes()}
			gotSignals, err := ReadSignals(t.Context(), src, "s", "")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(signals, gotSignals); d != "" {
				t.Error(d)
			}
			gotAnnotations, err := ReadAnnotations(t.Context(), src, "a", "stage", "")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(annotations, gotAnnotations); d != "" {
				t.Error(d)
			}
		})
	}
	wantErr(t, WriteSignals(io.Discard, TableFormat{Compression: "rar"}, signals), ErrParams)
}

// build writes a table of one record with the fields that fill appends to.
func build(t testing.TB, fields []arrow.Field, fill func(b *array.RecordBuilder)) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := writeTable(&buf, TableFormat{Stream: true}, "test", fields, fill); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Other writers lay out the same columns in other ways.
func TestColumnLayouts(t *testing.T) {
	t.Parallel()
	dict := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	int64Span := arrow.StructOf(
		arrow.Field{Name: "stop", Type: arrow.PrimitiveTypes.Int64},
		arrow.Field{Name: "start", Type: arrow.PrimitiveTypes.Int64})
	data := build(t, []arrow.Field{
		{Name: "extra", Type: arrow.Null, Nullable: true},
		{Name: "label", Type: dict},
		{Name: "span", Type: int64Span},
		{Name: "number", Type: arrow.PrimitiveTypes.Int16},
		{Name: "flag", Type: arrow.FixedWidthTypes.Boolean},
		{Name: "big", Type: arrow.BinaryTypes.LargeString},
		{Name: "view", Type: arrow.BinaryTypes.StringView},
		{Name: "id", Type: uuidType},
		{Name: "recording", Type: uuidType, Metadata: extension("JuliaLang.UUID")},
	}, func(b *array.RecordBuilder) {
		for i, label := range []string{"x", "y", "x"} {
			b.Field(0).AppendNull()
			if err := b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(label); err != nil {
				t.Fatal(err)
			}
			s := b.Field(2).(*array.StructBuilder)
			s.Append(true)
			s.FieldBuilder(0).(*array.Int64Builder).Append(int64(i+1) * 1e9)
			s.FieldBuilder(1).(*array.Int64Builder).Append(int64(i) * 1e9)
			b.Field(3).(*array.Int16Builder).Append(int16(-i))
			b.Field(4).(*array.BooleanBuilder).Append(i == 1)
			b.Field(5).(*array.LargeStringBuilder).Append(label)
			b.Field(6).(*array.StringViewBuilder).Append(label + " that is longer than twelve bytes")
			appendUUID(b.Field(7), id(9))
			appendUUID(b.Field(8), id(1))
		}
	})
	src := files{"t": data}
	for column, want := range map[string][]string{
		"label": {"x", "y", "x"}, "number": {"0", "-1", "-2"}, "flag": {"false", "true", "false"}, "big": {"x", "y", "x"},
		"view":      {"x that is longer than twelve bytes", "y that is longer than twelve bytes", "x that is longer than twelve bytes"},
		"recording": {id(1).String(), id(1).String(), id(1).String()},
	} {
		got, err := ReadAnnotations(t.Context(), src, "t", column, "number")
		if err != nil {
			t.Errorf("%s: %v", column, err)
			continue
		}
		for i, a := range got {
			if a.Label != want[i] || a.Span != seconds(float64(i), float64(i+1)) || a.Group != fmt.Sprint(-i) || a.Recording != id(1) {
				t.Errorf("%s, row %d: got %+v", column, i, a)
			}
		}
	}
	for _, column := range []string{"span", "extra", "none"} {
		_, err := ReadAnnotations(t.Context(), src, "t", column, "")
		wantErr(t, err, ErrTable)
		var at *TableError
		if !errors.As(err, &at) || at.File != "t" || at.Column != column {
			t.Errorf("got %#v", err)
		}
	}
}

// The bytes of a UUID are those of a little-endian UInt128.
func TestUUIDsAreReversed(t *testing.T) {
	t.Parallel()
	want := uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	data := build(t, []arrow.Field{{Name: "recording", Type: uuidType}}, func(b *array.RecordBuilder) {
		b.Field(0).(*array.FixedSizeBinaryBuilder).Append([]byte("\xff\xee\xdd\xcc\xbb\xaa\x99\x88\x77\x66\x55\x44\x33\x22\x11\x00"))
	})
	err := withTable(t.Context(), files{"t": data}, nil, "t", func(tab *table) error {
		return read(tab, "recording", (*column).uuid, func(_ int, got uuid.UUID) {
			if got != want {
				t.Errorf("got %v", got)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBadTables(t *testing.T) {
	t.Parallel()
	var good bytes.Buffer
	if err := WriteAnnotations(&good, TableFormat{}, "label", []Annotation{note(1, 0, 1, "x")}); err != nil {
		t.Fatal(err)
	}
	fields := []arrow.Field{
		{Name: "recording", Type: uuidType, Nullable: true}, {Name: "id", Type: uuidType},
		{Name: "span", Type: spanType}, {Name: "label", Type: arrow.BinaryTypes.String, Nullable: true},
	}
	row := func(b *array.RecordBuilder, span Span, label bool) {
		appendUUID(b.Field(0), id(1))
		appendUUID(b.Field(1), id(1))
		appendSpan(b.Field(2), span)
		if label {
			b.Field(3).(*array.StringBuilder).Append("x")
		} else {
			b.Field(3).AppendNull()
		}
	}
	for name, c := range map[string]struct {
		data   []byte
		column string
		row    int
	}{
		"empty":      {nil, "", -1},
		"no table":   {[]byte("recording,id,span\n1,2,3\n"), "", -1},
		"only magic": {[]byte("ARROW1\x00\x00"), "", -1},
		"cut":        {good.Bytes()[:good.Len()-9], "", -1},
		"half":       {good.Bytes()[:good.Len()/2], "", -1},
		"missing value": {build(t, fields, func(b *array.RecordBuilder) {
			row(b, seconds(0, 1), true)
			row(b, seconds(1, 2), false)
		}), "label", 1},
		"backward span": {build(t, fields, func(b *array.RecordBuilder) { row(b, seconds(2, 1), true) }), "span", 0},
		"negative span": {build(t, fields, func(b *array.RecordBuilder) { row(b, seconds(-2, 1), true) }), "span", 0},
		"two columns": {build(t, append(fields[:4:4], fields[3]), func(b *array.RecordBuilder) {
			row(b, seconds(0, 1), true)
			b.Field(4).(*array.StringBuilder).Append("x")
		}), "label", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadAnnotations(t.Context(), files{"t": c.data}, "t", "label", "")
			wantErr(t, err, ErrTable)
			if errors.Is(err, io.EOF) {
				t.Errorf("%v must not look like the end of the data", err)
			}
			var at *TableError
			if !errors.As(err, &at) || at.Column != c.column || at.Row != c.row {
				t.Errorf("got %#v, want column %q, row %d", at, c.column, c.row)
			}
		})
	}
}

func TestBadSignals(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Signal){
		"no channels":        func(s *Signal) { s.Channels = nil },
		"channel twice":      func(s *Signal) { s.Channels = []string{"a", "a"} },
		"no rate":            func(s *Signal) { s.SampleRate = 0 },
		"negative rate":      func(s *Signal) { s.SampleRate = -1 },
		"rate beyond nanos":  func(s *Signal) { s.SampleRate = 2e9 },
		"format":             func(s *Signal) { s.Format = "flac" },
		"sample type":        func(s *Signal) { s.SampleType = "int24" },
		"no path":            func(s *Signal) { s.Path = "" },
		"more than an int64": func(s *Signal) { s.SampleRate, s.SampleType, s.Span.Stop = 1e9, "int64", maxTime },
	} {
		s := testSignal(1)
		spoil(&s)
		var buf bytes.Buffer
		if err := WriteSignals(&buf, TableFormat{}, []Signal{testSignal(2), s}); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSignals(t.Context(), files{"t": buf.Bytes()}, "t", "")
		if !errors.Is(err, ErrSignal) || !errors.Is(err, ErrTable) || !strings.Contains(err.Error(), "row 1") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A file that says its buffers are huge must not be believed.
func TestTableBomb(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit, budget int64
		want          error
	}{{1000, 100, ErrTooLarge}, {100, 1000, ErrTable}} {
		alloc := &boundedAllocator{
			Allocator: memory.DefaultAllocator, limit: c.limit, budget: &budget{limit: c.budget},
		}
		err := guard("bomb", func() error {
			b := alloc.Allocate(60)
			b = alloc.Reallocate(90, b)
			alloc.Free(b)
			alloc.Allocate(11)
			return nil
		})
		wantErr(t, err, c.want)
	}
}

// A table that states more rows than it has values for is damaged: it is not a
// table that is too large.
func TestRowsWithoutValues(t *testing.T) {
	t.Parallel()
	const rows = 1<<29 + 1
	short := array.NewData(uuidType, rows,
		[]*memory.Buffer{nil, memory.NewBufferBytes(make([]byte, 32))}, nil, 0, 0)
	for name, c := range map[string]struct {
		values arrow.Array
		column string
	}{
		"null":   {array.NewNull(rows), columnRecording},
		"absent": {array.NewNull(rows), "other"},
		"short":  {array.MakeFromData(short), columnRecording},
	} {
		field := arrow.Field{Name: c.column, Type: c.values.DataType(), Nullable: true}
		schema := arrow.NewSchema([]arrow.Field{field}, nil)
		tab := &table{
			file: "t", budget: &budget{limit: 1 << 20}, schema: schema,
			records: []arrow.RecordBatch{array.NewRecordBatch(schema, []arrow.Array{c.values}, rows)},
		}
		err := guard("t", func() error {
			_, err := tab.signals("")
			return err
		})
		if wantErr(t, err, ErrTable); errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Whatever the bytes are, reading ends in rows or in a typed error: no panic,
// no io.EOF, rows that agree with one another.
func FuzzReadTables(f *testing.F) {
	for _, format := range tableFormats() {
		var s, a bytes.Buffer
		if err := errors.Join(
			WriteSignals(&s, format, []Signal{testSignal(1)}),
			WriteAnnotations(&a, format, "label", []Annotation{note(1, 0, 1, "x"), note(1, 1, 2, "y")}),
		); err != nil {
			f.Fatal(err)
		}
		f.Add(s.Bytes())
		f.Add(a.Bytes())
	}
	f.Add(ipc.Magic)
	// A small table can be compressed from one that is too large.
	typed := func(err error) bool { return errors.Is(err, ErrTable) || errors.Is(err, ErrTooLarge) }
	f.Fuzz(func(t *testing.T, data []byte) {
		src := files{"t": data}
		signals, err := ReadSignals(t.Context(), src, "t", "")
		if err != nil && !typed(err) || errors.Is(err, io.EOF) {
			t.Fatalf("signals: %v", err)
		}
		for i := range signals {
			if err := signals[i].Validate(); err != nil {
				t.Fatal(err)
			}
		}
		annotations, err := ReadAnnotations(t.Context(), src, "t", "label", "")
		if err != nil && !typed(err) || errors.Is(err, io.EOF) {
			t.Fatalf("annotations: %v", err)
		}
		for _, a := range annotations {
			if a.Span.Start < 0 || a.Span.Stop < a.Span.Start {
				t.Fatalf("span %v", a.Span)
			}
		}
	})
}
