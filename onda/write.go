package onda

import (
	"fmt"
	"io"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/google/uuid"
)

// Compression of the buffers of a table.
type Compression string

// The compressions that the Arrow IPC format knows.
const (
	Uncompressed Compression = "none"
	LZ4          Compression = "lz4"
	Zstd         Compression = "zstd"
)

// TableFormat says how a table is written. The zero value is the IPC file
// format with zstd, which is what Onda data sets usually are.
type TableFormat struct {
	// Stream writes the IPC stream format. Defaults to the file format.
	Stream bool
	// Compression of the buffers. Defaults to Zstd.
	Compression Compression
}

// WriteSignals writes an onda.signal@2 table. Equal signals give equal bytes.
func WriteSignals(w io.Writer, format TableFormat, signals []Signal) error {
	fields := []arrow.Field{
		{Name: columnRecording, Type: uuidType, Metadata: extension("JuliaLang.UUID")},
		{Name: "file_path", Type: arrow.BinaryTypes.String},
		{Name: "file_format", Type: arrow.BinaryTypes.String},
		{Name: columnSpan, Type: spanType, Metadata: extension("JuliaLang.TimeSpan")},
		{Name: "sensor_label", Type: arrow.BinaryTypes.String},
		{Name: "sensor_type", Type: arrow.BinaryTypes.String},
		{Name: "channels", Type: arrow.ListOf(arrow.BinaryTypes.String)},
		{Name: "sample_unit", Type: arrow.BinaryTypes.String},
		{Name: "sample_resolution_in_unit", Type: arrow.PrimitiveTypes.Float64},
		{Name: "sample_offset_in_unit", Type: arrow.PrimitiveTypes.Float64},
		{Name: "sample_type", Type: arrow.BinaryTypes.String},
		{Name: "sample_rate", Type: arrow.PrimitiveTypes.Float64},
	}
	return writeTable(w, format, "onda.signal@2>onda.samples-info@2", fields, func(b *array.RecordBuilder) {
		for i := range signals {
			s := &signals[i]
			appendUUID(b.Field(0), s.Recording)
			appendSpan(b.Field(3), s.Span)
			for at, text := range map[int]string{
				1: s.Path, 2: s.Format, 4: s.SensorLabel, 5: s.SensorType, 7: s.Unit, 10: s.SampleType,
			} {
				b.Field(at).(*array.StringBuilder).Append(text)
			}
			list := b.Field(6).(*array.ListBuilder)
			list.Append(true)
			for _, c := range s.Channels {
				list.ValueBuilder().(*array.StringBuilder).Append(c)
			}
			for at, number := range map[int]float64{8: s.Resolution, 9: s.Offset, 11: s.SampleRate} {
				b.Field(at).(*array.Float64Builder).Append(number)
			}
		}
	})
}

// WriteAnnotations writes an onda.annotation@1 table with the labels in the
// named text column. Equal annotations give equal bytes.
func WriteAnnotations(w io.Writer, format TableFormat, labelColumn string, annotations []Annotation) error {
	fields := []arrow.Field{
		{Name: columnRecording, Type: uuidType, Metadata: extension("JuliaLang.UUID")},
		{Name: columnID, Type: uuidType, Metadata: extension("JuliaLang.UUID")},
		{Name: columnSpan, Type: spanType, Metadata: extension("JuliaLang.TimeSpan")},
		{Name: labelColumn, Type: arrow.BinaryTypes.String},
	}
	return writeTable(w, format, "onda.annotation@1", fields, func(b *array.RecordBuilder) {
		for i := range annotations {
			a := &annotations[i]
			appendUUID(b.Field(0), a.Recording)
			appendUUID(b.Field(1), a.ID)
			appendSpan(b.Field(2), a.Span)
			b.Field(3).(*array.StringBuilder).Append(a.Label)
		}
	})
}

var (
	uuidType = &arrow.FixedSizeBinaryType{ByteWidth: len(uuid.UUID{})}
	spanType = arrow.StructOf(
		arrow.Field{Name: "start", Type: arrow.FixedWidthTypes.Duration_ns},
		arrow.Field{Name: "stop", Type: arrow.FixedWidthTypes.Duration_ns},
	)
)

// extension marks a column as a Julia type, as Arrow.jl does.
func extension(name string) arrow.Metadata {
	return arrow.NewMetadata([]string{ipc.ExtensionTypeKeyName, ipc.ExtensionMetadataKeyName}, []string{name, ""})
}

func appendUUID(b array.Builder, id uuid.UUID) {
	raw := reversed(id)
	b.(*array.FixedSizeBinaryBuilder).Append(raw[:])
}

func appendSpan(b array.Builder, span Span) {
	s := b.(*array.StructBuilder)
	s.Append(true)
	s.FieldBuilder(0).(*array.DurationBuilder).Append(arrow.Duration(span.Start))
	s.FieldBuilder(1).(*array.DurationBuilder).Append(arrow.Duration(span.Stop))
}

func writeTable(w io.Writer, format TableFormat, schemaName string, fields []arrow.Field, fill func(*array.RecordBuilder)) error {
	meta := arrow.NewMetadata([]string{"legolas_schema_qualified"}, []string{schemaName})
	schema := arrow.NewSchema(fields, &meta)
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	fill(builder)
	rec := builder.NewRecordBatch()
	defer rec.Release()

	opts := []ipc.Option{ipc.WithSchema(schema), ipc.WithCompressConcurrency(1)}
	switch format.Compression {
	case Uncompressed:
	case LZ4:
		opts = append(opts, ipc.WithLZ4())
	case Zstd, "":
		opts = append(opts, ipc.WithZstd())
	default:
		return fmt.Errorf("%w: compression %q", ErrParams, format.Compression)
	}
	var out interface {
		Write(arrow.RecordBatch) error
		Close() error
	}
	if format.Stream {
		out = ipc.NewWriter(w, opts...)
	} else {
		file, err := ipc.NewFileWriter(w, opts...)
		if err != nil {
			return fmt.Errorf("onda: write %s: %w", schemaName, err)
		}
		out = file
	}
	if err := out.Write(rec); err != nil {
		return fmt.Errorf("onda: write %s: %w", schemaName, err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("onda: write %s: %w", schemaName, err)
	}
	return nil
}
